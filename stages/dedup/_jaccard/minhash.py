"""MinHash signatures and banded buckets: candidates for what may be similar.

In: sets of hashes. Out: buckets of sets that share a band of their signatures
(`band_buckets`), in which `stages._text.join` searches for partners.

Broder 1997 (resemblance and containment of documents): the chance that two sets
have the same minimum under a random order is their Jaccard similarity s. With b
bands of r minima each, a pair shares a bucket with probability 1 - (1 - s^r)^b
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages._text.candidates import SetPool, multiplicity
from stages._text.join import Buckets, find_partners, merge_buckets, prefixes
from stages._text.ragged import Ragged, blocks, take

MAX_MISS = 1e-5
"""The largest accepted chance of missing a pair whose similarity is just the threshold."""

_VALUES = 1 << 16
"""Elements per block: they stay in the processor's cache for all permutations."""

_CROWD = 64
"""A bucket of more sets is of little use: many pairs share half of their text, for example, and
are not similar. Its sets search for partners by their rarest elements instead, which loses none."""


def bands(num_perm: int, threshold: float) -> tuple[int, int] | None:
    """Number of bands and rows per band: the most rows that keep the miss below `MAX_MISS`.

    More rows a band mean fewer candidates to check. None if even one row misses too much.

    Example:
        >>> bands(128, 0.8)
        (32, 4)
    """
    for rows in range(num_perm, 0, -1):
        number = num_perm // rows
        if (1 - threshold**rows) ** number <= MAX_MISS:
            return number, rows
    return None


def signatures(sets: Ragged, num_perm: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures.

    Each permutation is x -> a x + b modulo 2^64 with odd a, of which the high half
    is kept. Empty sets get 0 everywhere and must be left out by the caller.

    Args:
        sets: Without repeats.
        num_perm: Number of permutations.
        seed: Of the permutations.

    Returns:
        uint32 of shape (num_perm, sets).

    Example:
        >>> sets = Ragged(np.array([0, 2, 4, 6]), np.array([3, 8, 3, 8, 4, 9], np.uint64))
        >>> first, copy, other = signatures(sets, 16, seed=0).T
        >>> int((first == copy).sum()), int((first == other).sum())
        (16, 0)
    """
    random = np.random.default_rng(seed)
    a = random.integers(0, 2**64, num_perm, dtype=np.uint64) | np.uint64(1)
    b = random.integers(0, 2**64, num_perm, dtype=np.uint64)
    result = np.zeros((num_perm, len(sets.lengths)), dtype=np.uint32)
    filled = np.flatnonzero(sets.lengths)
    for part in blocks(sets.lengths[filled], _VALUES):
        block = take(sets, filled[part])
        permuted = np.empty_like(block.values)
        for p in range(num_perm):
            np.multiply(block.values, a[p], out=permuted)
            np.add(permuted, b[p], out=permuted)
            minima = np.minimum.reduceat(permuted, block.offsets[:-1])
            result[p, filled[part]] = minima >> np.uint64(32)
    return result


def band_buckets(pool: SetPool, num_perm: int, seed: int) -> list[Buckets]:
    """A bucket for each band of each signature.

    The signatures are those of the elements that sets share with others; these are at
    least as similar as the complete sets, so no pair becomes less likely to be found.

    Args:
        pool: The sets; there must be `bands` for its threshold.
        num_perm: Number of permutations.
        seed: Of the permutations.
    """
    shape = bands(num_perm, pool.threshold)
    assert shape is not None
    entries = np.flatnonzero(~pool.joined)
    crowded = np.zeros(len(pool.rows), dtype=np.bool_)
    parts = []
    for keys in _keys(signatures(pool.sets, shape[0] * shape[1], seed), shape):
        crowd = multiplicity(keys[entries]) > _CROWD
        crowded[entries[crowd]] = True
        rows = entries[~crowd]
        parts.append(find_partners(pool, keys[rows], rows, pool.sets.lengths[rows]))
    return [*prefixes(pool, np.flatnonzero(crowded)), merge_buckets(parts)]


def _keys(signature: NDArray[np.uint32], shape: tuple[int, int]) -> Iterator[NDArray[np.uint64]]:
    """For each band one hash per set: equal where all minima of the band are."""
    for band in signature.reshape(*shape, -1):
        key = np.zeros(band.shape[1], dtype=np.uint64)
        for minimum in band:
            key = (key ^ minimum) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        yield key
