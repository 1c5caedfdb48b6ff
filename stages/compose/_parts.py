"""The rows that can be a part of another: one request with one answer, both as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from stages._llm.row_turns import licenses_of, row_turns
from stages._llm.rows import Rejection, Row, has_tools, make_row


@dataclass(frozen=True)
class Part:
    """A row as a part of a combined one.

    Attributes:
        id: The row's id.
        messages: Its turns.
        input_start: Where its input begins in the request.
        license: Its license.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    input_start: int | None
    license: str | None

    @property
    def request(self) -> str:
        """The instruction with its input."""
        return str(self.messages[0]["content"])

    @property
    def instruction(self) -> str:
        """The instruction without its input."""
        return self.request[: self.input_start].strip()

    @property
    def input(self) -> str:
        """The input; empty without one."""
        return "" if self.input_start is None else self.request[self.input_start :].strip()

    @property
    def answer(self) -> str:
        """The answer."""
        return str(self.messages[1]["content"])

    def dropped(self, reason: str, evidence: Mapping[str, Any], **added: Any) -> Row:
        """The row as one that is not used.

        Args:
            reason: Why.
            evidence: What shows it.
            added: The stage's own columns.
        """
        return make_row(
            [dict(turn) for turn in self.messages],  # type: ignore[misc]
            self.input_start,
            license=self.license,
            parents=[self.id],
            extra={},
            rejection=(reason, {**evidence}),
            **added,
        )


def parts_of(rows: pl.DataFrame) -> tuple[list[Part], list[Row]]:
    """The rows that can be combined, and the others, dropped with a reason.

    Args:
        rows: Records.
    """
    parts: list[Part] = []
    dropped: list[Row] = []
    columns = [rows[name].to_list() for name in ("id", "tools", "input_start")]
    read = row_turns(rows["messages"]), licenses_of(rows["origins"])
    for id_, tools, input_start, messages, license in zip(*columns, *read, strict=True):
        part = Part(id_, messages, input_start, license)
        rejection = _rejection(part.messages, tools)
        if rejection:
            dropped.append(part.dropped(*rejection) | {"tools": tools, "id": id_})
        else:
            parts.append(part)
    return parts, dropped


def _rejection(messages: Sequence[Mapping[str, Any]], tools: str | None) -> Rejection | None:
    """Why a row cannot be a part without losing something of it; None where it can."""
    if has_tools(messages, tools):
        return "has_tools", {}
    roles = [turn["role"] for turn in messages]
    if "system" in roles:
        return "has_system", {}
    if len(roles) > 2:
        return "multi_turn", {"turns": len(roles)}
    if roles != ["user", "assistant"]:
        return "empty_part", {"roles": roles}
    for turn in messages:
        if not (turn["content"] or "").strip():
            return "empty_part", {"role": turn["role"]}
        if (turn.get("reasoning") or "").strip():
            return "has_reasoning", {"role": turn["role"]}
    if messages[1].get("train") is False:
        return "not_trained", {}
    return None
