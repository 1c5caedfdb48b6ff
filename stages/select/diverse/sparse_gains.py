"""Ragged lists of pairs, for kernels that keep few of all pairs (`facility_location`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import offsets_of
from stages.select._submodular.jit import compiled

Positions = NDArray[np.int64]
Floats = NDArray[np.float32]

_ROWS: Final = 64
"""Rows that are summed at once."""


class Piece(NamedTuple):
    """The pairs of each of several rows with some of the others, one row's after the other's.

    lengths: how many pairs each row has. others, values: of the pairs; others are counted
    from the first of these. gained: for each row the sum of what its values are above their floors.
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
        kind: type[np.unsignedinteger[Any]],
        each: Callable[[Callable[[slice], Any], int, int], list[Any]],
    ) -> None:
        """parts: for each block of rows, in their order, the pieces that make up its lists,
        each behind the number of the first of its others. kind: the type of these numbers.

        They are taken out of `parts`, so that not all is there twice. each: from
        `stages._vectors.arrays.threads`.
        """
        self._each = each
        lengths = [np.sum([piece.lengths for _, piece in part], axis=0) for part in parts]
        self.length = np.concatenate(lengths)
        ends = offsets_of(self.length)
        self._start = ends[:-1]
        self._others, self._values = np.empty(ends[-1], kind), np.empty(ends[-1], np.float32)
        borders = offsets_of(np.array([len(one) for one in lengths]))

        def join(one: slice) -> None:
            places = self._start[borders[one.start] : borders[one.stop]].copy()
            for first, piece in parts[one.start]:
                where = first, places, self._others, self._values
                _move(piece.lengths, piece.others, piece.values, *where)
            parts[one.start] = []

        each(join, len(parts), 1)

    def get(self, row: int) -> tuple[NDArray[Any], Floats]:
        """The pairs of a row."""
        own = slice(self._start[row], self._start[row] + self.length[row])
        return self._others[own], self._values[own]

    def sums(self, rows: Positions, floors: Floats) -> NDArray[np.float64]:
        """For each of some rows the sum of what its values are above the floors of the others.

        Floors only rise: pairs below them go once they are the most of a row's.
        """

        def some(part: slice) -> Any:
            lists = self._start, self.length, self._others, self._values
            return _sums(*lists, rows[part], floors)

        return np.concatenate([np.zeros(0), *self._each(some, len(rows), _ROWS)])


# Both note every place and step on where it counts: a branch that is taken one time in
# ten is foreseen so badly that they would take twice as long.


@compiled
def above(values: Floats, floors: Floats, caps: Floats) -> Any:
    """A Piece of what each row of values, shape (rows, others), has above the others' floors,
    but no more than their caps. At most 65,536 others."""
    rows, others = values.shape
    lengths = np.zeros(rows, np.int64)
    for row in range(rows):
        count = 0
        for other in range(others):
            count += values[row, other] > floors[other]
        lengths[row] = count
    total = lengths.sum()
    found, kept = np.empty(total + 1, np.uint16), np.empty(total, np.float32)
    gained, end = np.zeros(rows), 0
    for row in range(rows):
        start, gain = end, 0.0
        for other in range(others):
            found[end] = other
            end += values[row, other] > floors[other]
        for at in range(start, end):
            other = found[at]
            kept[at] = min(values[row, other], caps[other])
            gain += kept[at] - floors[other]
        gained[row] = gain
    return lengths, found[:total], kept, gained


@compiled
def above_across(values: Floats, floors: Floats, caps: Floats) -> Any:
    """The same of each column of values, shape (others, rows)."""
    others, rows = values.shape
    lengths = np.zeros(rows, np.int32)
    for other in range(others):
        floor = floors[other]
        for row in range(rows):
            lengths[row] += values[other, row] > floor
    ends = lengths.cumsum()
    found, kept = np.empty(ends[-1], np.uint16), np.empty(ends[-1], np.float32)
    gained, places = np.zeros(rows), ends - lengths
    counting = np.empty(rows + 1, np.int32)
    for other in range(others):
        floor, cap, count = floors[other], caps[other], 0
        for row in range(rows):
            counting[count] = row
            count += values[other, row] > floor
        for row in counting[:count]:
            value = min(values[other, row], cap)
            at = places[row]
            found[at], kept[at] = other, value
            gained[row] += value - floor
            places[row] = at + 1
    return lengths.astype(np.int64), found, kept, gained


@compiled
def _move(
    lengths: Positions,
    others: NDArray[np.uint16],
    values: Floats,
    first: int,
    places: Positions,
    all_others: NDArray[Any],
    all_values: Floats,
) -> None:
    """Put each row's pairs at its place, and the place behind them."""
    at = 0
    for row in range(len(lengths)):
        to = places[row]
        for _ in range(lengths[row]):
            all_others[to], all_values[to] = others[at] + first, values[at]
            at, to = at + 1, to + 1
        places[row] = to


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
    for place in range(len(rows)):
        row = rows[place]
        first, gained = start[row], 0.0
        to = first
        for at in range(first, first + length[row]):
            other, value = others[at], values[at]
            gap = value - floors[other]
            gained += max(gap, np.float32(0))
            others[to], values[to] = other, value  # whatever comes next overwrites what is dead
            to += gap > 0
        sums[place], length[row] = gained, to - first
    return sums
