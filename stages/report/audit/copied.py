"""The longest run of words that a text shares with other texts.

In: texts, and what they may have been copied from. Out: for each text the number of words. The same
as comparing every run of words with every other (`brute` in tests/stages/report/test_audit.py),
faster because whether a run of n words is shared is asked for all texts at once, by hashes, and n
is found by halving: what shares a run of n words shares shorter ones too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._common.splitmix64 import mix64
from stages._text.ragged import Ragged, count_set, ranges
from stages._text.tokens import hash_tokens, words

_BASE: Final = 0x9E3779B97F4A7C17
"""Odd, so that it has an inverse; one more is divisible by 8, one less only by 2, so that two
words in the other order have another hash."""

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def longest_runs(texts: pl.Series, sources: pl.Series, *, paired: bool = False) -> Integers:
    """For each text the words of the longest run that it shares with a source.

    Args:
        texts: The texts.
        sources: What they may have been copied from.
        paired: Whether each text is compared with the source of its own position alone.

    Example:
        >>> answers = pl.Series(["It is a red fox, they say.", "No."])
        >>> longest_runs(answers, pl.Series(["I saw a red fox there.", "A fox."])).tolist()
        [3, 0]
    """
    own, other = _Runs(texts), _Runs(sources)
    best = np.zeros(len(texts), dtype=np.int64)
    step = 1
    while (rows := np.flatnonzero((own.lengths >= step) & (best == step // 2))).size:
        best[own.shared(rows, other, step, paired=paired)] = step
        step *= 2
    while (step := step // 2) > 1:
        targets = np.where(best >= step, best + step // 2, 0)
        targets[own.lengths < targets] = 0
        for n in np.unique(targets[targets > 0]):
            rows = np.flatnonzero(targets == n)
            best[own.shared(rows, other, int(n), paired=paired)] = n
    return best


class _Runs:
    """The words of texts, and the hash of any run of them.

    A run of n words from i on has the hash sum of v[i + j] B^j, modulo 2^64.
    """

    def __init__(self, texts: pl.Series) -> None:
        hashed: Ragged = hash_tokens(words(texts.fill_null("")))
        n = len(hashed.values)
        self.offsets, self.lengths = hashed.offsets, hashed.lengths
        self._inverse = _powers(pow(_BASE, -1, 1 << 64), n)
        self._sums = np.zeros(n + 1, dtype=np.uint64)
        np.cumsum(hashed.values * _powers(_BASE, n), out=self._sums[1:])

    def shared(self, rows: Integers, other: _Runs, n: int, *, paired: bool) -> Integers:
        """Those of the texts that share a run of n words.

        Args:
            rows: Positions of texts.
            other: The sources.
            n: The length.
            paired: See `longest_runs`.
        """
        counts = np.maximum(self.lengths[rows] - n + 1, 0)
        known = rows if paired else np.arange(len(other.lengths))
        keys = self._keys(rows, n, paired=paired)
        flags = np.isin(keys, other._keys(known, n, paired=paired))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return rows[count_set(flags, offsets) > 0]

    def _keys(self, rows: Integers, n: int, *, paired: bool) -> Hashes:
        """The hashes of all runs of n words of some texts, of a text by itself where paired."""
        counts = np.maximum(self.lengths[rows] - n + 1, 0)
        starts = ranges(self.offsets[:-1][rows], counts)
        hashes = mix64((self._sums[starts + n] - self._sums[starts]) * self._inverse[starts])
        if not paired:
            return hashes
        return mix64(hashes + np.repeat(rows, counts).astype(np.uint64))


def _powers(base: int, n: int) -> Hashes:
    factors = np.full(n, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
