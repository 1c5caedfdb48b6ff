"""Tables of n-grams: where each occurs, by its hash."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

MIN_DISTINCT_WORDS: Final = 3
"""An n-gram of fewer distinct words is ignored: a run of zeros is no leak. So is one of
numbers and single letters alone: many texts count from 1 to 13."""


class NgramTable(NamedTuple):
    """The n-grams of one length, one entry for each occurrence, ordered by hash.

    Attributes:
        length: Words per n-gram.
        keys: Hashes, uint64, ascending.
        text: The text that an n-gram is in.
        start: Its first word, counted within the text.
        bitmap: True at the top bits of every key.
    """

    length: int
    keys: NDArray[np.uint64]
    text: Integers
    start: Integers
    bitmap: NDArray[np.bool_]

    def search(self, hashes: NDArray[np.uint64]) -> tuple[Integers, Integers, Integers]:
        """Positions of the hashes that are keys, the first entry of each, and how many."""
        position = np.flatnonzero(self.bitmap[hashes >> _shift(self.bitmap)])
        low = np.searchsorted(self.keys, hashes[position], side="left")
        counts = np.searchsorted(self.keys, hashes[position], side="right") - low
        present = counts > 0
        return position[present], low[present], counts[present]


def make_table(
    length: int, keys: NDArray[np.uint64], starts: Integers, offsets: Integers
) -> NgramTable:
    """A table of n-grams.

    Args:
        length: Words per n-gram.
        keys: The hash of each n-gram.
        starts: Its first word, counted over all texts, ascending.
        offsets: Where each text begins among all words, and the end of the last.
    """
    text = np.searchsorted(offsets, starts, side="right") - 1
    start = starts - offsets[text]
    order = np.argsort(keys, kind="stable")
    keys, text, start = keys[order], text[order], start[order]
    # 32 bits per key: one absent hash in 32 goes on to the search.
    bitmap = np.zeros(1 << max(10, (32 * len(keys)).bit_length()), dtype=np.bool_)
    bitmap[keys >> _shift(bitmap)] = True
    return NgramTable(length, keys, text, start, bitmap)


def _shift(bitmap: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(64 - (len(bitmap).bit_length() - 1))


def has_distinct_words(
    values: NDArray[np.uint64], starts: Integers, length: int
) -> NDArray[np.bool_]:
    """Whether each run of words has `MIN_DISTINCT_WORDS` different ones.

    Args:
        values: The hashes of the words.
        starts: The first word of each run.
        length: The number of words of each.
    """
    first = values[starts]
    second, seen = first.copy(), np.zeros(len(starts), dtype=np.bool_)
    third = seen.copy()
    for k in range(1, length):
        value = values[starts + k]
        third |= seen & (value != first) & (value != second)
        second = np.where(seen, second, value)
        seen |= value != first
    return third
