"""Rows as drafts that have a request and its answer, and the rows that come of them.

Of what a model writes anew only the words of one turn are its own: system turns stay, and what
cannot be written anew without loss (calls of tools, reasoning, later turns that refer to what
was said) is why a row is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.records import RECORD_COLUMNS, Message
from stages._llm.drafts import Draft, RowMessages
from stages._llm.rows import (
    Rejection,
    Row,
    has_tools,
    license_of,
    make_row,
    merge_equal,
    task_messages,
)

READS = ("messages", "tools", "input_start", "origins", "parents", "extra")
"""The columns that `exchange_drafts` reads."""


def exchange_drafts(rows: pl.DataFrame, *, answered: bool = True) -> list[Draft]:
    """A draft for each row, rejected where it is no single request with its answer.

    Its fields are `record`, `lead` (system turns), `instruction`, `input` (empty without one),
    `request` (both, as the user wrote them) and `response`.

    Args:
        rows: Records.
        answered: Whether a row needs an answer.
    """
    drafts = []
    for record in rows.select("id", *READS).iter_rows(named=True):
        messages = record["messages"] or []
        lead = [turn for turn in messages if turn["role"] == "system"]
        rest = [turn for turn in messages if turn["role"] != "system"]
        request = (rest[0]["content"] or "") if rest and rest[0]["role"] == "user" else ""
        start = record["input_start"]
        fields = {
            "record": record,
            "lead": lead,
            "request": request,
            "instruction": request[:start].strip() if start is not None else request,
            "input": request[start:].strip() if start is not None else "",
            "response": (rest[-1]["content"] or "") if _is_answered(rest) else "",
        }
        draft = Draft((record["id"],), fields, license_of(record["origins"]))
        draft.rejection = _rejection(record, rest, fields, answered)
        drafts.append(draft)
    return drafts


def _rejection(
    record: Mapping[str, Any],
    rest: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
    answered: bool,
) -> Rejection | None:
    """Why a row is not one request with its answer in plain text; None where it is."""
    roles = [turn["role"] for turn in rest]
    if has_tools(record["messages"], record["tools"]) or "tool" in roles:
        return "has_tools", {}
    if any((turn.get("reasoning") or "").strip() for turn in rest):
        return "has_reasoning", {}
    if not fields["instruction"].strip():
        return "no_instruction", {"roles": roles}
    if len(roles) > 2 or (len(roles) == 2 and not answered and not _is_answered(rest)):
        return "multi_turn", {"turns": len(roles)}
    if answered and not fields["response"].strip():
        return "no_answer", {"roles": roles}
    if rest[-1].get("train") is False:
        return "not_trained", {}
    return None


def _is_answered(turns: Sequence[Mapping[str, Any]]) -> bool:
    return len(turns) > 1 and turns[-1]["role"] == "assistant"


def exchange_messages(
    draft: Draft, request: str, input_start: int | None, response: str
) -> RowMessages:
    """The turns of a row with another request or answer; the row itself while nothing is new.

    Args:
        draft: One of `exchange_drafts`, or a child of it.
        request: The user's turn.
        input_start: Where its input begins.
        response: The assistant's turn.
    """
    if (request, response) == (draft["request"], draft["response"]):
        return row_as_it_was(draft)
    answered: list[Message] = [*draft["lead"], {"role": "user", "content": request}]
    return [*answered, {"role": "assistant", "content": response}], input_start


def request_of(instruction: str, text: str) -> tuple[str, int | None]:
    r"""A user's turn of an instruction and its input, and where that begins.

    Args:
        instruction: What is to be done.
        text: The input; empty without one.

    Example:
        >>> request_of("Sort.", "b, a")
        ('Sort.\n\nb, a', 7)
    """
    messages, start = task_messages(instruction, text)
    return str(messages[0]["content"]), start


def row_as_it_was(draft: Draft) -> RowMessages:
    """The turns that a row came with, and where its input begins.

    Args:
        draft: One of `exchange_drafts`, or a child of it.
    """
    return list(draft["record"]["messages"] or ()), draft["record"]["input_start"]


def row_itself(draft: Draft, **added: Any) -> Row:
    """The row as it came, with a stage's own columns.

    Args:
        draft: One of `exchange_drafts`; what it failed of is the row's error.
        added: The columns.
    """
    verdict = {"drop_reason": None, "evidence": None, "error": draft.error}
    return {**draft["record"], **verdict, **added}


def new_row(draft: Draft, turns: RowMessages, source: str, index: int, **added: Any) -> Row:
    """A row of new turns; where they are those that came, the row itself.

    Args:
        draft: What the turns were written in.
        turns: The turns, and where the input begins.
        source: The source of a new row.
        index: Its number there.
        added: The stage's own columns.
    """
    row = make_row(
        *turns,
        license=draft.license,
        parents=draft.parents,
        extra=draft.notes,
        rejection=draft.rejection,
        error=draft.error,
        **added,
    )
    if row["id"] == draft["record"]["id"]:
        return row_itself(draft, **added)
    row["origins"][0].update(source=source, index=index)
    return row


def frame_with_originals(rows: Sequence[Row], adds: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of which some are those that came; of equal ones the first has the origins of all.

    Args:
        rows: What `row_itself` and `new_row` return.
        adds: The stage's own columns.
    """
    merge_equal(rows)
    verdict: dict[str, Any] = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
    return pl.DataFrame(list(rows), schema={**RECORD_COLUMNS, **adds, **verdict})
