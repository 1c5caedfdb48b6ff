"""The last exchange of a row: the turn that asks, what it asks with, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from stages._llm.rows import Row, make_row
from stages.compose._row_drafts import Draft, drafts_of


class Exchange(NamedTuple):
    """A row whose last user turn asks for something.

    Attributes:
        draft: The row.
        asking: The number of the last user turn.
        extra: The source's own fields, as JSON text.
        left_out: The ids of those of its search results that must not be shown.
    """

    draft: Draft
    asking: int
    extra: str
    left_out: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """The row's id."""
        return self.draft.id

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The turns."""
        return self.draft.messages

    @property
    def input_start(self) -> int | None:
        """Where the input begins in the first user turn."""
        return self.draft.input_start

    @property
    def is_single(self) -> bool:
        """Whether one turn alone is the user's."""
        return [turn["role"] for turn in self.messages].count("user") == 1

    @property
    def question(self) -> str:
        """The whole turn that asks."""
        return self.messages[self.asking]["content"] or ""

    @property
    def instruction(self) -> str:
        """That turn without a separate input."""
        return self.draft.request

    @property
    def input(self) -> str:
        """Its separate input; empty without one."""
        return "" if self.draft.end is None else self.question[self.draft.end :]

    @property
    def answer(self) -> str:
        """The last answer; empty where the row ends with the question."""
        return "" if self.messages[-1]["role"] == "user" else self.draft.answer

    def shown_with(self, text: str) -> tuple[list[Any], int | None]:
        """The turns with a text before the question, and where the input then begins.

        Args:
            text: What the model is to read first; nothing changes where it is empty.
        """
        messages: list[Any] = [*self.messages]
        if not text:
            return messages, self.input_start
        head = f"{text}\n\n"
        messages[self.asking] = {**messages[self.asking], "content": head + self.question}
        moved = self.draft.end is not None
        return messages, self.draft.end + len(head) if moved else self.input_start  # type: ignore[operator]

    def row(self, messages: list[Any], input_start: int | None, **added: Any) -> Row:
        """A row of these turns, with the license and the fields of this one.

        Args:
            messages: The turns.
            input_start: Where the input begins.
            added: The stage's own columns.
        """
        row = make_row(
            messages,
            input_start,
            tools=self.draft.tools,
            license=self.draft.license,
            parents=[self.id],
            extra={},
            **added,
        )
        return row | {"extra": self.extra}


def exchanges_of(rows: pl.DataFrame, *, answered: bool) -> tuple[list[Exchange], list[Row]]:
    """The rows that ask for something, and the others, dropped with a reason.

    Args:
        rows: Records.
        answered: Whether an answer that is to be learnt must be the last turn.
    """
    exchanges: list[Exchange] = []
    dropped: list[Row] = []
    for draft, extra in zip(drafts_of(rows), rows["extra"], strict=True):
        rejection = draft.rejection()
        has_request = draft.asking is not None and bool(draft.request)
        if not answered and has_request and draft.messages[-1]["role"] == "user":
            rejection = None
        if rejection is None and draft.asking is not None:
            exchanges.append(Exchange(draft, draft.asking, extra or "{}"))
        elif rejection is not None:
            dropped.append(draft.dropped(*rejection))
    return exchanges, dropped
