"""Results per row of a row-scope stage, so that new rows cost only themselves.

A memo is a folder of small Parquet files, each written whole (aside, then renamed)
when a chunk of rows is done. It is keyed by everything that decides a result but
the rows; within it a row is found by a key over the values that the stage reads.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.store.parquet import read_frame, write_frame

MANY: Final = 32
KEY: Final = "_row_key"
"""The column that finds a row in a memo."""


class RowCache:
    """The remembered results of one stage with one set of options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for half_written in folder.glob(".*"):
            half_written.unlink()

    def read(self) -> pl.DataFrame:
        """All results, one line per row key in the column `KEY`; empty when nothing is known."""
        paths = self._paths()
        return read_frame(paths).unique(KEY, keep="first") if paths else pl.DataFrame()

    def add(self, results: pl.DataFrame) -> None:
        """Remember results, durably when this returns."""
        temporary = self.folder / f".{uuid.uuid4().hex}"
        write_frame(temporary, results)
        os.replace(temporary, self.folder / f"{uuid.uuid4().hex}.parquet")

    def compact(self) -> None:
        """Join many small files to one, once a stage is done."""
        paths = self._paths()
        if len(paths) > MANY:
            self.add(self.read())
            for path in paths:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))
