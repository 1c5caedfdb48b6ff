"""Greedy selection of rows by their vectors: the loop, and what it requires of an objective.

Every objective here has gains that never grow while rows are added (except graph cut, which
evaluates all rows each time). So a gain computed earlier is an upper bound of the gain now,
and only rows whose upper bound is above the best gain so far are evaluated again: Minoux
1978, lazy greedy. It picks what the plain greedy search picks.

There are two kinds of numbers. Upper bounds come from products in float32, raised by the
largest error that such a product can have, in whatever blocks are fast. What decides is
computed in float64 from the vectors themselves, for the few rows that can still win, and is
rounded, so that equal gains are equal and the first row wins. Where the upper bounds alone
show which row wins, its gain is computed only once all rows are picked. The choice therefore
depends neither on blocks nor on threads, and numpy and torch agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stages._selection.amounts import Amount
from stages.select.diverse.mixed_precision import Floats, Positions

DECIMALS: Final = 9
"""Gains that agree to so many decimals are equal: float64 sums are only so exact."""

ROUNDING: Final = 10.0**-DECIMALS
"""More than rounding changes a gain."""

_LEADERS: Final = 1024
"""Rows among which the best is searched for until all must be evaluated again."""

_FIRST: Final = 128
"""Rows that are evaluated first for each pick; twice as many each time that is too few."""


class DeferredGains(NamedTuple):
    """What allows an objective's gains to be computed once all rows are picked.

    Attributes:
        tolerance: More than a fresh upper bound can be above the rounded gain.
        gains: Given the rows picked, in their order, the rounded gain of each.
    """

    tolerance: float
    gains: Callable[[Positions], Floats]


class Objective(Protocol):
    """What is maximized. It holds the rows picked so far and what the others would gain.

    Attributes:
        upper_bounds: No row's gain is above its own; shape (rows,).
        fresh: Which of them were computed for the rows picked so far, shape (rows,); the
            others are from before.
        shrinking: Whether gains, and so upper bounds, never grow while rows are added.
        deferred: None where a gain must be computed when its row is picked.
    """

    upper_bounds: Floats
    fresh: NDArray[np.bool_]
    shrinking: bool
    deferred: DeferredGains | None

    def update_on_pick(self, rows: Positions) -> None:
        """Expect requests for these rows at each pick from now on, for others rarely."""
        ...

    def refresh(self, rows: Positions) -> None:
        """Lower the upper bounds of rows to what they can gain now."""
        ...

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded to DECIMALS; they become their upper bounds."""
        ...

    def add(self, row: int) -> None:
        """Pick a row, the best one, whose exact gain was just computed or is deferred."""
        ...


class Picks(NamedTuple):
    """The rows picked, in the order of picking.

    Attributes:
        rows: Their positions.
        gains: What each of them gained.
    """

    rows: Positions
    gains: Floats


Draw = Callable[[int, NDArray[np.bool_]], Positions | None]
"""Given how many rows are picked and a mask of those that may be: among which of them the best
is searched for, None for all of them."""


def all_rows(num_picked: int, open_rows: NDArray[np.bool_]) -> Positions | None:
    """Search all rows: the plain greedy choice."""
    return None


def greedy(
    objective: Objective,
    candidates: NDArray[np.bool_],
    costs: NDArray[np.int64],
    amount: Amount,
    draw: Draw = all_rows,
    progress: Callable[[int, int], None] | None = None,
) -> Picks:
    """Pick the row of the largest gain, again and again, until no other fits the budget.

    In: an objective, the rows that may be picked, their costs, a budget.
    Out: the rows picked in order, and their gains.

    The same as `is_greedy` in tests/stages/select/test_lazy_greedy.py checks, the loop that
    evaluates every row for every pick; faster because upper bounds rule most rows out. Of
    equal gains the first row is picked. Rows that no longer fit are passed over.

    Args:
        objective: What is maximized.
        candidates: Which rows may be picked, shape (rows,).
        costs: What each row uses of the budget, shape (rows,).
        amount: What may be spent in all.
        draw: Among which rows each pick is searched for.
        progress: Called with the budget spent and the budget after each pick.

    Example:
        >>> from stages._vectors.arrays import parallel_map
        >>> from stages.select.diverse.k_center import KCenterObjective
        >>> from stages.select.diverse.mixed_precision import VectorSet
        >>> line = np.array([[0.0], [1.0], [9.0], [5.0]], np.float32)
        >>> with parallel_map() as each:
        ...     objective = KCenterObjective(VectorSet.euclidean(each, line), 4, np.array([0]))
        ...     picks = greedy(objective, np.ones(4, bool), np.ones(4, int), Amount(2))
        >>> picks.rows.tolist(), picks.gains.tolist()
        ([2, 3], [9.0, 4.0])
    """
    budget, most = amount.total, len(costs) if amount.rows is None else amount.rows
    open_rows, search = candidates & (costs <= budget), _Search(objective)
    remaining, rows, gains = budget, list[int](), list[float]()
    largest_cost = int(costs.max(initial=0))
    while len(rows) < most and open_rows.any():
        drawn = draw(len(rows), open_rows)
        row, gain = search.best(open_rows) if drawn is None else best(objective, drawn)
        objective.add(row)
        rows.append(row)
        gains.append(gain)
        remaining -= int(costs[row])
        open_rows[row] = False
        if remaining < largest_cost:
            open_rows &= costs <= remaining
        if progress:
            progress(budget - remaining, budget)
    picks = Picks(np.array(rows, np.int64), np.array(gains))
    if objective.deferred and np.isnan(picks.gains).any():
        return picks._replace(gains=objective.deferred.gains(picks.rows))
    return picks


