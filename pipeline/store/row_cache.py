"""Cached results of a row-scope stage, so that new rows cost only themselves.

The cache is a folder of small Parquet files, each written under another name and then
renamed when a chunk of rows is done. A file is named by a digest of its bytes, so that one
that a disk has damaged is never served: its rows are computed again. The folder is keyed by
everything that decides a result but the rows; within it a row is identified by a hash of
the values that the stage reads.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.store.files import DamagedFile, warn
from pipeline.store.hashing import digest
from pipeline.store.parquet import read_frame, write_frame

MAX_FILES: Final = 32
"""Files that a finished stage may leave behind without joining them."""

_EARLIER: Final = 32

KEY: Final = "_row_key"
"""The column that identifies a row in the cache."""


def cache_key(parts: Mapping[str, Any]) -> str:
    """The name of a stage's folder: all parts of its fingerprint but the rows themselves.

    Args:
        parts: The parts of a fingerprint. Of their inputs the first is the rows; names of
            columns in the recipe (`as`), and how many of the rows were asked about (`limit`,
            `partial`), do not matter either.
    """
    rest = {n: part for n, part in parts.items() if n not in ("as", "limit", "partial")}
    _, *others = [*parts.get("inputs", {}).items()] or [None]
    return digest({**rest, "inputs": dict(others)})


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
        """All results, one row for each row key in the column `KEY`; empty without any.

        A damaged file is removed, with a warning: its rows are not among them.
        """
        frames = [frame for path in self._paths() if (frame := self._read_file(path)) is not None]
        return pl.concat(frames).unique(KEY, keep="first") if frames else pl.DataFrame()

    def _read_file(self, path: Path) -> pl.DataFrame | None:
        try:
            return read_frame(verify_chunk(path))
        except DamagedFile as damage:
            warn(DamagedFile(path, damage.why), "its rows are computed again")
            path.unlink()
            return None

    def add(self, results: pl.DataFrame) -> None:
        """Cache results, durably when this returns."""
        self._write(results)

    def _write(self, results: pl.DataFrame) -> Path:
        temporary = self.folder / f".{uuid.uuid4().hex}"
        write_frame(temporary, results)
        path = self.folder / f"{_name(temporary.read_bytes())}.parquet"
        os.replace(temporary, path)
        return path

    def compact(self) -> None:
        """Join many small files into one, once a stage is done."""
        paths = self._paths()
        if len(paths) > MAX_FILES and len(results := self.read()):
            joined = self._write(results)
            for path in paths:
                if path != joined:
                    path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))


def verify_chunk(path: Path) -> bytes:
    """The bytes of one file of a row cache.

    Raises:
        DamagedFile: They are not those that were written.
    """
    content = path.read_bytes()
    # Files of earlier versions have names of 32 digits, which say nothing.
    if len(path.stem) != _EARLIER and path.stem != _name(content):
        raise DamagedFile(path, "its bytes are not those that were written")
    return content


def _name(content: bytes) -> str:
    """The name of a file with this content."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()
