"""The words of a text as they are counted, and how much of it repeats.

In: texts. Out: lists of words, and the fraction of n-grams that occurred before.

A word is a run of letters and digits; of Chinese, Japanese, Thai, Lao, Khmer and Burmese,
which are written without spaces, it is a character.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ragged import Ragged, distinct
from stages._text.tokens import ngram_hashes, spaced

WORD: Final = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:['’]\p{L}[\p{L}\p{M}]*)*"
"""A run of letters and digits with their marks, apostrophes inside it included."""


def count_words(text: pl.Expr) -> pl.Expr:
    """The number of words: UInt32.

    >>> pl.DataFrame({"text": ["Isn't it 茶?"]}).select(count_words(pl.col("text"))).item()
    3
    """
    return spaced(text).str.count_matches(WORD)


def word_lists(text: pl.Expr) -> pl.Expr:
    """The words in lower case: list[str].

    >>> pl.DataFrame({"text": ["Isn't it?"]}).select(word_lists(pl.col("text"))).item().to_list()
    ["isn't", 'it']
    """
    return spaced(text).str.to_lowercase().str.extract_all(WORD)


def repetition(words: pl.Series, offsets: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """The fraction of n-grams that occurred before; NaN for a text without any word.

    It is 1 - distinct / all (seq-rep-n of Welleck et al. 2020, arXiv:1908.04319), and 0 where
    there are fewer than n words. N-grams are compared by hash: two that differ share one with a
    probability near 2^-64.

    Args:
        words: The words of all texts, one after the other.
        offsets: Where each text begins, and the end; shape (texts + 1,).
        n: Words in an n-gram.

    >>> repetition(pl.Series(["a", "b", "a", "b"]), np.array([0, 4]), 2).round(2).tolist()
    [0.33]
    """
    grams = ngram_hashes(Ragged(offsets, words.hash().to_numpy()), n)
    fraction = 1 - distinct(grams).lengths / np.maximum(grams.lengths, 1)
    fraction[grams.lengths == 0] = 0
    return np.where(np.diff(offsets) > 0, fraction, np.nan)
