"""Graph cut: similarity to all rows less a penalty for similarity among the picked ones.

As in Iyer et al. 2021 and Kothawade et al. 2022, where the penalty is called lambda.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from stages._vectors.arrays import to_host
from stages.select.diverse.lazy_greedy import DECIMALS, ROUNDING, DeferredGains
from stages.select.diverse.mixed_precision import Floats, Positions, VectorSet


class GraphCutObjective:
    """f(A) = sum of s(v, a) over all rows v and a in A, minus `penalty` times the sum of
    s(a, b) over a and b in A; s is the cosine. Both orders of a pair count, and s(a, a) too.

    The gain of u is the product of u with one vector, the sum of all rows minus twice the
    penalty times the sum of the picked ones, minus the penalty: no pair is needed.
    """

    shrinking = False
    deferred: DeferredGains | None = None

    def __init__(self, vectors: VectorSet, count: int, held: Positions, penalty: float) -> None:
        """Begin with the rows that are held.

        Args:
            vectors: The rows, `count` of them, and behind them others.
            count: The number of rows.
            held: Positions of rows that count as picked.
            penalty: What similarity among the picked rows costs.
        """
        self._vectors, self._penalty = vectors, penalty
        self.upper_bounds = np.full(count, np.inf)
        self.fresh = np.ones(count, np.bool_)
        self._direction = vectors.total(np.arange(count)) - 2 * penalty * vectors.total(held)
        self._evaluate()

    def _evaluate(self) -> None:
        values = self._vectors.float32.values[: len(self.upper_bounds)]
        xp = array_namespace(values)
        direction = xp.asarray(self._direction.astype(np.float32), device=values.device)
        length = float(np.linalg.norm(self._direction))
        tolerance = 2 * self._vectors.float32.error * length + ROUNDING
        products = to_host(values @ direction).astype(np.float64)
        self.upper_bounds = products + (tolerance - self._penalty)

    def update_on_pick(self, rows: Positions) -> None:
        """Nothing, as with `refresh`."""

    def refresh(self, rows: Positions) -> None:
        """Nothing: all rows are evaluated at each pick, because gains may grow where s < 0."""

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded; they become their upper bounds."""
        gains = self._vectors.times(rows, self._direction) - self._penalty
        self.upper_bounds[rows] = np.round(gains, DECIMALS)
        return self.upper_bounds[rows]

    def add(self, row: int) -> None:
        """Pick a row."""
        self._direction -= 2 * self._penalty * self._vectors.total(np.array([row]))
        self._evaluate()
