"""The rows that a generating stage returns: one for each conversation that it proposed.

A proposal is kept, dropped with a reason, or failed. A proposal that a filter refuses is
a row too, so that the number of rows is the number of proposals and nothing is lost in
silence.

Example:
    >>> messages, input_start = task_messages("Add the numbers.", "2 and 3", "5")
    >>> row = make_row(messages, input_start, license="MIT", parents=["d1"], extra={})
    >>> frame = rows_to_frame([row, {**row, "origins": [{"license": "MIT"}]}], "sums", {})
    >>> frame["drop_reason"].to_list()
    [None, 'duplicate']
    >>> [(origin["source"], origin["index"]) for origin in frame["origins"][0]]
    [('sums', 0), ('sums', 1)]
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl
import pyarrow as pa

from pipeline.models.ask import Rejection as Rejection
from schemas.records import RECORD_COLUMNS, Message, record_id

Row = dict[str, Any]
"""The columns of one proposal, by name."""

_log = logging.getLogger(__name__)

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
"""Made once: making one takes longer than writing a short object."""


def license_of(origins: Sequence[Mapping[str, Any]] | None) -> str | None:
    """The license of a record or document: that of its first origin.

    Args:
        origins: The column `origins` of one row.

    Returns:
        The license, or None where there is no origin or its license is unknown.

    Example:
        >>> license_of([{"license": "MIT"}, {"license": "CC0-1.0"}])
        'MIT'
        >>> license_of(None) is None
        True
    """
    return next((origin["license"] for origin in origins or ()), None)


def joint_license(licenses: Iterable[str | None]) -> str | None:
    """The license of a row that holds the text of several parents: all of them must be met.

    Args:
        licenses: The license of each parent.

    Returns:
        An SPDX expression, or None where the license of any parent is unknown.

    Example:
        >>> joint_license(["MIT", "CC0-1.0", "MIT"])
        'CC0-1.0 AND MIT'
        >>> joint_license(["MIT", None]) is None
        True
    """
    distinct = set(licenses)
    return None if None in distinct else " AND ".join(sorted(map(str, distinct)))


def task_messages(
    instruction: str, input: str = "", output: str = ""
) -> tuple[list[Message], int | None]:
    r"""The messages of a task with one of its instances.

    Args:
        instruction: What is to be done.
        input: What it is to be done with; empty where the task needs none.
        output: The answer; empty for a conversation that ends with the user's turn.

    Returns:
        The messages, and the offset in characters at which the input begins in the user's
        turn (None without one).

    Example:
        >>> task_messages("Translate.", "Bonjour")
        ([{'role': 'user', 'content': 'Translate.\n\nBonjour'}], 12)
    """
    if not input:
        return _conversation(instruction, output), None
    return _conversation(f"{instruction}\n\n{input}", output), len(instruction) + 2


def _conversation(user: str, assistant: str) -> list[Message]:
    answer: list[Message] = [{"role": "assistant", "content": assistant}] if assistant else []
    return [{"role": "user", "content": user}, *answer]


def has_tools(messages: Sequence[Mapping[str, Any]] | None, tools: str | None = None) -> bool:
    """Whether a conversation calls tools or could: what a model writes without them differs.

    Args:
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
    """
    return bool(tools) or any(message.get("tool_calls") for message in messages or ())


def continued(
    turns: Iterable[tuple[str, str]], originals: Sequence[Mapping[str, Any]] = ()
) -> list[Message]:
    """Turns that a model saw as text, as messages: those of the original row keep all they hold.

    Args:
        turns: Role and text of each.
        originals: The messages of the row, of which some are among the turns, in their order.

    Example:
        >>> original = {"role": "assistant", "content": "4", "reasoning": "2 and 2.", "name": None}
        >>> continued([("assistant", "4"), ("user", "Sure?")], [original])[0]["reasoning"]
        '2 and 2.'
    """
    messages: list[Message] = []
    remaining = list(originals)
    for role, text in turns:
        message = Message(role=role, content=text)
        same = (
            i for i, m in enumerate(remaining) if (m["role"], m["content"] or "") == (role, text)
        )
        at = next(same, None)
        if at is not None:
            known = {k: v for k, v in remaining[at].items() if v is not None}
            message |= known  # type: ignore[typeddict-item]
            remaining = remaining[at + 1 :]
        messages.append(message)
    return messages


def make_row(
    messages: list[Message],
    input_start: int | None = None,
    *,
    tools: str | None = None,
    license: str | None,
    parents: Sequence[str],
    extra: Mapping[str, Any],
    rejection: Rejection | None = None,
    error: str | None = None,
    **added: Any,
) -> Row:
    """The row of one proposal.

    Args:
        messages: The conversation; its digest, with the tools', is the row's id.
        input_start: See `schemas.records.RECORD`.
        tools: The definitions of the tools that the conversation uses, as JSON text.
        license: The license of the row's only origin.
        parents: Ids of the records or documents that the row is made from.
        extra: What the column `extra` holds.
        rejection: Why the row is dropped; ignored where it failed.
        error: Why the row failed.
        added: The stage's own columns.
    """
    reason, evidence = (rejection if error is None else None) or (None, None)
    return {
        "id": record_id(messages, tools),
        "messages": messages,
        "tools": tools,
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
    return _ENCODER.encode(value)


def rows_to_frame(rows: Sequence[Row], source: str, adds: Mapping[str, Any]) -> pl.DataFrame:
    """The rows as a table, each with its source and its number in `origins`.

    A record that came, whose origins name their source, keeps them. Of equal conversations the
    first is kept and gets the origins of all, so that an answer that was written twice counts
    twice (`select.response`). The others are dropped as `duplicate`, with the evidence
    `duplicate_of`. Where no row is kept, a warning says why.

    Args:
        rows: What `make_row` returned, in the order in which the rows were proposed. Their
            `origins` and verdicts are updated in place.
        source: The source of every row.
        adds: The stage's own columns with their polars types.
    """
    for index, row in enumerate(rows):
        if row.get("origins") and "source" not in row["origins"][0]:
            row["origins"][0].update(source=source, index=index)
    if not merge_equal(rows) and rows:
        _warn_that_nothing_is_kept(rows, source)
    verdict = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
    columns = {**RECORD_COLUMNS, **adds, **verdict}
    return pl.DataFrame([_series(name, rows, kind) for name, kind in columns.items()])


def merge_equal(rows: Iterable[Row]) -> int:
    """Drop all but the first of equal rows as `duplicate`; that one gets the origins of all.

    Args:
        rows: Rows with or without verdicts, updated in place; those that are dropped or failed
            stay as they are.

    Returns:
        How many different rows are kept.

    Example:
        >>> rows = [{"id": "a", "origins": [{"index": n}]} for n in range(2)]
        >>> merge_equal(rows), rows[0]["origins"], rows[1]["drop_reason"]
        (1, [{'index': 0}, {'index': 1}], 'duplicate')
    """
    first: dict[str, Row] = {}
    for row in rows:
        if row.get("error") is None and row.get("drop_reason") is None:
            kept = first.setdefault(row["id"], row)
            if kept is not row:
                kept["origins"] = [*(kept["origins"] or ()), *(row["origins"] or ())]
                row.update(drop_reason="duplicate", evidence=to_json({"duplicate_of": row["id"]}))
    return len(first)


def _series(name: str, rows: Sequence[Row], dtype: pl.DataType) -> pl.Series:
    """A column of the rows; nested values through pyarrow, which reads them ten times as fast."""
    values = [row.get(name) for row in rows]
    if dtype.is_nested():
        arrow = pa.array(values, pl.Series([], dtype=dtype).to_arrow().type)
        return pl.Series(name, arrow, dtype=dtype)
    return pl.Series(name, values, dtype=dtype)


def _warn_that_nothing_is_kept(rows: Sequence[Row], source: str) -> None:
    reasons = Counter(row["drop_reason"] for row in rows if row["drop_reason"] is not None)
    reasons["failed"] = sum(row["error"] is not None for row in rows)
    counts = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common() if number)
    _log.warning("%s: none of %d drafts became a row: %s", source, len(rows), counts)
