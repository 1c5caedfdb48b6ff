"""Cached results of a row-scope stage, so that new rows cost only themselves.

The cache is a folder of small Parquet files, each written under another name and then
renamed when a chunk of rows is done. Its folder is keyed by everything that decides a
result but the rows; within it a row is identified by a hash of the values that the
stage reads.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.store.parquet import read_frame, write_frame

MAX_FILES: Final = 32
"""Files that a finished stage may leave behind without joining them."""

KEY: Final = "_row_key"
"""The column that identifies a row in the cache."""


class RowCache:
    """The cached results of one stage with one set of options.

    Args:
        folder: An existing folder; what a killed run left half written is removed.

    Example:
        >>> import tempfile
        >>> cache = RowCache(Path(tempfile.mkdtemp()))
        >>> cache.add(pl.DataFrame({KEY: ["a", "b"], "words": [3, 5]}))
        >>> cache.read()["words"].sum()
        8
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for half_written in folder.glob(".*"):
            half_written.unlink()

    def read(self) -> pl.DataFrame:
        """All results, one row for each row key in the column `KEY`; empty without any."""
        paths = self._paths()
        return read_frame(paths).unique(KEY, keep="first") if paths else pl.DataFrame()

    def add(self, results: pl.DataFrame) -> None:
        """Cache results, durably when this returns."""
        temporary = self.folder / f".{uuid.uuid4().hex}"
        write_frame(temporary, results)
        os.replace(temporary, self.folder / f"{uuid.uuid4().hex}.parquet")

    def compact(self) -> None:
        """Join many small files into one, once a stage is done."""
        paths = self._paths()
        if len(paths) > MAX_FILES:
            self.add(self.read())
            for path in paths:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))
