"""What a generator hands to the runner: one line for each thing that it proposed.

Kept, dropped with a reason, or failed: a proposal that a filter refuses is as
much a line as one that becomes a row, so that the sums come out.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.records import RECORD_COLUMNS, Message, record_id

Row = dict[str, Any]

Rejection = tuple[str, dict[str, Any]]
"""A drop reason and the evidence for it."""

_log = logging.getLogger(__name__)


def task_messages(
    instruction: str, input: str = "", output: str = ""
) -> tuple[list[Message], int | None]:
    """A task with one of its instances as messages, and where its input begins."""
    if not input:
        return _turns(instruction, output), None
    return _turns(f"{instruction}\n\n{input}", output), len(instruction) + 2


def _turns(user: str, assistant: str) -> list[Message]:
    answer: list[Message] = [{"role": "assistant", "content": assistant}] if assistant else []
    return [{"role": "user", "content": user}, *answer]


def make_row(
    messages: list[Message],
    input_start: int | None = None,
    *,
    license: str | None,
    parents: Sequence[str],
    extra: Mapping[str, Any],
    rejection: Rejection | None = None,
    error: str | None = None,
    **added: Any,
) -> Row:
    """A proposal: kept, dropped with a rejection or failed. added: the stage's own columns."""
    reason, evidence = (rejection if error is None else None) or (None, None)
    return {
        "id": record_id(messages),
        "messages": messages,
        "input_start": input_start,
        "origins": [{"license": license}],
        "parents": list(parents),
        "extra": to_json(extra),
        "drop_reason": reason,
        "evidence": evidence if evidence is None else to_json(evidence),
        "error": error,
        **added,
    }


def to_json(value: Mapping[str, Any]) -> str:
    """A JSON object as the columns `extra` and `evidence` hold it."""
    return json.dumps(value, ensure_ascii=False)


def rows_to_frame(lines: Sequence[Row], source: str, adds: Mapping[str, Any]) -> pl.DataFrame:
    """The lines as a table, numbered in `origins` in the order in which they were made.

    Of equal conversations the first is kept, with the origins of all: an answer that was
    given twice counts twice (`select.response`). The others are dropped as duplicates.
    Where nothing is kept, a warning says why.
    """
    first: dict[str, Row] = {}
    for index, entry in enumerate(lines):
        if entry.get("origins"):
            entry["origins"][0].update(source=source, index=index)
        if entry["error"] is None and entry["drop_reason"] is None:
            kept = first.setdefault(entry["id"], entry)
            if kept is not entry:
                kept["origins"] = [*kept["origins"], *entry["origins"]]
                entry.update(drop_reason="duplicate", evidence=to_json({"twin": entry["id"]}))
    if not first:
        _tell_why_nothing_is_left(lines, source)
    verdict = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
    return pl.DataFrame(lines, schema={**RECORD_COLUMNS, **adds, **verdict})


def _tell_why_nothing_is_left(lines: Sequence[Row], source: str) -> None:
    reasons = Counter(one["drop_reason"] for one in lines if one["drop_reason"] is not None)
    reasons["failed"] = sum(one["error"] is not None for one in lines)
    told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common() if number)
    _log.warning("%s: none of %d drafts became a row: %s", source, len(lines), told or "no input")
