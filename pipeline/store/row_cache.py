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
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.store.files import DamagedFile, warn
from pipeline.store.hashing import digest
from pipeline.store.parquet import (
    ROW_GROUP,
    TableWriter,
    column_names,
    read_parts,
    read_slice,
    to_arrow,
    write_frame,
)

_Numbers = NDArray[Any]
_Segment = tuple[_Numbers, _Numbers, _Numbers, _Numbers]

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

    In memory are hashes of the row keys and where each row lies, never what it holds.

    Args:
        folder: An existing folder; what a killed run left half written is removed, and so is
            a damaged file, with a warning: its rows are not among the results.

    Example:
        >>> import tempfile
        >>> cache = RowCache(Path(tempfile.mkdtemp()))
        >>> cache.add(pl.DataFrame({KEY: ["a", "b"], "words": [3, 5]}))
        >>> keys = pl.Series(["b", "c", "a"])
        >>> known = cache.knows(keys)
        >>> cache.rows(keys.filter(known))["words"].to_list()
        [5, 3]
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Path] = []
        self._index = _Index()
        self._group = lru_cache(maxsize=2)(self._read_group)
        for half_written in folder.glob(".*"):
            half_written.unlink()
        for path in sorted(folder.glob("*.parquet")):
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            verify_chunk(path)
            keys = [part[KEY] for part in read_parts(path, [KEY])]
        except DamagedFile as damage:
            warn(DamagedFile(path, damage.why), "its rows are computed again")
            path.unlink()
            return
        self._append(path, pl.concat(keys) if keys else pl.Series(dtype=pl.String()))

    def _append(self, path: Path, keys: pl.Series) -> None:
        self._index.add(keys, len(self._files))
        self._files.append(path)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def columns(self) -> list[set[str]]:
        """The columns of each file."""
        return [set(column_names(path)) for path in self._files]

    def knows(self, keys: pl.Series) -> pl.Series:
        """Whether each key has a result."""
        return pl.Series(self._index.find(keys)[0] >= 0)

    def rows(self, keys: pl.Series) -> pl.DataFrame:
        """The results of keys that are known, in the order of the keys.

        Args:
            keys: At least one.
        """
        files, numbers = self._index.find(keys)
        groups = numbers // ROW_GROUP
        frames, places = [], []
        for file, group in sorted({*zip(files.tolist(), groups.tolist(), strict=True)}):
            (here,) = np.nonzero((files == file) & (groups == group))
            frames.append(self._group(file, group)[numbers[here] - group * ROW_GROUP])
            places.append(here)
        order = np.argsort(np.concatenate(places))
        rows: pl.DataFrame = pl.concat(frames)[order]
        return rows

    def _read_group(self, file: int, group: int) -> pl.DataFrame:
        return read_slice(self._files[file], None, group * ROW_GROUP, ROW_GROUP)

    def add(self, results: pl.DataFrame) -> None:
        """Cache results, durably when this returns."""
        temporary = self.folder / f".{uuid.uuid4().hex}"
        write_frame(temporary, results)
        self._append(self._named(temporary), results[KEY])

    def _named(self, temporary: Path) -> Path:
        """Give a file the name of its content."""
        path = self.folder / f"{_name(temporary)}.parquet"
        os.replace(temporary, path)
        return path

    def compact(self) -> None:
        """Join many small files into one, once a stage is done."""
        if len(self._files) <= MAX_FILES or not len(self):
            return
        temporary = self.folder / f".{uuid.uuid4().hex}"
        parts = self._first_results()
        first = to_arrow(next(parts))
        with TableWriter(temporary, first.schema) as writer:
            writer.add(first)
            for part in parts:
                writer.add(to_arrow(part))
        joined = self._named(temporary)
        for path in {*self._files} - {joined}:
            path.unlink(missing_ok=True)
        self._files, self._index = [], _Index()
        self._group.cache_clear()
        self._open(joined)

    def _first_results(self) -> Iterator[pl.DataFrame]:
        """All results, of each key the one that `rows` gives."""
        for number, path in enumerate(self._files):
            start = 0
            for part in read_parts(path):
                files, rows = self._index.find(part[KEY])
                numbers = np.arange(start, start + len(part))
                yield part.filter(pl.Series((files == number) & (rows == numbers)))
                start += len(part)


class _Index:
    """Where the row of each key lies: two hashes of 64 bits stand for a key."""

    def __init__(self) -> None:
        # Sorted by the first hash, the longer before the shorter: hashes, files, rows.
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment[0]) for segment in self._segments)

    def add(self, keys: pl.Series, file: int) -> None:
        """Add the rows of a file, in their order."""
        first, second = _hashes(keys)
        files = np.full(len(keys), file, dtype=np.int32)
        rows = np.arange(len(keys), dtype=np.int64)
        self._segments.append(_sorted(first, second, files, rows))
        while len(self._segments) > 1 and (
            2 * len(self._segments[-1][0]) > len(self._segments[-2][0])
        ):
            *_, one, two = self._segments
            columns = [np.concatenate(pair) for pair in zip(one, two, strict=True)]
            self._segments[-2:] = [_sorted(*columns)]

    def find(self, keys: pl.Series) -> tuple[_Numbers, _Numbers]:
        """File and row of each key; both -1 where it is not known."""
        first, second = _hashes(keys)
        files = np.full(len(keys), -1, dtype=np.int32)
        rows = np.full(len(keys), -1, dtype=np.int64)
        for one, two, its_files, its_rows in self._segments:
            if not len(one):
                continue
            at = np.minimum(np.searchsorted(one, first), len(one) - 1)
            same = (one[at] == first) & (two[at] == second) & (files < 0)
            files[same], rows[same] = its_files[at[same]], its_rows[at[same]]
        return files, rows


def _sorted(first: _Numbers, second: _Numbers, files: _Numbers, rows: _Numbers) -> _Segment:
    order = np.argsort(first, kind="stable")
    return first[order], second[order], files[order], rows[order]


def _hashes(keys: pl.Series) -> tuple[_Numbers, _Numbers]:
    return keys.hash(0).to_numpy(), keys.hash(1).to_numpy()


def verify_chunk(path: Path) -> None:
    """Check one file of a row cache.

    Raises:
        DamagedFile: Its bytes are not those that were written.
    """
    # Files of earlier versions have names of 32 digits, which say nothing.
    if len(path.stem) != _EARLIER and path.stem != _name(path):
        raise DamagedFile(path, "its bytes are not those that were written")


def _name(path: Path) -> str:
    """The name of a file with this content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
    return digest.hexdigest()
