"""MinHash signatures and banded buckets: candidates for what may be similar.

Broder 1997 (resemblance and containment of documents): the chance that two sets
have the same minimum under a random order is their Jaccard similarity s. With b
bands of r minima each, a pair shares a bucket with probability 1 - (1 - s^r)^b
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import Ragged, blocks, take
from stages.dedup._jaccard.candidates import Pool, multiplicity
from stages.dedup._jaccard.join import Buckets, look_up, prefixes, united

MISS = 1e-5
"""The largest accepted chance of missing a pair whose similarity is just the threshold."""

_VALUES = 1 << 16
"""Elements per block: they stay in the processor's cache for all permutations."""

_CROWD = 64
"""A bucket of more sets says little: many pairs share half of their text, say, and are
not similar. Its sets look for partners by their rarest elements instead, which loses none."""


def bands(permutations: int, threshold: float) -> tuple[int, int] | None:
    """Number of bands and rows per band: the most rows that keep the miss below `MISS`.

    More rows a band mean fewer candidates to check. None if even one row misses too much.
    """
    for rows in range(permutations, 0, -1):
        number = permutations // rows
        if (1 - threshold**rows) ** number <= MISS:
            return number, rows
    return None


def signatures(sets: Ragged, permutations: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures: uint32 of shape (permutations, sets).

    Each permutation is x -> a x + b modulo 2^64 with odd a, of which the high half
    is kept. Empty sets get 0 everywhere and must be left out by the caller.
    """
    random = np.random.default_rng(seed)
    a = random.integers(0, 2**64, permutations, dtype=np.uint64) | np.uint64(1)
    b = random.integers(0, 2**64, permutations, dtype=np.uint64)
    result = np.zeros((permutations, len(sets.lengths)), dtype=np.uint32)
    filled = np.flatnonzero(sets.lengths)
    for part in blocks(sets.lengths[filled], _VALUES):
        block = take(sets, filled[part])
        permuted = np.empty_like(block.values)
        for p in range(permutations):
            np.multiply(block.values, a[p], out=permuted)
            np.add(permuted, b[p], out=permuted)
            minima = np.minimum.reduceat(permuted, block.offsets[:-1])
            result[p, filled[part]] = minima >> np.uint64(32)
    return result


def banded(pool: Pool, permutations: int, seed: int) -> list[Buckets]:
    """A bucket for each band of each signature. There must be `bands` for the threshold.

    The signatures are those of what sets share with others; its similarity is at
    least that of the whole sets, so no pair becomes less likely to be found.
    """
    shape = bands(permutations, pool.threshold)
    assert shape is not None
    entries = np.flatnonzero(~pool.joined)
    crowded = np.zeros(len(pool.rows), dtype=np.bool_)
    parts = []
    for keys in _keys(signatures(pool.sets, shape[0] * shape[1], seed), shape):
        crowd = multiplicity(keys[entries]) > _CROWD
        crowded[entries[crowd]] = True
        rows = entries[~crowd]
        parts.append(look_up(pool, keys[rows], rows, pool.sets.lengths[rows]))
    return [*prefixes(pool, np.flatnonzero(crowded)), united(parts)]


def _keys(signature: NDArray[np.uint32], shape: tuple[int, int]) -> Iterator[NDArray[np.uint64]]:
    """For each band one hash per set: equal where all minima of the band are."""
    for band in signature.reshape(*shape, -1):
        key = np.zeros(band.shape[1], dtype=np.uint64)
        for minimum in band:
            key = (key ^ minimum) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        yield key
