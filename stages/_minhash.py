"""MinHash signatures, banded candidates, and the components of what is truly similar.

Broder 1997 (resemblance and containment of documents): the chance that two sets
have the same minimum under a random order is their Jaccard similarity s. With b
bands of r minima each, a pair becomes a candidate with probability
1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4).
Candidates are only candidates: the true similarity of each is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages._text import Ragged, shingle_jaccard

MISS = 1e-3
"""The largest accepted chance of missing a pair whose similarity is just the threshold."""

_ROWS = 1024
"""Texts per block: their n-gram hashes stay in the processor's cache for all permutations."""

_PAIRS = 1 << 20
"""Candidate pairs looked at in one go."""


def bands(permutations: int, threshold: float) -> tuple[int, int] | None:
    """Number of bands and rows per band: the most rows that keep the miss below `MISS`.

    More rows a band mean fewer candidates to check. None if even one row misses too much.
    """
    for rows in range(permutations, 0, -1):
        number = permutations // rows
        if (1 - threshold**rows) ** number <= MISS:
            return number, rows
    return None


def signatures(shingles: Ragged, permutations: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures: uint32 of shape (permutations, texts).

    Each permutation is x -> a x + b modulo 2^64 with odd a, of which the high half
    is kept. Texts without shingles get 0 everywhere and must be left out by the caller.
    """
    random = np.random.default_rng(seed)
    a = random.integers(0, 2**64, permutations, dtype=np.uint64) | np.uint64(1)
    b = random.integers(0, 2**64, permutations, dtype=np.uint64)
    result = np.zeros((permutations, len(shingles.lengths)), dtype=np.uint32)
    filled = np.flatnonzero(shingles.lengths)
    for start in range(0, len(filled), _ROWS):
        rows = filled[start : start + _ROWS]
        first, last = shingles.offsets[rows[0]], shingles.offsets[rows[-1] + 1]
        values = shingles.values[first:last]
        inside = shingles.offsets[rows] - first
        permuted = np.empty_like(values)
        for p in range(permutations):
            np.multiply(values, a[p], out=permuted)
            np.add(permuted, b[p], out=permuted)
            result[p, rows] = np.minimum.reduceat(permuted, inside) >> np.uint64(32)
    return result


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


def similar_components(
    shingles: Ragged, permutations: int, threshold: float, seed: int
) -> tuple[Components, NDArray[np.int64], NDArray[np.float64]]:
    """Join all candidate pairs of texts whose true similarity reaches the threshold.

    Only pairs are checked that could change a component: not what is connected
    already, and nothing twice. Texts without shingles stay alone.
    Returns the components, and the pairs that were found similar: int64 of shape
    (pairs, 2) with their similarities. There must be `bands` for the threshold.
    """
    shape = bands(permutations, threshold)
    assert shape is not None
    components = Components(len(shingles.lengths))
    rows, edges = _same(shingles)
    components.join(edges[:, 0], edges[:, 1])
    found, values = [edges], [np.ones(len(edges))]
    buckets = np.zeros((0, len(rows)), dtype=np.uint64)
    for part in _bands_of(shingles, rows, shape, seed):
        buckets = np.concatenate([buckets, part[None]])
        for left, right in _candidates(buckets, rows, components):
            value = shingle_jaccard(shingles, left, right)
            near = value >= threshold
            components.join(left[near], right[near])
            found.append(np.stack([left[near], right[near]], axis=1))
            values.append(value[near])
    return components, np.concatenate(found), np.concatenate(values)


def _same(shingles: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of all texts with equal shingles, and the pairs of others with their first.

    Copies are found by the sum of their hashes, so that a pool of many costs nothing.
    """
    filled = np.flatnonzero(shingles.lengths)
    total = np.zeros(0, dtype=np.uint64)
    if len(filled):
        total = np.add.reduceat(shingles.values, shingles.offsets[filled])
    _, first, group = np.unique(total, return_index=True, return_inverse=True)
    firsts = filled[first][group]
    other = firsts != filled
    return filled[~other], np.stack([firsts[other], filled[other]], axis=1)


def _bands_of(
    shingles: Ragged, rows: NDArray[np.int64], shape: tuple[int, int], seed: int
) -> Iterator[NDArray[np.uint64]]:
    """For each band the bucket of each row: equal where all minima of the band are."""
    signature = signatures(shingles, shape[0] * shape[1], seed)[:, rows]
    for part in signature.reshape(*shape, len(rows)):
        bucket = np.zeros(len(rows), dtype=np.uint64)
        for minimum in part:
            bucket = (bucket ^ minimum) * np.uint64(0x9E3779B97F4A7C15)
            bucket ^= bucket >> np.uint64(29)
        yield bucket


def _candidates(
    buckets: NDArray[np.uint64], rows: NDArray[np.int64], components: Components
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that agree on the last band, on none before, and are not connected.

    Each row first with the first of its bucket: that connects the members of a
    dense bucket at once. Then what is still apart, all pairs.
    """
    order = np.argsort(buckets[-1], kind="stable")
    last = buckets[-1, order]
    new = np.append(True, last[1:] != last[:-1])[: len(order)]
    first = order[new][np.cumsum(new) - 1]
    yield from _apart(order[~new], first[~new], buckets, rows, components)
    members, last, first = order[~new], last[~new], first[~new]
    apart = components.roots(rows[members]) != components.roots(rows[first])
    loose = np.isin(last, last[apart])
    members, last = members[loose], last[loose]
    # Round k pairs each member with the k-th behind it: a loop over places in a bucket.
    for k in range(1, len(members)):
        pairs = np.flatnonzero(last[k:] == last[:-k])
        if not len(pairs):
            break
        yield from _apart(members[pairs], members[pairs + k], buckets, rows, components)


def _apart(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    buckets: NDArray[np.uint64],
    rows: NDArray[np.int64],
    components: Components,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for start in range(0, len(left), _PAIRS):
        a, b = left[start : start + _PAIRS], right[start : start + _PAIRS]
        apart = components.roots(rows[a]) != components.roots(rows[b])
        for band in buckets[:-1]:
            apart &= band[a] != band[b]
        if apart.any():
            yield rows[a[apart]], rows[b[apart]]
