"""Which sets can be similar to another at all, and which groups similar pairs connect.

A set of n that shares fewer than t n elements with any other set has no neighbor of
Jaccard similarity t, and an element that one set alone holds adds nothing to an
overlap. Without either, little remains of a real pool, and of each remaining set two
things suffice: its full size, and the elements that others share.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import Ragged, count_set, intersection_sizes, offsets_of, ranges, sort_each
from stages._vectors.arrays import parallel_map

Integers = NDArray[np.int64]

EPSILON: Final = 1e-6
"""Bounds on sizes are loosened by this much, far more than products of floats are off."""

_PART: Final = 1 << 16
"""Elements counted at a time: with their order they stay in the processor's cache (of
2.5 million 0.21 CPU seconds instead of 0.32), and all threads have work."""

_GROUP: Final = 1 << 24
"""Elements whose order is in memory: that of a million rows' would take as much as they do."""

SPARE_BITS: Final = np.uint64(8)
"""Elements of a pool are 56 bits of hash below 8 bits that say how common they are."""


class Components:
    """Union-find over rows 0 to size - 1; the root of a component is its smallest row.

    Args:
        size: Number of rows.

    Example:
        >>> components = Components(5)
        >>> components.join(np.array([1, 4]), np.array([4, 2]))
        >>> components.roots(np.arange(5)).tolist()
        [0, 1, 1, 3, 1]
    """

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def roots(self, rows: Integers) -> Integers:
        """The roots of the rows' components."""
        parent = self._parent[rows]
        while True:
            higher = self._parent[parent]
            if np.array_equal(higher, parent):
                self._parent[rows] = parent
                return parent
            parent = higher

    def join(self, left: Integers, right: Integers) -> None:
        """Merge the two components of each pair."""
        while len(left):
            a, b = self.roots(left), self.roots(right)
            differ = a != b
            left, right, a, b = left[differ], right[differ], a[differ], b[differ]
            # Of several links from one root only the last written holds; the rest are retried.
            self._parent[np.maximum(a, b)] = np.minimum(a, b)


class SetPool(NamedTuple):
    """The sets that can be similar to another; entry i is the set of row rows[i].

    Attributes:
        rows: Their positions among all sets, ascending.
        sizes: How many elements they have in all.
        held: Whether a set was there before; two of these are never compared.
        sets: The elements that they share with others, the rarest first.
        prefix: The first of these: of two similar sets the prefixes have one in common.
        threshold: The smallest similarity.
        representative: The first of the entries with the same `sets`; itself for that one.
        joined: Whether the entry is similar to its representative (false for itself).
        by_size: The entries by ascending size.
        rank: The rank of each entry in `by_size`.
    """

    rows: Integers
    sizes: Integers
    held: NDArray[np.bool_]
    sets: Ragged
    prefix: Ragged
    threshold: float
    representative: Integers
    joined: NDArray[np.bool_]
    by_size: Integers
    rank: Integers

    @property
    def min_overlap_fraction(self) -> float:
        """The smallest overlap of two similar sets, as a fraction of the sum of their sizes."""
        return self.threshold / (1 + self.threshold)

    def similarity(self, left: Integers, right: Integers) -> NDArray[np.float64]:
        """The exact similarity of pairs of entries."""
        shared = intersection_sizes(self.sets, left, right)
        return np.asarray(shared / (self.sizes[left] + self.sizes[right] - shared))


def ceil_count(bound: NDArray[np.floating]) -> Integers:
    """The smallest integers, of 1 and more, that reach the bounds."""
    return np.asarray(np.maximum(np.ceil(bound - EPSILON), 1), dtype=np.int64)


