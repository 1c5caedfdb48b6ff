"""Ragged lists of pairs, for kernels that keep few of all pairs (`facility_location`).

`test_sparse_gains.py` in tests/stages/select compares them with numpy.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import offsets_of
from stages._vectors.arrays import ParallelMap
from stages.select.diverse.jit import compiled

Positions = NDArray[np.int64]
Floats = NDArray[np.float32]

_ROWS: Final = 64
"""Rows that are summed at once."""


class Piece(NamedTuple):
    """The pairs of some rows with some of the others, one row's after another's.

    Attributes:
        lengths: How many pairs each row has, shape (rows,).
        others: The other row of each pair, counted from the first of these others.
        values: How well the row covers the other, for each pair.
        gained: For each row the sum of what its values are above their floors.
    """

    lengths: Positions
    others: NDArray[np.uint16]
    values: Floats
    gained: NDArray[np.float64]


class Pairs:
    """For each row the represented rows that it would cover better, and how well at most.

    The lists of all rows lie one after the other in two long arrays.
    """

    def __init__(
        self,
        parts: list[list[tuple[int, Piece]]],
        dtype: type[np.unsignedinteger[Any]],
        parallel_map: ParallelMap,
    ) -> None:
        """Join pieces to lists.

        Args:
            parts: For each block of rows, in their order, the pieces that make up its lists,
                each behind the position of the first of its others. They are removed from
                `parts`, so that they are not in memory twice.
            dtype: The type of positions of others.
            parallel_map: From `stages._vectors.arrays.parallel_map`.
        """
        self._parallel_map = parallel_map
        lengths = [np.sum([piece.lengths for _, piece in part], axis=0) for part in parts]
        self.length = np.concatenate(lengths)
        ends = offsets_of(self.length)
        self._start = ends[:-1]
        self._others, self._values = np.empty(ends[-1], dtype), np.empty(ends[-1], np.float32)
        borders = offsets_of(np.array([len(one) for one in lengths]))

        def join(one: slice) -> None:
            positions = self._start[borders[one.start] : borders[one.stop]].copy()
            for first, piece in parts[one.start]:
                target = first, positions, self._others, self._values
                _move(piece.lengths, piece.others, piece.values, *target)
            parts[one.start] = []

        parallel_map(join, len(parts), 1)

    def get(self, row: int) -> tuple[NDArray[Any], Floats]:
        """The pairs of a row."""
        span = slice(self._start[row], self._start[row] + self.length[row])
        return self._others[span], self._values[span]

    def sums(self, rows: Positions, floors: Floats) -> NDArray[np.float64]:
        """For each of some rows the sum of what its values are above the floors of the others.

        Floors only rise, so pairs below them are removed.
        """

        def some(part: slice) -> Any:
            lists = self._start, self.length, self._others, self._values
            return _sums(*lists, rows[part], floors)

        return np.concatenate([np.zeros(0), *self._parallel_map(some, len(rows), _ROWS)])


# Both write every position and advance only where it counts: a branch that is taken one time
# in ten is predicted so badly that they would take twice as long.


@compiled
def above(values: Floats, floors: Floats, caps: Floats) -> Any:
    """The pairs whose values are above the others' floors.

    In: values of shape (rows, others), a floor and a cap for each of the others.
    Out: the fields of a Piece.

    The same as numpy's `values > floors`, without its intermediate arrays.

    Args:
        values: float32, shape (rows, others); at most 65,536 others.
        floors: Shape (others,).
        caps: Shape (others,); no value counts for more.

    Example:
        >>> inf = np.full(2, np.inf, np.float32)
        >>> Piece(*above(np.float32([[1, 5], [7, 9]]), np.float32([2, 4]), inf)).others.tolist()
        [1, 0, 1]
    """
    rows, others = values.shape
    lengths = np.zeros(rows, np.int64)
    for row in range(rows):
        count = 0
        for other in range(others):
            count += values[row, other] > floors[other]
        lengths[row] = count
    total = lengths.sum()
    columns, kept = np.empty(total + 1, np.uint16), np.empty(total, np.float32)
    gained, end = np.zeros(rows), 0
    for row in range(rows):
        start, gain = end, 0.0
        for other in range(others):
            columns[end] = other
            end += values[row, other] > floors[other]
        for at in range(start, end):
            other = columns[at]
            kept[at] = min(values[row, other], caps[other])
            gain += kept[at] - floors[other]
        gained[row] = gain
    return lengths, columns[:total], kept, gained


@compiled
def above_across(values: Floats, floors: Floats, caps: Floats) -> Any:
    """The same of the columns of values.

    Args:
        values: float32, shape (others, rows); at most 65,536 others.
        floors: Shape (others,).
        caps: Shape (others,).
    """
    others, rows = values.shape
    lengths = np.zeros(rows, np.int32)
    for other in range(others):
        floor = floors[other]
        for row in range(rows):
            lengths[row] += values[other, row] > floor
    ends = lengths.cumsum()
    columns, kept = np.empty(ends[-1], np.uint16), np.empty(ends[-1], np.float32)
    gained, positions = np.zeros(rows), ends - lengths
    counting = np.empty(rows + 1, np.int32)
    for other in range(others):
        floor, cap, count = floors[other], caps[other], 0
        for row in range(rows):
            counting[count] = row
            count += values[other, row] > floor
        for row in counting[:count]:
            value = min(values[other, row], cap)
            at = positions[row]
            columns[at], kept[at] = other, value
            gained[row] += value - floor
            positions[row] = at + 1
    return lengths.astype(np.int64), columns, kept, gained


@compiled
def _move(
    lengths: Positions,
    others: NDArray[np.uint16],
    values: Floats,
    first: int,
    positions: Positions,
    all_others: NDArray[Any],
    all_values: Floats,
) -> None:
    """Copy each row's pairs to its position, and advance the position."""
    at = 0
    for row in range(len(lengths)):
        to = positions[row]
        for _ in range(lengths[row]):
            all_others[to], all_values[to] = others[at] + first, values[at]
            at, to = at + 1, to + 1
        positions[row] = to


@compiled
def _sums(
    start: Positions,
    length: Positions,
    others: NDArray[Any],
    values: Floats,
    rows: Positions,
    floors: Floats,
) -> Any:
    sums = np.zeros(len(rows))
    for index in range(len(rows)):
        row = rows[index]
        first, gained = start[row], 0.0
        to = first
        for at in range(first, first + length[row]):
            other, value = others[at], values[at]
            gap = value - floors[other]
            gained += max(gap, np.float32(0))
            others[to], values[to] = other, value  # the next pair overwrites one that lost
            to += gap > 0
        sums[index], length[row] = gained, to - first
    return sums
