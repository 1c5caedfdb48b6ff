"""The texts of the rows that evidence names: the duplicate that was kept, a benchmark's item."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import polars as pl

from pipeline.store.artifact import Artifact

ID: Final = re.compile("[0-9a-f]{32}")
"""The form of an id."""

_TEXTS: Final = ("messages", "text", "texts")
"""Columns that say what a record, a document or an item says."""


def named_rows(row: Mapping[str, Any], artifacts: Collection[Artifact]) -> dict[str, str]:
    """The texts of other rows that a row's evidence names, by id.

    Args:
        row: A dropped row, with its `evidence`.
        artifacts: Those of all stages, in which the rows are looked for.
    """
    named = named_ids(row)
    rows = rows_by_id(named, artifacts)
    return {name: _text(rows[name]) for name in named if name in rows}


def named_ids(row: Mapping[str, Any]) -> list[str]:
    """The ids of other rows that a row's evidence names, each once."""
    evidence = row.get("evidence")
    ids = _ids(json.loads(evidence)) if evidence else ()
    return [name for name in dict.fromkeys(ids) if name != row["id"]]


def rows_by_id(ids: Collection[str], artifacts: Collection[Artifact]) -> dict[str, dict[str, Any]]:
    """What the rows of these ids say (messages, text or texts), as far as they are there.

    Args:
        ids: The ids.
        artifacts: Those in which the rows are looked for, kept and dropped ones.
    """
    rows: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        for part in ("kept", "dropped"):
            missing = [name for name in ids if name not in rows]
            columns = [name for name in _TEXTS if name in artifact.columns(part)]
            if columns and missing:
                frame = artifact.read(part, ["id", *columns])
                matches = frame.filter(pl.col("id").is_in(missing))
                rows |= {one["id"]: one for one in matches.to_dicts()}
    return rows


def _ids(value: Any) -> Iterator[str]:
    """All ids in a JSON value."""
    if isinstance(value, str) and ID.fullmatch(value):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _ids(part)
    elif isinstance(value, list):
        for part in value:
            yield from _ids(part)


def _text(row: Mapping[str, Any]) -> str:
    """A record's turns, a document's text, or the fields of an item."""
    turns = [(turn["role"], turn["content"]) for turn in row.get("messages") or ()]
    fields = [(field["name"], field["text"]) for field in row.get("texts") or ()]
    parts = [f"{name}: {text}" for name, text in (*turns, *fields) if text]
    return "\n".join(parts) or row.get("text") or ""