def condense(sets: Ragged, n_held: int, threshold: float) -> SetPool:
    """Keep the sets that share enough to be similar to any other, without unshared elements.

    Args:
        sets: Without repeats.
        n_held: How many of the first sets were there before.
        threshold: The smallest similarity.
    """
    rows = np.flatnonzero(sets.lengths)
    sizes = lengths = sets.lengths[rows]
    values = sets.values
    while True:
        new = np.repeat(rows >= n_held, lengths) if n_held else None
        common = commonness(values, new)
        shared = count_set(common > 0, offsets_of(lengths))
        stay = shared >= ceil_count(threshold * sizes)
        kept = (common > 0) & np.repeat(stay, lengths)
        values, common = values[kept], common[kept]
        before, rows, sizes, lengths = len(rows), rows[stay], sizes[stay], shared[stay]
        # Elements shared only with removed sets no longer count; soon these are few.
        if len(rows) > 0.9 * before or not len(rows):
            break
    values >>= SPARE_BITS
    values |= np.left_shift(common, np.uint64(56), dtype=np.uint64)
    condensed = Ragged(offsets_of(lengths), values)
    sort_each(condensed)
    return _arrange(rows, sizes, rows < n_held, condensed, threshold)


def commonness(
    values: NDArray[np.uint64], new: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """For each value how often it occurs, on a scale of eighths of octaves; 0 for once.

    Args:
        values: Elements of all sets.
        new: Which occurrences are of new sets; a value without any gets 0.
    """
    groups = max(1, -(-len(values) // _GROUP))
    if groups == 1:
        return _commonness(values, new)
    common = np.zeros(len(values), dtype=np.uint8)
    bounds = [(number << 64) // groups for number in range(groups + 1)]
    for lowest, end in pairwise(bounds):
        inside = (values >= np.uint64(lowest)) & (values <= np.uint64(end - 1))
        common[inside] = _commonness(values[inside], None if new is None else new[inside])
    return common


def _commonness(values: NDArray[np.uint64], new: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """The same for so many values that their order and counts may be in memory."""
    common = np.zeros(len(values), dtype=np.uint8)
    parts = -(-len(values) // _PART)
    bits = (values >> np.uint64(32)) & np.uint64(0xFFFF)  # those above divide the groups
    part = (bits * np.uint64(parts) >> np.uint64(16)).astype(np.uint16)
    order = np.argsort(part, kind="stable")
    ends = offsets_of(np.bincount(part, minlength=parts))

    def count(one: slice) -> None:
        positions = order[ends[one.start] : ends[one.start + 1]]
        some = values[positions]
        degree = (8 * np.log2(multiplicity(some))).astype(np.uint8)
        if new is not None:
            degree[multiplicity(some, new[positions]) == 0] = 0
        common[positions] = degree

    with parallel_map() as map_blocks:
        map_blocks(count, parts, 1)
    return common


def multiplicity(values: NDArray[np.uint64], flags: NDArray[np.bool_] | None = None) -> Integers:
    """For each value how many are equal to it, including itself (of those with the flag)."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(order)])
    counts = np.diff(np.append(first, len(order)))
    result = np.empty(len(order), dtype=np.int64)
    marked = counts if flags is None else count_set(flags[order], np.append(first, len(order)))
    result[order] = np.repeat(marked, counts)
    return result


def _arrange(
    rows: Integers, sizes: Integers, held: NDArray[np.bool_], sets: Ragged, threshold: float
) -> SetPool:
    """The pool; equal sets are recognized by the sum of their elements."""
    total = np.zeros(0, dtype=np.uint64)
    if len(rows):
        total = np.add.reduceat(sets.values, sets.offsets[:-1])
    order = np.lexsort((sizes, held, total))
    first = np.append(True, np.diff(total[order]) != 0)[: len(order)]
    first[1:] |= held[order][1:] != held[order][:-1]
    representative = np.empty(len(rows), dtype=np.int64)
    representative[order] = order[first][np.cumsum(first) - 1]
    shared = sets.lengths
    similarity = shared / (sizes + sizes[representative] - shared)
    joined = (similarity >= threshold) & (representative != np.arange(len(rows)))
    by_size = np.argsort(sizes, kind="stable")
    rank = np.empty_like(by_size)
    rank[by_size] = np.arange(len(by_size))
    # Unshared elements are the rarest of all, and `sets` is without them.
    length = sets.lengths - ceil_count(threshold * sizes) + 1
    prefix = Ragged(offsets_of(length), sets.values[ranges(sets.offsets[:-1], length)])
    return SetPool(
        rows, sizes, held, sets, prefix, threshold, representative, joined, by_size, rank
    )
