"""The rows of a step by verdict, written as they come: none of them is kept in memory.

Every row is kept, dropped or failed, so in + created = kept + dropped + failed holds by
construction. Each file is in id order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import polars as pl

from pipeline.execution.contract import contract_error, empty_rows
from pipeline.execution.plan import PlannedStep
from pipeline.stage import VERDICT
from pipeline.store.hashing import ColumnDigest
from pipeline.store.parquet import TableWriter, to_arrow, write_frame
from pipeline.store.sorting import SortedRows
from schemas.manifest import FAILED, Counts
from schemas.records import polars_schema

_NOT_STORED: Final = MappingProxyType(
    {"kept": (*VERDICT, "file", "line"), "dropped": ("error", "file", "line")}
)


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of a step.

    Attributes:
        counts: Their numbers.
        columns: A digest for each column of the kept ones; none of a step without rows.
        computed: How many rows were not cached.
    """

    counts: Counts
    columns: dict[str, str]
    computed: int


def without_rows() -> Outcome:
    """The outcome of a step that gives files alone."""
    return Outcome({"in": 0, "created": 0, "kept": 0, "dropped": {}, "failed": 0}, {}, 0)


class RowsWriter:
    """Writes `kept.parquet`, and `dropped.parquet` and `failed.parquet` where there are such rows.

    Args:
        planned: The step.
        folder: Where to write, and where rows are sorted that come in another order.
    """

    def __init__(self, planned: PlannedStep, folder: Path) -> None:
        self._planned, self._folder = planned, folder
        self._files = ExitStack()
        self._thread = self._files.enter_context(ThreadPoolExecutor(1))
        self._writers: dict[str, TableWriter] = {}
        self._digests: dict[str, ColumnDigest] = {}
        self._last_id: str | None = None
        self._failed: list[pl.DataFrame] = []
        self._reasons: Counter[str] = Counter()
        self._added = 0
        self._sorted = {name: SortedRows(folder) for name in _NOT_STORED}

    def add(self, rows: pl.DataFrame) -> None:
        """Take the next rows: by id where the stage annotates rows, else in any order.

        Args:
            rows: With their verdicts, as `validated` gives them.

        Raises:
            UserError: A kept row has no id, or that of another.
        """
        self._added += len(rows)
        is_failed = pl.col("error").is_not_null()
        is_dropped = ~is_failed & pl.col("drop_reason").is_not_null()
        selected = {"kept": ~is_failed & ~is_dropped, "dropped": is_dropped}
        for name, condition in selected.items():
            part = rows.filter(condition).drop(*_NOT_STORED[name], strict=False)
            part = part.rename(dict(self._planned.step.rename), strict=False)
            if self._planned.step.stage.creates:
                self._sorted[name].add(part)
            else:
                self._write(name, part)
        self._failed.append(
            rows.filter(is_failed).select(
                pl.col(name).cast(dtype)
                if name in rows.columns
                else pl.lit(None, dtype).alias(name)
                for name, dtype in polars_schema(FAILED).items()
            )
        )

    def _write(self, name: str, part: pl.DataFrame) -> None:
        if name == "dropped":
            self._reasons.update(dict(part["drop_reason"].value_counts().iter_rows()))
            if not len(part):
                return
        table = to_arrow(part)
        if name not in self._writers:
            path = self._folder / f"{name}.parquet"
            self._writers[name] = self._files.enter_context(TableWriter(path, table.schema))
        # Writing and hashing both release the GIL, so they run at the same time.
        written = self._thread.submit(self._writers[name].add, table)
        if name == "kept":
            self._check_ids(part["id"])
            for column in part.iter_columns():
                if column.name not in self._digests:
                    self._digests[column.name] = ColumnDigest(column.dtype, self._folder)
                self._digests[column.name].update(column)
        written.result()

    def _check_ids(self, ids: pl.Series) -> None:
        known = pl.Series([] if self._last_id is None else [self._last_id], dtype=pl.String)
        both = pl.concat([known, ids])
        if both.null_count() or not (both.shift(-1) > both).drop_nulls().all():
            raise contract_error(self._planned, "must keep unique ids, got a null or a repeated id")
        self._last_id = both[-1] if len(both) else None

    def finish(self, read: int | None, computed: int | None = None) -> Outcome:
        """Complete the files.

        Args:
            read: How many of the rows came in; None for all of them. The stage made the others.
            computed: How many were not cached; None for all of them.

        Raises:
            UserError: A kept row has no id, or that of another, or a stage over a list of inputs
                gave more or fewer rows than came.
        """
        if read and read != self._added:
            raise contract_error(
                self._planned,
                f"must return one row for each of the {read} input rows, got {self._added}",
            )
        for name, rows in self._sorted.items():
            for part in rows.parts():
                self._write(name, part)
        self._write("kept", self._empty())
        none = pl.DataFrame(schema=polars_schema(FAILED))
        failed = pl.concat([none, *self._failed]).sort("id", "file", "line")
        if len(failed):
            write_frame(self._folder / "failed.parquet", failed)
        kept = self._writers["kept"].rows
        self._files.close()
        came = self._added if read is None else read
        counts: Counts = {
            "in": came,
            "created": self._added - came,
            "kept": kept,
            "dropped": dict(sorted(self._reasons.items())),
            "failed": len(failed),
        }
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        return Outcome(counts, digests, self._added if computed is None else computed)

    def _empty(self) -> pl.DataFrame:
        rows = empty_rows(self._planned).drop(*_NOT_STORED["kept"], strict=False)
        return rows.rename(dict(self._planned.step.rename), strict=False)

    def close(self, error: BaseException | None) -> None:
        """Close the files of rows that are not complete."""
        self._files.__exit__(type(error) if error else None, error, None)


@contextmanager
def rows_writer(planned: PlannedStep, folder: Path) -> Iterator[RowsWriter]:
    """A writer whose files are closed whatever happens.

    Args:
        planned: The step.
        folder: Where to write.
    """
    writer = RowsWriter(planned, folder)
    try:
        yield writer
    except BaseException as error:
        writer.close(error)
        raise
