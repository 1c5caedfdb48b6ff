"""Loading bytes as if they were a file, and what every load must hold."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

from pipeline.context import Context
from stages.load.records import records
from tests.support.rows import kept

Turns = list[tuple[str, str]]


def written(folder: Path, contents: Sequence[bytes | Path], name: str) -> tuple[str, ...]:
    """The paths of files with these contents, those that are paths already among them."""
    paths = []
    for number, content in enumerate(contents):
        path = content if isinstance(content, Path) else folder / f"{number}-{name}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        paths.append(str(path))
    return tuple(paths)


def load(*contents: bytes | Path, name: str = "rows.jsonl", **options: Any) -> pl.DataFrame:
    """The rows of `load.records` for files of these contents; the accounting is checked."""
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), contents, name)
        options = {"source": "here", "license": "CC0-1.0"} | options
        frame = pl.concat(records(Context.scratch(Path(folder)), path=paths, **options))
    assert_accounted(frame)
    return frame


def assert_accounted(frame: pl.DataFrame) -> None:
    """Every row is exactly one of kept, dropped and failed, with the columns of its verdict."""
    failed, dropped = pl.col("error").is_not_null(), pl.col("drop_reason").is_not_null()
    assert frame.filter(failed & dropped).is_empty()
    lost = frame.filter(failed)
    assert lost["id"].is_null().all()
    assert lost["file"].is_not_null().all()
    assert (lost["line"] >= 1).all()
    assert not any("/" in file for file in lost["file"])
    without_id = ("accepted", "continued", "deleted")
    valid = frame.filter(~failed & ~pl.col("drop_reason").is_in(without_id).fill_null(False))
    assert valid["id"].is_not_null().all()
    assert kept(frame)["id"].is_unique().all()
    assert valid["id"].is_in(kept(frame)["id"].implode()).all()
    for row in valid.filter(dropped).iter_rows(named=True):
        assert json.loads(row["evidence"])["id"] == row["id"]


def failures(frame: pl.DataFrame) -> list[tuple[int, str]]:
    """Line and reason of each failed position."""
    lost = frame.filter(pl.col("error").is_not_null())
    return list(zip(lost["line"], lost["error"], strict=True))


def turns(frame: pl.DataFrame) -> list[Turns]:
    """The conversations of the lines that did not fail."""
    messages = frame.filter(pl.col("error").is_null())["messages"]
    return [[(turn["role"], turn["content"]) for turn in each] for each in messages]


def json_lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_array(rows: Sequence[Any]) -> bytes:
    return json.dumps(rows, indent=4, ensure_ascii=False).encode()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def gunzip_json(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))
