"""Greedy selection of rows by their vectors: the loop, and the objectives that need no pairs.

Every objective here has gains that never grow while rows are added (graph cut apart,
which evaluates all rows each time). So what a row once could gain is a ceiling of what
it can gain now, and only rows whose ceiling is above the best gain found are looked at
again: Minoux 1978, lazy greedy. It picks what the plain greedy picks.

There are two kinds of numbers. Ceilings come from products in float32, raised by the
most that such a product can be off, in whatever blocks are fast. What decides is taken
in float64 from the vectors themselves, for the few rows that can still win, and is
rounded, so that equal gains are equal and the first row wins. Where the ceilings alone
say which row wins, it is not asked for its gain until all are picked. The choice therefore
depends neither on blocks nor on threads, and numpy and torch agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from stages._vectors.arrays import to_host
from stages.select._submodular.mixed_precision import CELLS, Fast, Floats, Points, Positions, blocks

DECIMALS: Final = 9
"""Gains that agree to so many decimals are equal: float64 sums are only so exact."""

_ROUNDED: Final = 10.0**-DECIMALS
_AHEAD: Final = 1024
"""Rows among which the best is sought until all must be looked at again."""

_FIRST: Final = 128
"""Rows that are looked at first for each pick; twice as many each time that is too few."""


class Afterwards(NamedTuple):
    """What allows an objective's gains to be found once all rows are picked.

    blur: more than a fresh ceiling can be above the rounded gain. gains: given the rows
    picked, in their order, what each of them gained, rounded.
    """

    blur: float
    gains: Callable[[Positions], Floats]


class Objective(Protocol):
    """What is maximised. It holds the rows picked so far and what the others would gain.

    ceilings: no row's gain is above its own; shape (rows,). fresh: which of them were
    computed for the rows picked so far; the others are from before. shrinking: whether
    gains, and so ceilings, never grow while rows are added. afterwards: None where a gain
    must be taken when its row is picked.
    """

    ceilings: Floats
    fresh: NDArray[np.bool_]
    shrinking: bool
    afterwards: Afterwards | None

    def watch(self, rows: Positions) -> None:
        """These rows are asked for at each pick from now on, others only now and then."""
        ...

    def refresh(self, rows: Positions) -> None:
        """Lower the ceilings of rows to what they can gain now."""
        ...

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded to DECIMALS; they become their ceilings."""
        ...

    def add(self, row: int) -> None:
        """Pick a row, the best one; its exact gain was just asked for, or will be afterwards."""
        ...


class Picks(NamedTuple):
    """The rows picked, in the order of picking, and what each of them gained."""

    rows: Positions
    gains: Floats


Draw = Callable[[int, NDArray[np.bool_]], Positions | None]
"""Given how many rows are picked and which may be: among which of them the best is sought, None
for all of them."""


def every(picked: int, able: NDArray[np.bool_]) -> Positions | None:
    """Draw all rows: the plain greedy search."""
    return None


def greedy(
    objective: Objective,
    able: NDArray[np.bool_],
    prices: NDArray[np.int64],
    budget: int,
    draw: Draw = every,
    progress: Callable[[int, int], None] | None = None,
) -> Picks:
    """Pick the row of the largest gain, of equal ones the first, until no other fits the budget.

    able: which rows may be picked. prices: what each takes from the budget. Rows that
    no longer fit are passed over.
    """
    open_rows, search = able & (prices <= budget), _Search(objective)
    left, rows, gains = budget, list[int](), list[float]()
    dearest = int(prices.max(initial=0))
    while open_rows.any():
        drawn = draw(len(rows), open_rows)
        row, gain = search.best(open_rows) if drawn is None else best(objective, drawn)
        objective.add(row)
        rows.append(row)
        gains.append(gain)
        left -= int(prices[row])
        open_rows[row] = False
        if left < dearest:
            open_rows &= prices <= left
        if progress:
            progress(budget - left, budget)
    picks = Picks(np.array(rows, np.int64), np.array(gains))
    if objective.afterwards and np.isnan(picks.gains).any():
        return picks._replace(gains=objective.afterwards.gains(picks.rows))
    return picks


