"""Preference pairs for tests: loaded from bytes as if they were a file, or made of texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.context import Context
from schemas.pairs import PAIR_COLUMNS, pair_id
from schemas.records import Message
from stages.load.pairs import pairs
from tests.support.loading import written
from tests.support.rows import SAMPLES


def load_pairs(*contents: bytes | Path, name: str = "rows.jsonl", **options: Any) -> pl.DataFrame:
    """The rows of `load.pairs` for files of these contents; the accounting is checked."""
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), contents, name)
        options = {"source": "here", "license": "CC0-1.0"} | options
        rows = pairs(Context.scratch(Path(folder)), path=paths, **options)
    failed, dropped = pl.col("error").is_not_null(), pl.col("drop_reason").is_not_null()
    assert rows.filter(failed & dropped).is_empty()
    assert rows.filter(failed)["line"].is_not_null().all()
    assert rows.filter(~failed & ~dropped)["id"].is_unique().all()
    assert rows.filter(dropped)["evidence"].is_not_null().all()
    return rows


def ranked_sample(**options: Any) -> pl.DataFrame:
    """The pairs of the bundled OpenAssistant trees, in id order, as the runner passes them."""
    rows = load_pairs(SAMPLES / "oasst_trees.jsonl.gz", **options)
    return (
        rows.filter(pl.col("id").is_not_null() & pl.col("drop_reason").is_null())
        .select(list(PAIR_COLUMNS))
        .sort("id")
    )


def turn(role: str, content: str | None, **more: Any) -> Message:
    """One turn."""
    return {"role": role, "content": content, **more}  # type: ignore[typeddict-item]


def pair(prompt: str, chosen: str | None, rejected: str | None, **more: Any) -> dict[str, Any]:
    """A pair of one question with two answers; None for a side that is missing."""
    sides = [None if text is None else [turn("assistant", text)] for text in (chosen, rejected)]
    asked = [turn("user", prompt)]
    return {
        "id": pair_id(asked, *sides, more.get("tools")),
        "prompt": asked,
        "chosen": sides[0],
        "rejected": sides[1],
        "origins": [{"source": "here", "index": 0, "license": "MIT"}],
        "parents": [],
        "extra": "{}",
        **more,
    }


def pair_frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """The pairs in id order."""
    return pl.DataFrame([*rows], schema=PAIR_COLUMNS).sort("id")


def said(turns: Iterable[dict[str, Any]] | None) -> list[tuple[str, str | None]] | None:
    """Role and content of each turn."""
    return None if turns is None else [(turn["role"], turn["content"]) for turn in turns]
