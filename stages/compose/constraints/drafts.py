"""A row on its way: its last answer, the turn that it answers, and where constraints go there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from stages._constraints.conflicts import conflicts
from stages._constraints.constraint import Constraint
from stages._constraints.stored import stored
from stages._llm.rows import Rejection, Row, license_of, make_row


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
        """The content of the last turn."""
        return self.messages[-1]["content"] or ""

    @property
    def request(self) -> str:
        """The user turn that is answered, without a separate input."""
        content = "" if self.asking is None else self.messages[self.asking]["content"]
        return (content or "")[: self.end].strip()

    def rejection(self) -> Rejection | None:
        """Why the row can get no constraints; None where it can."""
        roles = [turn["role"] for turn in self.messages]
        if self.asking is None or roles[-1] != "assistant":
            return "no_answer", {"roles": roles}
        if not self.answer.strip():
            return "no_answer", {"role": "assistant"}
        if not self.request:
            return "no_request", {"role": "user"}
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
        messages: list[Any] = [*self.messages]
        messages[-1] = {**messages[-1], "content": answer}
        input_start = self.input_start
        if wordings and self.asking is not None:
            turn = messages[self.asking]
            content = turn["content"][: self.end].rstrip() + "\n\n" + "\n".join(wordings)
            if self.end is not None:
                input_start = len(content) + 2
                content += "\n\n" + turn["content"][self.end :]
            messages[self.asking] = {**turn, "content": content}
        return make_row(
            messages,
            input_start,
            tools=self.tools,
            license=self.license,
            parents=[self.id],
            extra=stored(chosen),
            constraint_kinds=kinds,
        )


def drafts_of(rows: pl.DataFrame) -> list[Draft]:
    """A draft of each row.

    Args:
        rows: Records.
    """
    columns = rows.select("id", "messages", "tools", "input_start", "origins")
    return [_draft(*values) for values in columns.rows()]


def _draft(
    id_: str,
    messages: Sequence[Mapping[str, Any]] | None,
    tools: str | None,
    input_start: int | None,
    origins: Sequence[Mapping[str, Any]] | None,
) -> Draft:
    messages = messages or []
    users = [number for number, turn in enumerate(messages) if turn["role"] == "user"]
    asking = users[-1] if users else None
    end = input_start if len(users) == 1 else None
    return Draft(id_, messages, tools, input_start, license_of(origins), asking, end)
