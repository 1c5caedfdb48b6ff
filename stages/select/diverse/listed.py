"""Similarities that a column lists, in place of those of vectors: DELIFT's utilities.

Each row lists some others with what it is worth to them; to those that it does not list, itself
among them, it is worth nothing, and a value below 0 is nothing as well. Worth has a direction: a
picked row covers the rows that it lists. There are few pairs, so that every gain is a sum over
them and no bound is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ragged import offsets_of
from stages.select.diverse.facility_location import Cover
from stages.select.diverse.lazy_greedy import DECIMALS, DeferredGains
from stages.select.diverse.mixed_precision import Floats, Positions


class Listed(NamedTuple):
    """Pairs of rows, by their positions among those of all edges; every value is above 0.

    Attributes:
        sources: The rows that list, ascending.
        targets: The rows that they list.
        values: What the one is worth to the other.
    """

    sources: Positions
    targets: Positions
    values: Floats

    @classmethod
    def of(cls, column: str, edges: Sequence[pl.DataFrame]) -> Listed:
        """The pairs of all edges; ids that are on none of them count for nothing.

        Args:
            column: Lists of `id` and `value`; an edge without it lists nothing.
            edges: The rows, those that are held, and the target.

        Example:
            >>> lists = [[{"id": "b", "value": 0.5}, {"id": "x", "value": 1.0}], None]
            >>> rows = pl.DataFrame({"id": ["a", "b"], "worth": lists})
            >>> Listed.of("worth", [rows])
            Listed(sources=array([0]), targets=array([1]), values=array([0.5]))
        """
        ids = pl.concat([edge["id"] for edge in edges]).to_frame().with_row_index("target")
        parts, first = [], 0
        for edge in edges:
            if column in edge.columns and len(edge):
                numbered = edge.select(column).with_row_index("source", offset=first)
                parts.append(numbered.explode(column).drop_nulls(column).unnest(column))
            first += len(edge)
        none = pl.DataFrame(schema={"source": pl.UInt32, "id": pl.String, "value": pl.Float32})
        pairs = pl.concat([none, *(part.cast(dict(none.schema)) for part in parts)])
        pairs = pairs.filter(pl.col("value") > 0).join(ids, on="id").sort("source", "target")
        return cls(
            pairs["source"].to_numpy().astype(np.int64),
            pairs["target"].to_numpy().astype(np.int64),
            pairs["value"].to_numpy().astype(np.float64),
        )

    def outgoing(self, rows: Positions, others: Positions) -> Floats:
        """The most that each row is worth to one of the others, 0 where it lists none."""
        return Listed(self.targets, self.sources, self.values).incoming(rows, others)

    def incoming(self, rows: Positions, others: Positions) -> Floats:
        """The most that one of the others is worth to each row, 0 where none lists it."""
        inside = np.isin(self.sources, others)
        best = np.zeros(int(max(self.targets.max(initial=0), rows.max(initial=0))) + 1)
        np.maximum.at(best, self.targets[inside], self.values[inside])
        return best[rows]

    def nearest(self, rows: Positions, others: Positions) -> tuple[Positions, Floats]:
        """Which of the others is worth most to each row: its index, -1 for none, and the value."""
        index, value = np.full(len(rows), -1), self.incoming(rows, others)
        place = {int(other): i for i, other in enumerate(others)}
        numbers = {int(row): i for i, row in enumerate(rows)}
        for source, target, worth in zip(*self, strict=True):
            i = numbers.get(int(target), -1)
            if i >= 0 and index[i] < 0 and worth == value[i]:
                index[i] = place.get(int(source), -1)
        return index, np.where(index >= 0, value, np.nan)


class ListedObjective:
    """`scale` times the sum of the covers, plus the `extra` of the picked rows.

    The same as `CoverageObjective` of a matrix that is 0 where nothing is listed.

    Example:
        >>> from stages._selection.amounts import Amount
        >>> from stages.select.diverse.lazy_greedy import greedy
        >>> listed = Listed(np.array([0, 1, 2]), np.array([1, 0, 0]), np.array([0.5, 0.7, 0.9]))
        >>> cover = Cover(slice(0, 3), np.zeros(3), None, 1.0, np.zeros(3))
        >>> objective = ListedObjective(listed, cover)
        >>> greedy(objective, np.ones(3, bool), np.ones(3, int), Amount(2)).rows.tolist()
        [2, 0]
    """

    shrinking = True
    deferred: DeferredGains | None = None

    def __init__(self, listed: Listed, cover: Cover) -> None:
        """Begin with nothing picked.

        Args:
            listed: What rows are worth to others.
            cover: What is to be covered; the rows that may be picked are the first ones.
        """
        count, span = len(cover.extra), cover.represented
        kept = (listed.sources < count) & (listed.targets >= span.start)
        kept &= listed.targets < span.stop
        sources = listed.sources[kept]
        self._starts = offsets_of(np.bincount(sources, minlength=count))
        self._targets = listed.targets[kept] - span.start
        self._cover, self._task = cover.start.copy(), cover
        cap = np.full(len(cover.start), np.inf) if cover.cap is None else cover.cap
        self._values = np.minimum(listed.values[kept], cap[self._targets])
        self.upper_bounds = np.full(count, np.inf)
        self.fresh: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.exact(np.arange(count))

    def update_on_pick(self, rows: Positions) -> None:
        """Nothing: gains are computed when they are asked for."""

    def refresh(self, rows: Positions) -> None:
        """Compute the gains of rows."""
        self.exact(rows)

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded; they become their upper bounds."""
        for row in rows[~self.fresh[rows]]:  # of few pairs each
            pairs = slice(self._starts[row], self._starts[row + 1])
            rises = self._values[pairs] - self._cover[self._targets[pairs]]
            gain = self._task.scale * np.maximum(rises, 0).sum() + self._task.extra[row]
            self.upper_bounds[row] = np.round(gain, DECIMALS)
        self.fresh[rows] = True
        return self.upper_bounds[rows]

    def add(self, row: int) -> None:
        """Pick a row."""
        pairs = slice(self._starts[row], self._starts[row + 1])
        np.maximum.at(self._cover, self._targets[pairs], self._values[pairs])
        self.fresh[:] = False
