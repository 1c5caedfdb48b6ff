"""Which texts hold runs of words from evaluation items, exactly.

The n-grams of the items, the small side, are hashed once; the rows stream past
them through a rolling hash. A bitmap answers "no" for nearly every position, a
sorted search for the few that remain, and the words themselves are compared at
last (by their own 64-bit hashes), so that no collision of runs convicts a row.

Matches are worked on in parts of bounded size: a template that thousands of items
share, found in thousands of rows, takes time but no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ragged import Ragged, offsets_of
from stages._text.tokens import hash_tokens, rolling_hashes, words

DISTINCT: Final = 3
"""An n-gram of fewer distinct words says nothing: a run of zeros is no leak. Nor does
one of numbers and single letters alone: many texts count from 1 to 13."""

TELLING: Final = 8
"""A whole text of fewer words (an answer such as "the fall of the Berlin wall") occurs
by chance inside longer ones, so it must be at least half of the turn that it is in."""

Measure = Literal["words", "ngrams", "sequence"]
"""What the overlap is a share of. words: the exam text's words, counted where a shared
n-gram covers them. ngrams: its n-grams. sequence: the words of the shorter of both
texts, counted where their longest common subsequence has them."""

_TRIVIAL = r"^(?:\p{N}+|\p{Latin})$"
_CHUNK = 16_384
_MATCHES = 1 << 20
"""Matches that are compared at one time; more where a single text has more."""


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

    def search(
        self, hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Which of the hashes are among the keys; the first entry of each, and how many."""
        place = np.flatnonzero(self.bitmap[hashes >> _shift(self.bitmap)])
        low = np.searchsorted(self.keys, hashes[place], side="left")
        counts = np.searchsorted(self.keys, hashes[place], side="right") - low
        held = counts > 0
        return place[held], low[held], counts[held]


class Index(NamedTuple):
    """The n-grams of the exam texts.

    n: words per n-gram. texts: frame with one line per text: what names it, its
    `length` in words, and what of it can be found at all: so many `ngrams`, which
    cover so many words (`findable`). values: hashes of the words of all texts, flat:
    the words themselves. short_anywhere: see `build_index`.
    """

    n: int
    texts: pl.DataFrame
    flat: pl.Series
    values: Ragged
    tables: list[Table]
    short_anywhere: bool

    def usable(self) -> NDArray[np.int64]:
        """The numbers of the texts of which anything can be found."""
        return np.flatnonzero(self.texts["ngrams"].to_numpy())

    def run(self, text: int, start: int, length: int) -> str:
        """Some of a text's words, separated by spaces."""
        return " ".join(self.flat.slice(int(self.values.offsets[text]) + start, length))


