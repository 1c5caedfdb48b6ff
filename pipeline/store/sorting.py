"""Rows sorted by id that need not fit into memory: sorted runs on the disk, read range by range.

Rows of equal ids stay in the order in which they came, as with `sort(maintain_order=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl

RUN_BYTES: Final = 128 << 20
"""Rows that are kept in memory until they are written as a run."""

PART_BYTES: Final = 32 << 20
"""About what is read at a time."""

_BATCH: Final = 1_024
"""Rows of a run that are read together at least."""


class SortedRows:
    """Takes rows in any order, and gives them by id.

    Args:
        folder: Where runs are written; it must exist.
        run_bytes: Rows that are kept in memory; what fits is never written.
        by: The column of texts to sort by.

    Example:
        >>> rows = SortedRows(Path("/nowhere"))
        >>> rows.add(pl.DataFrame({"id": ["b", "a"], "x": [1, 2]}))
        >>> pl.concat(rows.parts())["x"].to_list()
        [2, 1]
    """

    def __init__(self, folder: Path, run_bytes: int = RUN_BYTES, by: str = "id") -> None:
        self._folder, self._limit, self._by = folder, run_bytes, by
        self._frames: list[pl.DataFrame] = []
        self._bytes = self._written = 0
        self._runs: list[Path] = []
        self._ids: list[pl.Series] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows; those without a value to sort by come first."""
        self._frames.append(rows)
        self._bytes += int(rows.estimated_size())
        if self._bytes > self._limit:
            self._write()

    def _sorted(self) -> pl.DataFrame:
        rows = pl.concat(self._frames).sort(self._by, maintain_order=True)
        self._frames.clear()
        return rows

    def _write(self) -> None:
        rows = self._sorted()
        path = self._folder / f"run-{id(self):x}-{len(self._runs):05d}.arrow"
        rows.write_ipc(path, compression="lz4", record_batch_size=_BATCH)
        # Where ranges may begin: as many ids of each run as it has parts of a sixteenth.
        step = max(1, int(len(rows) * PART_BYTES / 16 / self._bytes))
        self._ids.append(rows[self._by].gather_every(step))
        self._runs.append(path)
        self._written += self._bytes
        self._bytes = 0

    def parts(self) -> Iterator[pl.DataFrame]:
        """All rows by id, in parts; no part where none came. The runs are removed at the end."""
        if not self._runs:
            yield from [self._sorted()] if self._frames else []
            return
        if self._frames:
            self._write()
        ids = pl.concat(self._ids).drop_nulls().sort()
        number = max(1, self._written // PART_BYTES)
        bounds = ids[[len(ids) * i // number for i in range(1, number)]].unique().sort().to_list()
        cuts = [_positions(path, self._by, bounds) for path in self._runs]
        for number in range(len(bounds) + 1):
            rows = [
                pl.scan_ipc(path).slice(cut[number], cut[number + 1] - cut[number]).collect()
                for path, cut in zip(self._runs, cuts, strict=True)
            ]
            yield pl.concat(rows).sort(self._by, maintain_order=True)
        for path in self._runs:
            path.unlink()


def _positions(path: Path, by: str, bounds: Sequence[str]) -> list[int]:
    """Where the parts of a run begin and end that bounds divide."""
    ids = pl.scan_ipc(path).select(by).collect()[by]
    nulls = ids.null_count()
    inner = ids.slice(nulls).search_sorted(pl.Series(bounds, dtype=pl.String), side="left")
    return [0, *(nulls + inner).to_list(), len(ids)]
