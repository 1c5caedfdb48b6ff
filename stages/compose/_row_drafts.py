"""A row on its way: its last answer, the turn that it answers, and where constraints go there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from stages._constraints.conflicts import conflicts
from stages._constraints.constraint import Constraint
from stages._constraints.stored import stored
from stages._llm.row_turns import licenses_of, row_turns
from stages._llm.rows import Rejection, Row, make_row


class Draft(NamedTuple):
    """A row before it has constraints.

    Attributes:
        id: Its id.
        messages: Its turns.
        tools: The definitions of its tools.
        input_start: Where its input begins in the first user turn.
        license: Its license.
        asking: The number of the last user turn; None without any.
        end: Where the instruction ends in that turn, where an input follows it there.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    tools: str | None
    input_start: int | None
    license: str | None
    asking: int | None
    end: int | None

    @property
    def answer(self) -> str:
        """The content of the last turn, if that is an answer."""
        last = self.messages[-1]
        return (last["content"] or "") if last["role"] == "assistant" else ""

    @property
    def request(self) -> str:
        """The user turn that is answered, without a separate input."""
        content = "" if self.asking is None else self.messages[self.asking]["content"]
        return (content or "")[: self.end].strip()

    def rejection(self, *, needs_answer: bool = True) -> Rejection | None:
        """Why the row can get no constraints; None where it can.

        Args:
            needs_answer: Whether its own answer is to follow them.
        """
        roles = [turn["role"] for turn in self.messages]
        if needs_answer and (self.asking is None or roles[-1] != "assistant"):
            return "no_answer", {"roles": roles}
        if needs_answer and not self.answer.strip():
            return "no_answer", {"role": "assistant"}
        if not self.request:
            return "no_request", {"role": "user"}
        if not needs_answer:
            return None
        if self.messages[-1].get("train") is False:
            return "not_trained", {}
        return None

    def dropped(self, reason: str, evidence: dict[str, Any]) -> Row:
        """The row as one that is not used, as it was.

        Args:
            reason: Why.
            evidence: What shows it.
        """
        row = make_row(
            [*self.messages],  # type: ignore[list-item]
            self.input_start,
            tools=self.tools,
            license=self.license,
            parents=[self.id],
            extra={},
            rejection=(reason, evidence),
        )
        return row | {"id": self.id}

    def asked(self, wordings: Sequence[str]) -> tuple[list[Any], int | None]:
        """The turns up to the request, with sentences behind it, and where its input begins.

        Args:
            wordings: The sentences that are added to the request.
        """
        assert self.asking is not None, "a row without a request is dropped"
        *before, turn = self.messages[: self.asking + 1]
        if not wordings:
            return [*before, turn], self.input_start
        input_start = self.input_start
        content = turn["content"][: self.end].rstrip() + "\n\n" + "\n".join(wordings)
        if self.end is not None:
            input_start = len(content) + 2
            content += "\n\n" + turn["content"][self.end :]
        return [*before, {**turn, "content": content}], input_start

    def row(self, answer: str, chosen: Sequence[Constraint], wordings: Sequence[str]) -> Row:
        """The new row, or the old one dropped: every constraint must hold of the final text.

        Args:
            answer: The answer, with what was changed of it.
            chosen: The constraints.
            wordings: The sentences that are added to the request.
        """
        kinds = [one.kind for one in chosen]
        if conflicts(chosen):
            return self.dropped("conflict", {"kinds": kinds})
        if failed := [one.kind for one in chosen if not one.holds(answer)]:
            return self.dropped("not_satisfied", {"kinds": failed})
        messages, input_start = self.asked(wordings)
        last: Any = {**self.messages[-1], "content": answer}
        between: list[Any] = [*self.messages[len(messages) : -1]]
        return make_row(
            [*messages, *between, last],
            input_start,
            tools=self.tools,
            license=self.license,
            parents=[self.id],
            extra=stored(chosen),
            constraint_kinds=kinds,
            # Where the answer is as it was, what holds of it has just been checked.
            trivially_true=answer == self.answer or all(one.holds(self.answer) for one in chosen),
        )


def drafts_of(rows: pl.DataFrame) -> list[Draft]:
    """A draft of each row.

    Args:
        rows: Records.
    """
    names = ("id", "tools", "input_start")
    others = [rows[name].to_list() for name in names]
    turns, licenses = row_turns(rows["messages"]), licenses_of(rows["origins"])
    return [_draft(*values) for values in zip(*others, turns, licenses, strict=True)]


def _draft(
    id_: str,
    tools: str | None,
    input_start: int | None,
    messages: Sequence[Mapping[str, Any]],
    license: str | None,
) -> Draft:
    users = [number for number, turn in enumerate(messages) if turn["role"] == "user"]
    asking = users[-1] if users else None
    end = input_start if len(users) == 1 else None
    return Draft(id_, messages, tools, input_start, license, asking, end)
