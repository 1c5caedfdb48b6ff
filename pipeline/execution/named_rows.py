"""The texts of the rows that evidence names: the duplicate that was kept, a benchmark's item."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import polars as pl

from pipeline.store.artifact import Artifact

_ID: Final = re.compile("[0-9a-f]{32}")
_TEXTS: Final = ("messages", "text", "texts")
"""Columns that say what a record, a document or an item says."""


def named_rows(row: Mapping[str, Any], artifacts: Collection[Artifact]) -> dict[str, str]:
    """The texts of other rows that a row's evidence names, by id.

    Args:
        row: A dropped row, with its `evidence`.
        artifacts: Those of all stages, in which the rows are looked for.
    """
    evidence = row.get("evidence")
    named = [i for i in _ids(json.loads(evidence)) if i != row["id"]] if evidence else []
    texts: dict[str, str] = {}
    for artifact in artifacts if named else ():
        for part in ("kept", "dropped"):
            columns = [name for name in _TEXTS if name in artifact.columns(part)]
            if columns and len(texts) < len(named):
                frame = artifact.read(part, ["id", *columns])
                matches = frame.filter(pl.col("id").is_in(named))
                texts = {one["id"]: _text(one) for one in matches.to_dicts()} | texts
    return {name: texts[name] for name in named if name in texts}


def _ids(value: Any) -> Iterator[str]:
    """All ids in a JSON value."""
    if isinstance(value, str) and _ID.fullmatch(value):
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
