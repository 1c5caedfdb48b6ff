"""Which sets can be similar to another at all, and what connects those that are.

A set of n that shares fewer than t n elements with any other set has no neighbour of
Jaccard similarity t, and an element that one set alone holds adds nothing to an
overlap. Without either, little is left of a real pool, and of what is left two
numbers say all: the size of the whole set, and the elements that others share.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import Ragged, offsets_of, overlaps, ranges, sort_each, sums
from stages._vectors.arrays import parallel_map

EPSILON: Final = 1e-6
"""Bounds on sizes give way by this much, far more than products of floats are off."""

_PART: Final = 1 << 16
"""Elements counted at a time: with their order they stay in the processor's cache (of
2.5 million 0.21 CPU seconds instead of 0.32), and are few enough to share out to threads."""

SPARE: Final = np.uint64(8)
"""Elements of a pool are 56 bits of hash below 8 bits that say how common they are."""


class Components:
    """Union-find over numbered rows; the root of a component is its smallest number."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def roots(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The roots of the rows' components."""
        parent = self._parent[rows]
        while True:
            higher = self._parent[parent]
            if np.array_equal(higher, parent):
                self._parent[rows] = parent
                return parent
            parent = higher

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Make one component of each pair's two."""
        while len(left):
            a, b = self.roots(left), self.roots(right)
            apart = a != b
            left, right, a, b = left[apart], right[apart], a[apart], b[apart]
            # Of several links from one root only the last written holds; the rest go again.
            self._parent[np.maximum(a, b)] = np.minimum(a, b)


class Pool(NamedTuple):
    """The sets that can be similar to another. Entries are numbered in the order of `rows`.

    rows: their numbers, ascending. sizes: how many elements they have in all.
    held: whether a set was there before; two of these are never compared.
    sets: the elements that they share with others, the rarest first.
    prefix: of these the first, as many as a set cannot all lack of a similar one's.
    threshold: the least similarity.
    alike: the first of the entries with the same `sets`; itself for that one.
    joined: whether the entry is similar to that first one (never true for the first).
    by_size: the entries by ascending size, and `rank` the place of each in it.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    held: NDArray[np.bool_]
    sets: Ragged
    prefix: Ragged
    threshold: float
    alike: NDArray[np.int64]
    joined: NDArray[np.bool_]
    by_size: NDArray[np.int64]
    rank: NDArray[np.int64]

    @property
    def share(self) -> float:
        """Of the sizes of two similar sets, added up, the least overlap."""
        return self.threshold / (1 + self.threshold)

    def similarity(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """The exact similarity of pairs of entries."""
        shared = overlaps(self.sets, left, right)
        return np.asarray(shared / (self.sizes[left] + self.sizes[right] - shared))


def at_least(bound: NDArray[np.floating]) -> NDArray[np.int64]:
    """The least whole numbers, of 1 and more, that reach the bounds."""
    return np.asarray(np.maximum(np.ceil(bound - EPSILON), 1), dtype=np.int64)


def condensed(sets: Ragged, held: int, threshold: float) -> Pool:
    """The sets that share enough to be similar to any other, without what they do not share."""
    rows = np.flatnonzero(sets.lengths)
    sizes = lengths = sets.lengths[rows]
    values = sets.values
    while True:
        fresh = np.repeat(rows >= held, lengths) if held else None
        common = commonness(values, fresh)
        shared = sums(common > 0, offsets_of(lengths))
        stay = shared >= at_least(threshold * sizes)
        left = (common > 0) & np.repeat(stay, lengths)
        values, common = values[left], common[left]
        before, rows, sizes, lengths = len(rows), rows[stay], sizes[stay], shared[stay]
        # What one set shared with those that went counts no longer; soon that is little.
        if len(rows) > 0.9 * before or not len(rows):
            break
    values >>= SPARE
    values |= np.left_shift(common, np.uint64(56), dtype=np.uint64)
    left_over = Ragged(offsets_of(lengths), values)
    sort_each(left_over)
    return _arranged(rows, sizes, rows < held, left_over, threshold)


def commonness(
    values: NDArray[np.uint64], fresh: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """For each value how often it occurs, on a scale of eighths of octaves; 0 for once.

    fresh: which of the occurrences must be among them; 0 where none is.
    """
    common = np.zeros(len(values), dtype=np.uint8)
    parts = -(-len(values) // _PART)
    part = ((values >> np.uint64(48)) * np.uint64(parts) >> np.uint64(16)).astype(np.uint16)
    order = np.argsort(part, kind="stable")
    ends = offsets_of(np.bincount(part, minlength=parts))

    def count(one: slice) -> None:
        places = order[ends[one.start] : ends[one.start + 1]]
        some = values[places]
        degree = (8 * np.log2(multiplicity(some))).astype(np.uint8)
        if fresh is not None:
            degree[multiplicity(some, fresh[places]) == 0] = 0
        common[places] = degree

    with parallel_map() as each:
        each(count, parts, 1)
    return common


def multiplicity(
    values: NDArray[np.uint64], flags: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """For each value how many are equal to it, itself among them (of those with the flag)."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(order)])
    counts = np.diff(np.append(first, len(order)))
    result = np.empty(len(order), dtype=np.int64)
    marked = counts if flags is None else sums(flags[order], np.append(first, len(order)))
    result[order] = np.repeat(marked, counts)
    return result


def _arranged(
    rows: NDArray[np.int64],
    sizes: NDArray[np.int64],
    held: NDArray[np.bool_],
    sets: Ragged,
    threshold: float,
) -> Pool:
    """The pool, with the sets that agree found by the sum of their elements."""
    total = np.zeros(0, dtype=np.uint64)
    if len(rows):
        total = np.add.reduceat(sets.values, sets.offsets[:-1])
    order = np.lexsort((sizes, held, total))
    new = np.append(True, np.diff(total[order]) != 0)[: len(order)]
    new[1:] |= held[order][1:] != held[order][:-1]
    alike = np.empty(len(rows), dtype=np.int64)
    alike[order] = order[new][np.cumsum(new) - 1]
    shared = sets.lengths
    value = shared / (sizes + sizes[alike] - shared)
    joined = (value >= threshold) & (alike != np.arange(len(rows)))
    by_size = np.argsort(sizes, kind="stable")
    rank = np.empty_like(by_size)
    rank[by_size] = np.arange(len(by_size))
    # What a set has alone is rarest of all, and `sets` is without it.
    first = sets.lengths - at_least(threshold * sizes) + 1
    prefix = Ragged(offsets_of(first), sets.values[ranges(sets.offsets[:-1], first)])
    return Pool(rows, sizes, held, sets, prefix, threshold, alike, joined, by_size, rank)
