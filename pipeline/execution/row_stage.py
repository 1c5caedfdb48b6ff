"""A row-scope stage over rows that need not fit into memory.

Rows come a row group at a time and leave in the same order. Those that are in the row cache
are not computed; equal rows are computed once; each chunk is added to the cache as soon as it
is done, and read back from there when all rows before it are done, so that the results of a
row group are in memory and not those of all rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.backends import StageCall
from pipeline.execution.contract import empty_rows, validated
from pipeline.execution.plan import PlannedStep
from pipeline.execution.workers import WorkerPool
from pipeline.store.hashing import row_keys
from pipeline.store.row_cache import KEY, RowCache
from pipeline.store.row_view import Rows

Take = Callable[[pl.DataFrame], None]


@dataclass
class RowStage:
    """One call of a row-scope stage.

    Args:
        planned: The step.
        rows: Those of its first input.
        cache: The results of earlier calls.
        take: Is called with the results of rows, in their order.

    Attributes:
        computed: How many rows were not cached.
    """

    planned: PlannedStep
    rows: Rows
    cache: RowCache
    take: Take
    computed: int = field(default=0, init=False)
    _waiting: deque[pl.DataFrame] = field(default_factory=deque, init=False)
    _pending: set[str] = field(default_factory=set, init=False)
    _uncached: list[pl.DataFrame] = field(default_factory=list, init=False)

    def run(self, edges: dict[str, Any], ctx: Context, pool: WorkerPool) -> int:
        """Compute what is not cached, and give every row's result.

        Args:
            edges: The other inputs.
            ctx: The context of the step.
            pool: Computes chunks.

        Returns:
            How many rows were computed.

        Raises:
            UserError: The stage broke its contract, or raised one itself.
        """
        self._check_cache()
        stage = self.planned.step.stage
        call = StageCall(stage, self.planned.options, edges, ctx.work)
        total = self._new_rows() if len(self.cache) else len(self.rows)
        for chunk, result in pool.run(call, self._feed(), total, ctx):
            output = validated(self.planned, result, chunk["id"])
            self._add(output.with_columns(chunk[KEY]).drop("id"), ctx)
            self.computed += len(chunk)
            ctx.progress(self.computed, max(total, self.computed))
            self._give()
        self._give()
        self.cache.compact()
        return self.computed

    def _check_cache(self) -> None:
        """Refuse cached rows with other columns than the stage gives now.

        Raises:
            UserError: There are some.
        """
        columns = {KEY, *empty_rows(self.planned).columns} - {"id", "error"}
        if any(names != columns for names in self.cache.columns):
            raise UserError(
                f"the cached rows of {self.planned.step.stage.name} have other columns than it "
                "gives now",
                where=self.planned.step.where,
                why="they were computed by other code under the same version",
                hint="raise version= in @stage: then they are computed again",
            )

    def _keyed(self) -> Iterator[pl.DataFrame]:
        """The rows with their keys, a row group at a time."""
        # An id is a hash of the messages and the tools.
        id_is_key = {*self.rows.columns} <= {"id", "messages", "tools"}
        for part in self.rows.parts():
            keys = part["id"] if id_is_key else row_keys(part.drop("id"))
            yield part.with_columns(keys.alias(KEY))

    def _new_rows(self) -> int:
        return sum(int((~self.cache.knows(part[KEY])).sum()) for part in self._keyed())

    def _feed(self) -> Iterator[pl.DataFrame]:
        """The rows to compute."""
        for part in self._keyed():
            new = part.filter(~self.cache.knows(part[KEY]))
            new = new.unique(KEY, keep="first", maintain_order=True)
            new = new.filter(~pl.col(KEY).is_in(self._known_here()))
            self._waiting.append(part.select("id", KEY))
            self._pending.update(new[KEY])
            if len(new):
                yield new
            else:
                self._give()

    def _known_here(self) -> list[str]:
        return [*self._pending, *(key for frame in self._uncached for key in frame[KEY])]

    def _add(self, output: pl.DataFrame, ctx: Context) -> None:
        """Cache what succeeded, and keep the rest until its rows are given."""
        self._pending.difference_update(output[KEY])
        is_failed = pl.col("error").is_not_null()
        # What followed from an answer that is missing is no result of its row.
        if ctx.budget.not_sent:
            self._uncached.append(output)
            return
        if len(succeeded := output.filter(~is_failed).drop("error")):
            self.cache.add(succeeded)
        if len(failed := output.filter(is_failed)):
            self._uncached.append(failed)

    def _give(self) -> None:
        """Give the results of the first parts that are complete."""
        while self._waiting and self._pending.isdisjoint(self._waiting[0][KEY]):
            part = self._waiting.popleft()
            empty = empty_rows(self.planned).drop("id").with_columns(KEY_COLUMN)
            known = part[KEY].filter(self.cache.knows(part[KEY])).unique(maintain_order=True)
            results = [empty, *([self.cache.rows(known)] if len(known) else [])]
            results += [rows.filter(pl.col(KEY).is_in(part[KEY])) for rows in self._uncached]
            by_key = pl.concat(results, how="diagonal").unique(KEY, keep="last")
            assert len(by_key) == part[KEY].n_unique(), "every row has a result"
            joined = part.join(by_key, on=KEY, how="left", maintain_order="left")
            self.take(joined.drop(KEY))


KEY_COLUMN = pl.lit(None, pl.String()).alias(KEY)