class _Search:
    """The best of all rows, sought among those that were ahead when all were looked at last.

    A gain above all ceilings that the other rows had then is above their gains now.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._ahead, self._bar = np.zeros(0, np.int64), math.inf

    def best(self, open_rows: NDArray[np.bool_]) -> tuple[int, float]:
        """The row of the largest gain among those that are open, and its gain, or NaN."""
        ahead = self._ahead[open_rows[self._ahead]]
        row, gain = best(self._objective, ahead, self._bar)
        if gain <= self._bar:
            rows = np.flatnonzero(open_rows)
            row, gain = best(self._objective, rows)
            if self._objective.shrinking and len(rows) > _AHEAD:
                self._look_ahead(rows)
        return row, gain

    def _look_ahead(self, rows: Positions) -> None:
        ceilings = self._objective.ceilings[rows]
        order = np.argpartition(ceilings, len(rows) - _AHEAD - 1)
        self._ahead = np.sort(rows[order[-_AHEAD:]])
        self._bar = float(ceilings[order[-_AHEAD - 1]])
        self._objective.watch(self._ahead)


def best(objective: Objective, rows: Positions, bar: float = -math.inf) -> tuple[int, float]:
    """The row of the largest gain among some, the first of equal ones, and its gain.

    The gain is NaN if it can be found afterwards, and is above the bar in any case.
    """
    if objective.afterwards and len(rows):
        ceilings = objective.ceilings[rows]
        first = int(ceilings.argmax())
        least, ceilings[first] = ceilings[first] - objective.afterwards.blur, -math.inf
        if objective.fresh[rows[first]] and least > max(bar, ceilings.max()):
            return int(rows[first]), math.nan
    winner, top, stale_size, fresh_size = -1, -math.inf, _FIRST, 1
    known = np.zeros(len(rows), np.bool_)
    while True:
        ceilings = objective.ceilings[rows]
        rivals = np.flatnonzero(~known & ((ceilings > top) | ((ceilings == top) & (rows < winner))))
        if not len(rivals):
            return winner, top
        fresh = rivals[objective.fresh[rows[rivals]]]
        if not len(fresh):
            objective.refresh(rows[_largest(ceilings, rivals, stale_size)])
            stale_size *= 2
            continue
        tried = _largest(ceilings, fresh, fresh_size)  # a gain that is known spares many others
        gains = objective.exact(rows[tried])
        known[tried] = True
        fresh_size *= 2
        for row, gain in zip(rows[tried].tolist(), gains.tolist(), strict=True):
            if gain > top or (gain == top and row < winner):
                winner, top = row, gain


def _largest(ceilings: Floats, rows: Positions, size: int) -> Positions:
    """The rows with the largest ceilings, `size` of them, in no order; the first of equal ones
    where one is wanted."""
    if size == 1:
        return rows[[np.argmax(ceilings[rows])]]
    if len(rows) <= size:
        return rows
    return rows[np.argpartition(-ceilings[rows], size)[:size]]


class KCenter:
    """Greedy k-center: the gain of a row is its distance to the nearest centre.

    Gonzalez 1985; for selecting data Sener and Savarese 2018, arXiv:1708.00489. The
    distance is 1 minus the cosine, or the Euclidean one; infinite without a centre.

    A row's distance is brought up to date only when the row can be the farthest, and
    then with all centres that it has not seen, in one product; that of a row which is
    watched, at each pick.
    """

    shrinking = True

    def __init__(self, points: Points, count: int, centres: Positions) -> None:
        """points: the rows, `count` of them, and behind them others that may be centres."""
        self._points = points
        self._centres = _Centres(points, centres)
        self._far = 0.0 if points.norms is None else 1.0  # the distance at similarity 0
        self._seen = np.zeros(count, np.int64)
        self._watched = np.zeros(0, np.int64)
        self.ceilings = np.full(count, np.inf)
        self.fresh = np.full(count, not len(centres))
        self.afterwards: Afterwards | None = None
        if points.norms is not None:
            self.afterwards = Afterwards(2 * points.fast.error + 2 * _ROUNDED, self._gained)

    def watch(self, rows: Positions) -> None:
        self._watched = rows
        self._near = self._points.fast.take(rows)
        if not self.fresh[rows].all():
            self.refresh(rows)

    def refresh(self, rows: Positions) -> None:
        unseen = self._centres.since(int(self._seen[rows].min()))
        for part in blocks(len(rows), len(unseen.values), CELLS):
            self._lower(rows[part], self._points.fast.take(rows[part]), unseen)

    def _lower(self, rows: Positions, some: Fast, centres: Fast) -> None:
        near = to_host(array_namespace(some.values).max(some.bounds(centres, -1), axis=1))
        found = self._far - near.astype(np.float64) + _ROUNDED
        self.ceilings[rows] = np.minimum(self.ceilings[rows], found)
        self._seen[rows] = self._centres.count
        self.fresh[rows] = True

    def exact(self, rows: Positions) -> Floats:
        centres = self._centres
        if not centres.count:
            return np.full(len(rows), np.inf)
        near = self._points.nearest(rows, centres.rows[: centres.count], centres.since(0))[1]
        self.ceilings[rows] = np.round(self._far - near, DECIMALS)
        return self.ceilings[rows]

    def add(self, row: int) -> None:
        self._centres.append(row)
        self.fresh[:] = False
        if len(self._watched):
            self._lower(self._watched, self._near, self._centres.since(self._centres.count - 1))

    def _gained(self, picked: Positions) -> Floats:
        """How far each of the picked rows, the last centres, is from those before it."""
        rows, targets = self._centres.rows[: self._centres.count], self._centres.since(0)
        before = len(rows) - len(picked)
        near = np.full(len(picked), -np.inf)
        for part in blocks(len(picked), len(rows), CELLS):
            own = slice(before + part.start, before + part.stop)
            products = to_host(targets.take(own).values @ targets.values.T)
            earlier = np.arange(len(rows)) < np.arange(own.start, own.stop)[:, None]
            products[~earlier] = -np.inf
            least = products.max(axis=1, keepdims=True) - 2 * targets.error
            mine, other = np.nonzero((products >= least) & earlier)
            similar = self._points.similarity(rows[own][mine], rows[other])
            np.maximum.at(near[part], mine, similar)
        return np.round(self._far - near, DECIMALS)


class _Centres:
    """Rows that become more, and their vectors in one piece, which has room for as many again."""

    def __init__(self, points: Points, rows: Positions) -> None:
        self._points, self.count = points, len(rows)
        self._make_room(rows)

    def append(self, row: int) -> None:
        if self.count == len(self.rows):
            self._make_room(self.rows)
        at = self._points.fast.take(slice(row, row + 1))
        self.rows[self.count] = row
        self._fast.values[self.count] = at.values[0]
        if self._fast.squares is not None:
            self._fast.squares[self.count] = at.squares[0]
        self.count += 1

    def since(self, first: int) -> Fast:
        """Those from a place on."""
        return self._fast.take(slice(first, self.count))

    def _make_room(self, rows: Positions) -> None:
        self.rows = np.concatenate([rows, np.zeros(len(rows) + 1, np.int64)])
        self._fast = self._points.fast.take(self.rows)


class GraphCut:
    """f(A) = sum of s(v, a) over all rows v and a in A, minus `penalty` times the sum of
    s(a, b) over a and b in A; s is the cosine. Both orders of a pair count, and s(a, a) too.

    As in Kothawade et al. 2022 and Iyer et al. 2021, where the penalty is called lambda.
    The gain of u is the product of u with one vector, the sum of all rows minus twice
    the penalty times the sum of the picked ones, minus the penalty: no pair is needed.
    """

    shrinking = False
    afterwards: Afterwards | None = None

    def __init__(self, points: Points, count: int, held: Positions, penalty: float) -> None:
        """points: the rows, `count` of them, and behind them others, picked before (`held`)."""
        self._points, self._penalty = points, penalty
        self.ceilings = np.full(count, np.inf)
        self.fresh = np.ones(count, np.bool_)
        self._aim = points.total(np.arange(count)) - 2 * penalty * points.total(held)
        self._evaluate()

    def _evaluate(self) -> None:
        fast = self._points.fast.values[: len(self.ceilings)]
        aim = array_namespace(fast).asarray(self._aim.astype(np.float32), device=fast.device)
        slack = 2 * self._points.fast.error * float(np.linalg.norm(self._aim)) + _ROUNDED
        self.ceilings = to_host(fast @ aim).astype(np.float64) + (slack - self._penalty)

    def watch(self, rows: Positions) -> None:
        """Nothing, as with `refresh`."""

    def refresh(self, rows: Positions) -> None:
        """Nothing: all rows are evaluated at each pick, because gains may grow where s < 0."""

    def exact(self, rows: Positions) -> Floats:
        gains = self._points.times(rows, self._aim) - self._penalty
        self.ceilings[rows] = np.round(gains, DECIMALS)
        return self.ceilings[rows]

    def add(self, row: int) -> None:
        self._aim -= 2 * self._penalty * self._points.total(np.array([row]))
        self._evaluate()
