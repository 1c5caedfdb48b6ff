"""Texts that are matched whole, because all of their n-grams are ignored: arithmetic.

"12 + 7 * 30 - 4 ..." has no n-gram of anything but numbers, and such n-grams are ignored,
since many texts count. The complete text is no such chance: it is one n-gram, as shorter
texts are, unless it is a count itself ("1, 2, 3, ...", "a b c ...").

A text may be long, and most rows hold none of its words; so rows are searched for its
first `ngram_size` words, and only where these are the hash is extended to the text's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ngram_table import Integers, NgramTable, has_distinct_words, make_table
from stages._text.ragged import Ragged
from stages._text.tokens import extend_hashes


class WholeTexts(NamedTuple):
    """Texts that are matched whole.

    Attributes:
        beginnings: Their first `ngram_size` words.
        tables: The complete texts, a table for each length, ascending.
    """

    beginnings: NgramTable
    tables: list[NgramTable]


def index_whole(
    hashed: Ragged, flat: pl.Series, candidates: Integers, ngram_size: int
) -> WholeTexts:
    """Index texts as wholes.

    Args:
        hashed: The hashes of the words of all texts.
        flat: The words.
        candidates: Positions of texts of which no n-gram is indexed. Those of fewer than
            `ngram_size` words or three different ones, and counts, are left out.
        ngram_size: How many first words rows are searched for.
    """
    lengths = hashed.lengths[candidates]
    candidates = candidates[lengths >= ngram_size]
    # A loop over the few texts of numbers.
    candidates = np.array([t for t in candidates if not _is_count(_words(flat, hashed, t))], int)
    starts = hashed.offsets[candidates]
    tables = []
    for length in np.unique(hashed.lengths[candidates]).tolist():
        some = starts[hashed.lengths[candidates] == length]
        some = some[has_distinct_words(hashed.values, some, length)]
        tables.append(_table(hashed, some, length))
    return WholeTexts(_table(hashed, starts, ngram_size), tables)


def _table(hashed: Ragged, starts: Integers, length: int) -> NgramTable:
    keys = extend_hashes(hashed.values, starts, np.zeros(len(starts), np.uint64), range(length))
    return make_table(length, keys, starts, hashed.offsets)


def _words(flat: pl.Series, hashed: Ragged, text: int) -> list[str]:
    words: list[str] = flat[int(hashed.offsets[text]) : int(hashed.offsets[text + 1])].to_list()
    return words


def _is_count(words: list[str]) -> bool:
    """Whether numbers follow one another in equal steps, or letters do.

    >>> _is_count(["2", "4", "6"]), _is_count(["a", "b", "c"]), _is_count(["2", "4", "7"])
    (True, True, False)
    """
    if all(word.isdecimal() for word in words):
        values = [int(word[:300]) for word in words]  # Python refuses thousands of digits
    elif all(len(word) == 1 for word in words):
        values = [ord(word) for word in words]
    else:
        return False
    return len({b - a for a, b in pairwise(values)}) <= 1


def find_whole(
    whole: WholeTexts, hashed: Ragged, rolled: NDArray[np.uint64]
) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Where the texts of a chunk may hold a complete text.

    Args:
        whole: The texts to search for.
        hashed: The hashes of the words of a chunk of texts.
        rolled: The hashes of all runs of `ngram_size` words of the chunk.

    Yields:
        For each of the tables the first words of what may be its texts, and the entries
        (see `NgramTable.search`).
    """
    word, _, _ = whole.beginnings.search(rolled)
    end = hashed.offsets[np.searchsorted(hashed.offsets, word, side="right")]
    hashes, length = rolled[word], whole.beginnings.length
    for table in whole.tables:
        inside = word + table.length <= end
        word, end, hashes = word[inside], end[inside], hashes[inside]
        hashes = extend_hashes(hashed.values, word, hashes, range(length, table.length))
        length = table.length
        position, first, entries = table.search(hashes)
        yield word[position], first, entries
