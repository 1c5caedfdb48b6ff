"""Rows as JSON for people and programs: turns without the fields that they lack.

A turn has role and content, and most have nothing else; written with a null for each field of a
record's schema, a conversation would be nulls for the most part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from schemas.turns import have_more, lists_of

AT_ONCE: Final = 10_000
"""Rows that are held as text at one time."""


def json_lines(frame: pl.DataFrame) -> Iterator[str]:
    """The rows as JSON Lines, in parts of several lines.

    Args:
        frame: Any rows.

    >>> turn = {"role": "user", "content": "Hi", "name": None}
    >>> list(json_lines(pl.DataFrame({"messages": [[turn]], "score": [None]})))
    ['{"messages":[{"role":"user","content":"Hi"}],"score":null}\\n']
    """
    columns = [name for name, dtype in frame.schema.items() if _are_turns(dtype)]
    for part in frame.iter_slices(AT_ONCE):
        plain = [name for name in columns if not have_more(part[name]).any()]
        text = part.with_columns(_plain_turns(part[name]) for name in plain).write_ndjson()
        if richer := [name for name in columns if name not in plain]:
            # Not splitlines: texts may hold other line ends, such as U+2028, as they are.
            rows = (json.loads(line) for line in text.split("\n") if line)
            text = "".join(f"{_line(present_fields(row, richer))}\n" for row in rows)
        yield text


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def present_fields(row: Mapping[str, Any], columns: list[str] | None = None) -> dict[str, Any]:
    """A row whose turns and calls are without nulls; their content may be null.

    Args:
        row: A row as Python objects.
        columns: The columns that hold turns; None: those whose values are turns.

    >>> present_fields({"messages": [{"role": "user", "content": None, "name": None}], "n": None})
    {'messages': [{'role': 'user', 'content': None}], 'n': None}
    """
    names = (
        [n for n, value in row.items() if _is_conversation(value)] if columns is None else columns
    )
    changed = {n: [_present(turn) for turn in row[n]] for n in names if row[n] is not None}
    return {**row, **changed}


def _present(turn: Mapping[str, Any]) -> dict[str, Any]:
    present = {k: v for k, v in turn.items() if v is not None or k == "content"}
    if calls := present.get("tool_calls"):
        present["tool_calls"] = [{k: v for k, v in c.items() if v is not None} for c in calls]
    return present


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value)
    )


def _are_turns(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return isinstance(inner, pl.Struct) and {"role", "content"} <= {f.name for f in inner.fields}


def _plain_turns(messages: pl.Series) -> pl.Series:
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    return lists_of(turns.select("role", "content"), messages.list.len()).alias(messages.name)
