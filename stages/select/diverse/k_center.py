"""Greedy k-center: the row farthest from all rows picked so far.

Gonzalez 1985; for selecting data Sener and Savarese 2018, arXiv:1708.00489.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from stages._vectors.arrays import to_host
from stages.select.diverse.lazy_greedy import DECIMALS, ROUNDING, DeferredGains
from stages.select.diverse.mixed_precision import (
    CELLS,
    Float32View,
    Floats,
    Positions,
    VectorSet,
    blocks,
)


class KCenterObjective:
    """The gain of a row is its distance to the nearest center.

    The distance is 1 minus the cosine, or the Euclidean one; infinite without a center.

    A row's distance is updated only when the row can be the farthest, and then with all
    centers added since, in one product; that of the leaders, at each pick.
    """

    shrinking = True

    def __init__(self, vectors: VectorSet, count: int, centers: Positions) -> None:
        """Begin with some centers.

        Args:
            vectors: The rows, `count` of them, and behind them others that may be centers.
            count: The number of rows.
            centers: Positions of the first centers, perhaps none.
        """
        self._vectors = vectors
        self._centers = _Centers(vectors, centers)
        self._far = 0.0 if vectors.norms is None else 1.0  # the distance at similarity 0
        self._num_seen = np.zeros(count, np.int64)
        self._leaders = np.zeros(0, np.int64)
        self.upper_bounds = np.full(count, np.inf)
        self.fresh = np.full(count, not len(centers))
        self.deferred: DeferredGains | None = None
        if vectors.norms is not None:
            tolerance = 2 * vectors.float32.error + 2 * ROUNDING
            self.deferred = DeferredGains(tolerance, self._gains_of)

    def update_on_pick(self, rows: Positions) -> None:
        """Keep the distances of these rows current at each pick."""
        self._leaders = rows
        self._leader_vectors = self._vectors.float32.take(rows)
        if not self.fresh[rows].all():
            self.refresh(rows)

    def refresh(self, rows: Positions) -> None:
        """Lower the upper bounds of rows to what they can gain now."""
        unseen = self._centers.since(int(self._num_seen[rows].min()))
        for part in blocks(len(rows), len(unseen.values), CELLS):
            self._lower(rows[part], self._vectors.float32.take(rows[part]), unseen)

    def _lower(self, rows: Positions, view: Float32View, centers: Float32View) -> None:
        bounds = view.bounds(centers, -1)
        similarities = to_host(array_namespace(view.values).max(bounds, axis=1))
        distances = self._far - similarities.astype(np.float64) + ROUNDING
        self.upper_bounds[rows] = np.minimum(self.upper_bounds[rows], distances)
        self._num_seen[rows] = self._centers.count
        self.fresh[rows] = True

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded; they become their upper bounds."""
        centers = self._centers
        if not centers.count:
            return np.full(len(rows), np.inf)
        positions = centers.rows[: centers.count]
        similarities = self._vectors.nearest(rows, positions, centers.since(0))[1]
        self.upper_bounds[rows] = np.round(self._far - similarities, DECIMALS)
        return self.upper_bounds[rows]

    def add(self, row: int) -> None:
        """Pick a row."""
        self._centers.append(row)
        self.fresh[:] = False
        if len(self._leaders):
            newest = self._centers.since(self._centers.count - 1)
            self._lower(self._leaders, self._leader_vectors, newest)

    def _gains_of(self, picked: Positions) -> Floats:
        """How far each of the picked rows, the last centers, is from those before it."""
        rows, targets = self._centers.rows[: self._centers.count], self._centers.since(0)
        first = len(rows) - len(picked)
        similarities = np.full(len(picked), -np.inf)
        for part in blocks(len(picked), len(rows), CELLS):
            span = slice(first + part.start, first + part.stop)
            products = to_host(targets.take(span).values @ targets.values.T)
            earlier = np.arange(len(rows)) < np.arange(span.start, span.stop)[:, None]
            products[~earlier] = -np.inf
            least = products.max(axis=1, keepdims=True) - 2 * targets.error
            row, other = np.nonzero((products >= least) & earlier)
            exact = self._vectors.similarity(rows[span][row], rows[other])
            np.maximum.at(similarities[part], row, exact)
        return np.round(self._far - similarities, DECIMALS)


class _Centers:
    """A growing list of rows with their vectors in one array, which doubles when it is full."""

    def __init__(self, vectors: VectorSet, rows: Positions) -> None:
        self._vectors, self.count = vectors, len(rows)
        self._grow(rows)

    def append(self, row: int) -> None:
        if self.count == len(self.rows):
            self._grow(self.rows)
        view = self._vectors.float32.take(slice(row, row + 1))
        self.rows[self.count] = row
        self._view.values[self.count] = view.values[0]
        if self._view.squares is not None:
            self._view.squares[self.count] = view.squares[0]
        self.count += 1

    def since(self, first: int) -> Float32View:
        """The centers from a position on."""
        return self._view.take(slice(first, self.count))

    def _grow(self, rows: Positions) -> None:
        self.rows = np.concatenate([rows, np.zeros(len(rows) + 1, np.int64)])
        self._view = self._vectors.float32.take(self.rows)
