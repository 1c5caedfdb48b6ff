"""Which texts hold runs of words from evaluation items, exactly.

The n-grams of the items, the small side, are hashed once; the rows stream past
them through a rolling hash. A bitmap answers "no" for nearly every position, a
sorted search for the few that remain, and the words themselves are compared at
last, so that no collision of hashes convicts a row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text import Ragged, hash_tokens, offsets_of, rolling_hashes, words

DISTINCT: Final = 3
"""An n-gram of fewer distinct words says nothing: a run of zeros is no leak. Nor does
one of numbers and single letters alone: many texts count from 1 to 13."""

TELLING: Final = 8
"""A whole text of fewer words (an answer such as "the fall of the Berlin wall") occurs
by chance inside longer ones, so it must be at least half of the turn that it is in."""

_TRIVIAL = r"^(?:\p{N}+|\p{Latin})$"
_CHUNK = 16_384


class Table(NamedTuple):
    """The exam n-grams of one length, one entry for each occurrence, ordered by hash.

    keys: uint64 hashes; text, start: which text an n-gram is in, and at which word.
    bitmap: true where the top bits of some key point.
    """

    length: int
    keys: NDArray[np.uint64]
    text: NDArray[np.int64]
    start: NDArray[np.int64]
    bitmap: NDArray[np.bool_]

    def may_hold(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The positions of the hashes that can be among the keys."""
        return np.flatnonzero(self.bitmap[hashes >> _shift(self.bitmap)])


class Index(NamedTuple):
    """The n-grams of the exam texts.

    n: words per n-gram. texts: frame with one line per text, what names it and its
    length in words. flat: the words of all texts; offsets: where each text's begin.
    """

    n: int
    texts: pl.DataFrame
    flat: pl.Series
    offsets: NDArray[np.int64]
    tables: list[Table]

    def usable(self) -> NDArray[np.int64]:
        """The numbers of the texts of which anything can be found."""
        found = [table.text for table in self.tables]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))


class Overlaps(NamedTuple):
    """Pairs of a text and an exam text that share n-grams.

    row, text: their numbers; overlap: the share of the exam text's words that lie in
    shared n-grams; start, length: the first shared n-gram, in words of the exam text.
    """

    row: NDArray[np.int64]
    text: NDArray[np.int64]
    overlap: NDArray[np.float64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


def build_index(texts: pl.DataFrame, n: int, shortest: int) -> Index:
    """Index the n-grams of texts: a frame with `text` and what names it.

    A text of fewer than n words, but at least `shortest`, is one n-gram as a whole.
    """
    tokenised = words(texts["text"])
    hashed = hash_tokens(tokenised)
    flat = tokenised.explode(empty_as_null=False, keep_nulls=False)
    telling = np.cumsum(np.append(0, ~flat.str.contains(_TRIVIAL).to_numpy()))
    tables = []
    for length, rolled in rolling_hashes(hashed.values, n):
        if length == n:
            counts = np.maximum(hashed.lengths - (n - 1), 0)
            inside = offsets_of(counts)
            places = np.repeat(hashed.offsets[:-1] - inside[:-1], counts) + np.arange(inside[-1])
            places = places[telling[places + n] > telling[places]]
        elif length >= shortest:
            places = hashed.offsets[:-1][hashed.lengths == length]
        else:
            continue
        places = places[_distinct(hashed.values, places, length)]
        tables.append(_table(length, rolled[places], places, hashed.offsets))
    lines = texts.drop("text").with_columns(pl.Series("length", hashed.lengths))
    return Index(n, lines, flat, hashed.offsets, tables)


def _table(
    length: int,
    keys: NDArray[np.uint64],
    places: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> Table:
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    text = np.searchsorted(offsets, places, side="right") - 1
    # 32 places per key: one hash in 32 of those that are not there goes on to the search.
    bitmap = np.zeros(1 << max(10, (32 * len(keys)).bit_length()), dtype=np.bool_)
    bitmap[keys >> _shift(bitmap)] = True
    return Table(length, keys, text, places - offsets[text], bitmap)


def _shift(bitmap: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(64 - (len(bitmap).bit_length() - 1))


def _distinct(
    values: NDArray[np.uint64], places: NDArray[np.int64], length: int
) -> NDArray[np.bool_]:
    """Whether each run of `length` words has `DISTINCT` different ones."""
    first = values[places]
    second, seen = first.copy(), np.zeros(len(places), dtype=np.bool_)
    third = seen.copy()
    for k in range(1, length):
        value = values[places + k]
        third |= seen & (value != first) & (value != second)
        second = np.where(seen, second, value)
        seen |= value != first
    return third


def overlaps(index: Index, texts: pl.Series) -> Overlaps:
    """All pairs of a text and an exam text that share an n-gram; rows ascending."""
    parts = [np.zeros((4, 0), dtype=np.int64)]
    for chunk in range(0, len(texts), _CHUNK):
        tokenised = words(texts.slice(chunk, _CHUNK))
        hashed = hash_tokens(tokenised)
        flat = tokenised.explode(empty_as_null=False, keep_nulls=False)
        tables = {table.length: table for table in index.tables if len(table.keys)}
        for length, rolled in rolling_hashes(hashed.values, max(tables, default=0)):
            if length in tables:
                row, text, start = _matches(index, tables[length], rolled, hashed, flat)
                parts.append(np.stack([row + chunk, text, start, np.full_like(row, length)]))
    return _measure(index, *np.concatenate(parts, axis=1))


def _matches(
    index: Index, table: Table, rolled: NDArray[np.uint64], hashed: Ragged, flat: pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, exam text, and first word in it, of every run of words that both hold."""
    place = table.may_hold(rolled)
    row = np.searchsorted(hashed.offsets, place, side="right") - 1
    good = place + table.length <= hashed.offsets[row + 1]
    if table.length < min(index.n, TELLING):
        good &= 2 * table.length >= hashed.lengths[row]
    place, row = place[good], row[good]
    low = np.searchsorted(table.keys, rolled[place], side="left")
    counts = np.searchsorted(table.keys, rolled[place], side="right") - low
    first = offsets_of(counts)
    entry = np.repeat(low - first[:-1], counts) + np.arange(first[-1])
    place, row = np.repeat(place, counts), np.repeat(row, counts)
    text, start = table.text[entry], table.start[entry]
    equal = np.ones(len(place), dtype=np.bool_)
    for k in range(table.length):
        theirs = index.flat.gather(index.offsets[text] + start + k)
        equal &= (flat.gather(place + k) == theirs).to_numpy()
    return row[equal], text[equal], start[equal]


def _measure(
    index: Index,
    row: NDArray[np.int64],
    text: NDArray[np.int64],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
) -> Overlaps:
    """The share of each exam text that a row's matches cover, each word counted once."""
    order = np.lexsort((start, text, row))
    row, text, start, length = row[order], text[order], start[order], length[order]
    again = (row[1:] == row[:-1]) & (text[1:] == text[:-1])
    # All matches of a pair have one length, so a word is new if no match before reached it.
    fresh = length.copy()
    fresh[1:][again] = np.minimum(length[1:], np.diff(start))[again]
    first = np.flatnonzero(np.concatenate([[True], ~again])[: len(row)])
    covered = np.add.reduceat(fresh, first) if len(first) else np.zeros(0, dtype=np.int64)
    total = index.texts["length"].to_numpy()[text[first]]
    return Overlaps(row[first], text[first], covered / total, start[first], length[first])
