"""Ragged arrays: lists of arrays as one, for kernels over sets and sequences of unequal length.

What numpy does to one array at once it then does to all lists together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 20
"""Values sorted or compared at a time, which bounds the memory for what is derived from them."""


class Ragged(NamedTuple):
    """A list of arrays as one: the values of list i are values[offsets[i]:offsets[i + 1]].

    Attributes:
        offsets: int64 of length lists + 1.
        values: uint64.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.uint64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each list."""
        return np.diff(self.offsets)

    def owners(self) -> NDArray[np.int64]:
        """For each value the position of its list."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)


def joined(parts: list[Ragged]) -> Ragged:
    """The lists of all parts in one, in order.

    Args:
        parts: They are used up, so that hardly any value is held twice.

    Example:
        >>> part = Ragged(np.array([0, 1]), np.array([7], np.uint64))
        >>> joined([part, part]).values.tolist()
        [7, 7]
    """
    counts = np.concatenate([part.lengths for part in parts])
    values = np.empty(counts.sum(), dtype=np.uint64)
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop().values
        values[start : start + len(part)] = part
        start += len(part)
    return Ragged(offsets_of(counts), values)


def take(ragged: Ragged, rows: NDArray[np.int64]) -> Ragged:
    """A copy of some of the lists, in the order of `rows`."""
    counts = ragged.lengths[rows]
    return Ragged(offsets_of(counts), ragged.values[ranges(ragged.offsets[rows], counts)])


def sort_each(ragged: Ragged) -> None:
    """Sort the values of each list, in place.

    Lists of one length are the rows of a matrix, so numpy sorts many at a time.
    """
    order = np.argsort(ragged.lengths, kind="stable")
    lengths = ragged.lengths[order]
    order = order[np.searchsorted(lengths, 2) :]
    borders = np.flatnonzero(np.diff(ragged.lengths[order])) + 1
    for rows in np.split(order, borders) if len(order) else ():
        length = int(ragged.lengths[rows[0]])
        for part in blocks(np.full(len(rows), length), _BLOCK):
            index = ragged.offsets[rows[part], None] + np.arange(length)
            ragged.values[index] = np.sort(ragged.values[index], axis=1)


def _repeats(ragged: Ragged) -> NDArray[np.bool_]:
    """Where a value equals the one before it in the same list."""
    repeats = np.zeros(len(ragged.values), dtype=np.bool_)
    np.equal(ragged.values[1:], ragged.values[:-1], out=repeats[1:])
    starts = ragged.offsets[:-1]
    repeats[starts[starts < len(repeats)]] = False
    return repeats


def distinct(ragged: Ragged) -> Ragged:
    """Each list's values sorted and without repeats; the argument is sorted in place.

    Example:
        >>> sets = distinct(Ragged(np.array([0, 3, 4]), np.array([7, 5, 7, 9], np.uint64)))
        >>> sets.offsets.tolist(), sets.values.tolist()
        ([0, 2, 3], [5, 7, 9])
    """
    sort_each(ragged)
    once = ~_repeats(ragged)
    return Ragged(offsets_of(count_set(once, ragged.offsets)), ragged.values[once])


def intersection_sizes(
    sets: Ragged, left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:
    """|A and B| of pairs of sets, exactly: what occurs twice when both are put together.

    Args:
        sets: Without repeats (`distinct`).
        left: Position of the first set of each pair.
        right: Position of the second.

    Example:
        >>> sets = Ragged(np.array([0, 2, 5]), np.array([5, 7, 5, 7, 9], np.uint64))
        >>> intersection_sizes(sets, np.array([0]), np.array([1])).tolist()
        [2]
    """
    shared = np.zeros(len(left), dtype=np.int64)
    both = np.stack([left, right], axis=1)
    for part in blocks(sets.lengths[left] + sets.lengths[right], _BLOCK):
        members = take(sets, both[part].ravel())
        pairs = Ragged(members.offsets[::2], members.values)
        sort_each(pairs)
        shared[part] = count_set(_repeats(pairs), pairs.offsets)
    return shared


def ranges(starts: NDArray[np.int64], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers from each start on, as many as its count, one range behind the other.

    Example:
        >>> ranges(np.array([10, 3]), np.array([2, 3])).tolist()
        [10, 11, 3, 4, 5]
    """
    inside = offsets_of(counts)
    result = np.repeat(starts - inside[:-1], counts)
    result += np.arange(inside[-1])
    return result


def count_set(flags: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many flags are set in each of the slices between the offsets."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        counts[filled] = np.add.reduceat(flags, offsets[filled], dtype=np.int64)
    return counts


def blocks(costs: NDArray[np.integer], limit: int) -> Iterator[slice]:
    """Consecutive slices, each of at most `limit` in costs or of one element.

    Example:
        >>> [(part.start, part.stop) for part in blocks(np.array([3, 3, 9, 1]), 6)]
        [(0, 2), (2, 3), (3, 4)]
    """
    ends, start = np.cumsum(costs, dtype=np.int64), 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(start, stop)
        start = stop


def offsets_of(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each of the slices of these lengths begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
