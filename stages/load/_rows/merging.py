"""Equal rows of a source, merged into the first of them, over rows that need not fit into memory.

Rows come in parts, in the order of their positions, and are spooled to the disk; in memory are
their ids alone. Once all are there it is known which are equal, and they leave as they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import polars as pl

from stages._common.verdicts import verdict

_PART_BYTES: Final = 32 << 20
"""Rows that are written and read together; what fits into one part is never written."""


def merge_duplicates(
    frames: Iterable[pl.DataFrame], source: str, license: str, folder: Path
) -> Iterator[pl.DataFrame]:
    """The rows with `origins`, and with equal ones merged into the first of them.

    Of equal ids the first row is kept with the origins of all; the others are dropped as
    `duplicate`, with both positions as evidence.

    Args:
        frames: One row per position, in their order; `id` is null where it failed, or has a
            `drop_reason` already.
        source: Where the rows come from.
        license: On what terms.
        folder: Where rows are spooled.

    >>> frames = [pl.DataFrame({"id": ["a", "b"]}), pl.DataFrame({"id": ["a"]})]
    >>> rows = pl.concat(merge_duplicates(frames, "web", "MIT", Path("/nowhere")))
    >>> rows["drop_reason"].to_list(), rows["origins"].list.len().to_list()
    ([None, None, 'duplicate'], [2, 1, 1])
    """
    with _Spool(folder) as spool:
        ids = []
        for frame in frames:
            ids.append(frame["id"])
            spool.add(frame)
        equal = _equal(pl.concat(ids))
        del ids
        start = 0
        for frame in spool.frames():
            yield _merged(frame.with_row_index("_index", start), equal, source, license)
            start += len(frame)


def _equal(ids: pl.Series) -> pl.DataFrame:
    """The positions of each id that is there more than once."""
    rows = ids.to_frame("id").with_row_index("_index")
    rows = rows.filter(pl.col("id").is_not_null() & pl.col("id").is_duplicated())
    return rows.group_by("id").agg(pl.col("_index").cast(pl.Int64).sort().alias("_all"))


def _merged(frame: pl.DataFrame, equal: pl.DataFrame, source: str, license: str) -> pl.DataFrame:
    """Rows with their positions, given which are equal.

    Args:
        frame: The rows.
        equal: What `_equal` gives.
        source: Where the rows come from.
        license: On what terms.
    """
    frame = frame.with_columns(pl.col("_index").cast(pl.Int64))
    frame = frame.join(equal, on="id", how="left", maintain_order="left")
    first = pl.col("_all").list.first()
    is_duplicate = (first < pl.col("_index")).fill_null(False)
    single = pl.concat_list("_index")
    indices = pl.when(first == pl.col("_index")).then(pl.col("_all")).otherwise(single)
    origin = pl.struct(
        pl.lit(source).alias("source"),
        pl.element().alias("index"),
        pl.lit(license).alias("license"),
    )
    is_read = pl.col("id").is_not_null()
    reason, proof = verdict(is_duplicate, "duplicate", _evidence(source, first))
    if "drop_reason" in frame.columns:
        reason, proof = (
            pl.coalesce(reason, "drop_reason").alias("drop_reason"),
            pl.coalesce(proof, "evidence").alias("evidence"),
        )
    return frame.with_columns(
        pl.when(is_read).then(indices.list.eval(origin)).alias("origins"), reason, proof
    ).drop("_index", "_all")


def _evidence(source: str, first: pl.Expr) -> pl.Expr:
    # Concatenated, with the white space of `evidence_json`: 200,000 rows in 0.05 s instead of
    # the 0.09 s that `evidence` takes.
    name = json.dumps(source, ensure_ascii=False)
    position = f'{{"source": {name}, "index": '
    return pl.concat_str(
        pl.lit('{"id": "'),
        pl.col("id"),
        pl.lit(f'", "kept": {position}'),
        first,
        pl.lit(f'}}, "dropped": {position}'),
        pl.col("_index"),
        pl.lit("}}"),
    )


class _Spool:
    """Frames that are written once they are many, and read in the order in which they came.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: Path) -> None:
        self._parent = folder
        self._folder: TemporaryDirectory[str] | None = None
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        self._paths: list[Path] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Take the next frame."""
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes > _PART_BYTES:
            if self._folder is None:
                self._folder = TemporaryDirectory(prefix="spool-", dir=self._parent)
            path = Path(self._folder.name) / f"{len(self._paths):05d}.arrow"
            pl.concat(self._waiting).write_ipc(path, compression="lz4")
            self._paths.append(path)
            self._waiting, self._bytes = [], 0

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows: a frame for each file, and one of those that are in memory."""
        for path in self._paths:
            yield pl.scan_ipc(path).collect()
            path.unlink()
        if self._waiting:
            yield pl.concat(self._waiting)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._folder.cleanup()