class _Search:
    """The best of all rows, searched for among the leaders of the last complete evaluation.

    A gain above all upper bounds that the other rows had then is above their gains now.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._leaders, self._bar = np.zeros(0, np.int64), math.inf

    def best(self, open_rows: NDArray[np.bool_]) -> tuple[int, float]:
        """The row of the largest gain among those that are open, and its gain, or NaN."""
        leaders = self._leaders[open_rows[self._leaders]]
        row, gain = best(self._objective, leaders, self._bar)
        if gain <= self._bar:
            rows = np.flatnonzero(open_rows)
            row, gain = best(self._objective, rows)
            if self._objective.shrinking and len(rows) > _LEADERS:
                self._choose_leaders(rows)
        return row, gain

    def _choose_leaders(self, rows: Positions) -> None:
        upper_bounds = self._objective.upper_bounds[rows]
        order = np.argpartition(upper_bounds, len(rows) - _LEADERS - 1)
        self._leaders = np.sort(rows[order[-_LEADERS:]])
        self._bar = float(upper_bounds[order[-_LEADERS - 1]])
        self._objective.update_on_pick(self._leaders)


def best(objective: Objective, rows: Positions, bar: float = -math.inf) -> tuple[int, float]:
    """The row of the largest gain among some, the first of equal ones, and its gain.

    Args:
        objective: What is maximized.
        rows: The rows to search, ascending.
        bar: A gain that the caller must know whether the best one exceeds.

    Returns:
        The row and its gain; NaN for a gain that is deferred, which is above the bar in any
        case; -1 and -inf where there are no rows.
    """
    if objective.deferred and len(rows):
        upper_bounds = objective.upper_bounds[rows]
        first = int(upper_bounds.argmax())
        least = upper_bounds[first] - objective.deferred.tolerance
        upper_bounds[first] = -math.inf
        if objective.fresh[rows[first]] and least > max(bar, upper_bounds.max()):
            return int(rows[first]), math.nan
    winner, top, stale_size, fresh_size = -1, -math.inf, _FIRST, 1
    evaluated = np.zeros(len(rows), np.bool_)
    while True:
        upper_bounds = objective.upper_bounds[rows]
        may_win = (upper_bounds > top) | ((upper_bounds == top) & (rows < winner))
        rivals = np.flatnonzero(~evaluated & may_win)
        if not len(rivals):
            return winner, top
        fresh = rivals[objective.fresh[rows[rivals]]]
        if not len(fresh):
            objective.refresh(rows[_largest(upper_bounds, rivals, stale_size)])
            stale_size *= 2
            continue
        tried = _largest(upper_bounds, fresh, fresh_size)  # an exact gain rules many others out
        gains = objective.exact(rows[tried])
        evaluated[tried] = True
        fresh_size *= 2
        for row, gain in zip(rows[tried].tolist(), gains.tolist(), strict=True):
            if gain > top or (gain == top and row < winner):
                winner, top = row, gain


def _largest(upper_bounds: Floats, rows: Positions, size: int) -> Positions:
    """The rows with the largest upper bounds, in no order; for size 1 the first of equal ones.

    Args:
        upper_bounds: Of all rows.
        rows: The rows to choose from.
        size: How many.
    """
    if size == 1:
        return rows[[np.argmax(upper_bounds[rows])]]
    if len(rows) <= size:
        return rows
    return rows[np.argpartition(-upper_bounds[rows], size)[:size]]