class Overlaps(NamedTuple):
    """Pairs of a text and an exam text that share n-grams.

    row, text: their numbers; overlap: the share that is common, above 0 and at most 1;
    start, length: the first shared n-gram, in words of the exam text.
    """

    row: NDArray[np.int64]
    text: NDArray[np.int64]
    overlap: NDArray[np.float64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


class _Hits(NamedTuple):
    """Where a text may hold exam n-grams. place: word of the chunk.

    first, entries: where the n-gram's entries in the table begin, and how many there are.
    """

    table: NDArray[np.int64]
    row: NDArray[np.int64]
    place: NDArray[np.int64]
    first: NDArray[np.int64]
    entries: NDArray[np.int64]


def build_index(
    texts: pl.DataFrame, n: int, shortest: int, *, short_anywhere: bool = False
) -> Index:
    """Index the n-grams of texts: a frame with `text` and what names it.

    A text of fewer than n words, but at least `shortest`, is one n-gram as a whole; of
    fewer than `TELLING` it must also be half of a turn, unless `short_anywhere`.
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
        tables.append(make_table(length, rolled[places], places, hashed.offsets))
    lines = texts.drop("text").with_columns(
        pl.Series("length", hashed.lengths), *_findable(tables, hashed.offsets)
    )
    return Index(n, lines, flat, hashed, tables, short_anywhere)


def make_table(
    length: int,
    keys: NDArray[np.uint64],
    places: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> Table:
    """The table of n-grams that begin at these places, which ascend, of the flat words."""
    text = np.searchsorted(offsets, places, side="right") - 1
    start = places - offsets[text]
    order = np.argsort(keys, kind="stable")
    keys, text, start = keys[order], text[order], start[order]
    # 32 places per key: one hash in 32 of those that are not there goes on to the search.
    bitmap = np.zeros(1 << max(10, (32 * len(keys)).bit_length()), dtype=np.bool_)
    bitmap[keys >> _shift(bitmap)] = True
    return Table(length, keys, text, start, bitmap)


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


def _findable(tables: list[Table], offsets: NDArray[np.int64]) -> list[pl.Series]:
    """How many n-grams of each text are indexed, and how many words these cover."""
    size = len(offsets) - 1
    ngrams = np.zeros(size, dtype=np.int64)
    edges = np.zeros(offsets[-1] + 1, dtype=np.int64)
    for table in tables:
        ngrams += np.bincount(table.text, minlength=size)
        begin = offsets[table.text] + table.start
        edges += np.bincount(begin, minlength=len(edges))
        edges -= np.bincount(begin + table.length, minlength=len(edges))
    covered = offsets_of((np.cumsum(edges)[:-1] > 0).astype(np.int64))
    return [pl.Series("ngrams", ngrams), pl.Series("findable", np.diff(covered[offsets]))]


def overlaps(index: Index, texts: pl.Series, measure: Measure = "words") -> Overlaps:
    """All pairs of a text and an exam text that share an n-gram; rows ascending."""
    parts = list(scan(index, texts, measure))
    return Overlaps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def scan(index: Index, texts: pl.Series, measure: Measure = "words") -> Iterator[Overlaps]:
    """The pairs of `overlaps` in parts, at least one; all pairs of a row are in one part."""
    nothing = np.zeros(0, dtype=np.int64)
    yield Overlaps(nothing, nothing, nothing.astype(np.float64), nothing, nothing)
    for chunk in range(0, len(texts), _CHUNK):
        hashed = hash_tokens(words(texts.slice(chunk, _CHUNK)))
        for hits in _bounded(_hits(index, hashed)):
            pairs = _measure(index, hashed, measure, *_matches(index, hits, hashed))
            yield pairs._replace(row=pairs.row + chunk)


def _hits(index: Index, hashed: Ragged) -> _Hits:
    """Where the texts of a chunk may hold an exam n-gram, each n-gram once per text, by text."""
    parts = [np.zeros((5, 0), dtype=np.int64)]
    tables = {t.length: (number, t) for number, t in enumerate(index.tables) if len(t.keys)}
    for length, rolled in rolling_hashes(hashed.values, max(tables, default=0)):
        if length not in tables:
            continue
        number, table = tables[length]
        place, first, count = table.search(rolled)
        row = np.searchsorted(hashed.offsets, place, side="right") - 1
        good = place + length <= hashed.offsets[row + 1]
        if length < min(index.n, TELLING) and not index.short_anywhere:
            good &= 2 * length >= hashed.lengths[row]
        parts.append(np.stack([np.full_like(row, number), row, place, first, count])[:, good])
    found = np.concatenate(parts, axis=1)
    order = np.lexsort((found[2], found[3], found[0], found[1]))
    found = found[:, order]
    again = (found[:2, 1:] == found[:2, :-1]).all(axis=0) & (found[3, 1:] == found[3, :-1])
    return _Hits(*found[:, np.concatenate([[True], ~again])[: found.shape[1]]])


def _bounded(hits: _Hits) -> Iterator[_Hits]:
    """The hits cut between texts, so that a part has at most `_MATCHES` if it can."""
    last = np.flatnonzero(np.append(np.diff(hits.row), 1)) if len(hits.row) else hits.row
    through = np.cumsum(hits.entries)[last]
    begin, done = 0, 0
    while begin < len(hits.row):
        end = max(int(np.searchsorted(through, done + _MATCHES, side="right")) - 1, 0)
        end = max(end, int(np.searchsorted(last, begin)))
        yield _Hits(*(column[begin : last[end] + 1] for column in hits))
        begin, done = int(last[end]) + 1, int(through[end])


def _matches(
    index: Index, hits: _Hits, hashed: Ragged
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, exam text, first word in it and length of every run of words that both hold."""
    parts = [np.zeros((4, 0), dtype=np.int64)]
    for number, table in enumerate(index.tables):
        chosen = np.flatnonzero(hits.table == number)
        counts = hits.entries[chosen]
        inside = offsets_of(counts)
        entry = np.repeat(hits.first[chosen] - inside[:-1], counts) + np.arange(inside[-1])
        row, place = np.repeat(hits.row[chosen], counts), np.repeat(hits.place[chosen], counts)
        text, start = table.text[entry], table.start[entry]
        theirs = index.values.offsets[text] + start
        equal = np.ones(len(row), dtype=np.bool_)
        for k in range(table.length):
            equal &= hashed.values[place + k] == index.values.values[theirs + k]
        parts.append(np.stack([row, text, start, np.full_like(row, table.length)])[:, equal])
    found = np.concatenate(parts, axis=1)
    order = np.lexsort((found[2], found[1], found[0]))
    row, text, start, length = found[:, order]
    return row, text, start, length


def _measure(
    index: Index,
    hashed: Ragged,
    measure: Measure,
    row: NDArray[np.int64],
    text: NDArray[np.int64],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
) -> Overlaps:
    """The overlap of each pair, from its matches in the order of their starts."""
    again = (row[1:] == row[:-1]) & (text[1:] == text[:-1])
    first = np.flatnonzero(np.concatenate([[True], ~again])[: len(row)])
    texts = text[first]
    if measure == "sequence":
        share = _common(index, hashed, row[first], texts)
    elif measure == "ngrams":
        counts = np.diff(np.append(first, len(row)))
        share = counts / index.texts["ngrams"].to_numpy()[texts]
    else:
        # All matches of a pair have one length, so a word is new if no match before reached it.
        fresh = length.copy()
        fresh[1:][again] = np.minimum(length[1:], np.diff(start))[again]
        covered = np.add.reduceat(fresh, first) if len(first) else np.zeros(0, dtype=np.int64)
        share = covered / index.texts["findable"].to_numpy()[texts]
    return Overlaps(row[first], texts, share, start[first], length[first])


def _common(
    index: Index, hashed: Ragged, row: NDArray[np.int64], text: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The longest common subsequence of words, as a share of the shorter text."""
    from rapidfuzz.distance import LCSseq

    length: Callable[..., int] = LCSseq.similarity
    shares = np.zeros(len(row))
    # A loop over pairs that share an n-gram only.
    for i, (mine, other) in enumerate(zip(row.tolist(), text.tolist(), strict=True)):
        ours, theirs = _words_of(hashed, mine), _words_of(index.values, other)
        shares[i] = length(ours, theirs) / min(len(ours), len(theirs))
    return shares


def _words_of(ragged: Ragged, number: int) -> list[int]:
    words: list[int] = ragged.values[ragged.offsets[number] : ragged.offsets[number + 1]].tolist()
    return words
