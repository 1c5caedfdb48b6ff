"""Find the runs of words that texts share with evaluation items, exactly.

In: the texts of evaluation items, and the texts to search. Out: for each pair that shares
an n-gram the overlap and the first shared n-gram. See `build_index` and `find_overlaps`.

The result is that of loops over word tuples (`overlap` in tests/support/ngram_oracle.py),
faster because the n-grams of the items, the small side, are hashed once and the texts
stream past them through a rolling hash. A bitmap answers "no" for nearly every position, a
sorted search for the few that remain. Exact, because the words themselves are compared at
last (by their own 64-bit hashes), so that a collision of n-gram hashes is no match.

Matches are processed in parts of bounded size: a template that thousands of items share,
found in thousands of rows, takes time but no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ngram_table import Integers, NgramTable, has_distinct_words, make_table
from stages._text.ragged import Ragged, offsets_of, ranges
from stages._text.tokens import hash_tokens, rolling_hashes, words
from stages._text.whole_texts import WholeTexts, find_whole, index_whole

MIN_WORDS_ANYWHERE: Final = 8
"""A complete text of fewer words (an answer such as "the fall of the Berlin wall") occurs
by chance inside longer ones, so it must be at least half of the turn that it is in."""

Measure = Literal["words", "ngrams", "sequence"]
"""What the overlap is a fraction of. words: the item text's words, counted where a shared
n-gram covers them. ngrams: its n-grams. sequence: the words of the shorter of both
texts, counted where their longest common subsequence has them."""

_TRIVIAL = r"^(?:\p{N}+|\p{Latin})$"
_CHUNK = 16_384
_MATCHES = 1 << 20
"""Matches that are compared at one time; more where a single text has more."""

_Columns = TypeVar("_Columns", bound=tuple[Any, ...])


class Index(NamedTuple):
    """The n-grams of item texts.

    Attributes:
        ngram_size: Words per n-gram.
        texts: One row per text: the columns that name it, its `length` in words, and what
            of it is indexed: so many `ngrams`, which cover so many words (`findable`).
        flat: The words of all texts.
        values: Their hashes, by text.
        tables: One for each length of n-gram.
        whole: The texts of which all n-grams are ignored.
        short_anywhere: See `build_index`.
    """

    ngram_size: int
    texts: pl.DataFrame
    flat: pl.Series
    values: Ragged
    tables: list[NgramTable]
    whole: WholeTexts
    short_anywhere: bool

    def all_tables(self) -> list[NgramTable]:
        """The tables of n-grams, and then those of the texts that are matched whole."""
        return [*self.tables, *self.whole.tables]

    def searchable(self) -> Integers:
        """Positions of the texts of which anything is indexed."""
        return np.flatnonzero(self.texts["ngrams"].to_numpy())

    def excerpt(self, text: int, start: int, length: int) -> str:
        """Some of a text's words, separated by spaces.

        Args:
            text: Position of the text.
            start: The first word, from 0 in the text.
            length: How many words.
        """
        return " ".join(self.flat.slice(int(self.values.offsets[text]) + start, length))


class Overlaps(NamedTuple):
    """Pairs of a searched text and an item text that share n-grams; arrays of one length.

    Attributes:
        row: Position of the searched text.
        text: Position of the item text.
        overlap: The fraction in common, above 0 and at most 1.
        start: The first shared n-gram, in words of the item text.
        length: Its number of words.
    """

    row: Integers
    text: Integers
    overlap: NDArray[np.float64]
    start: Integers
    length: Integers


class _Hits(NamedTuple):
    """Where a searched text may hold an indexed n-gram.

    Attributes:
        table: Position of the table in `all_tables`.
        row: Position of the text in its chunk.
        word: First word, counted over the chunk.
        first: The n-gram's first entry in the table.
        entries: How many entries it has.
    """

    table: Integers
    row: Integers
    word: Integers
    first: Integers
    entries: Integers


class _Matches(NamedTuple):
    """Runs of words that a searched text and an item text share."""

    row: Integers
    text: Integers
    start: Integers
    length: Integers


_NONE: Final = np.zeros(0, dtype=np.int64)


def build_index(
    texts: pl.DataFrame, ngram_size: int, min_words: int, *, short_anywhere: bool = False
) -> Index:
    """Index the n-grams of texts.

    A text of which all n-grams are ignored is indexed whole (`whole_texts`).

    Args:
        texts: A frame with `text`, and columns that name it.
        ngram_size: Words per n-gram.
        min_words: A text of fewer than `ngram_size` words, but at least so many, is one
            n-gram; shorter texts are left out.
        short_anywhere: Find texts of fewer than `MIN_WORDS_ANYWHERE` words in a turn of any
            length; otherwise they must be at least half of it.

    Example:
        >>> items = pl.DataFrame({"name": ["q"], "text": ["How many apples does Tom have left?"]})
        >>> index = build_index(items, ngram_size=4, min_words=3)
        >>> rows = pl.Series(["So how many apples does he have?", "Nothing alike"])
        >>> pairs = find_overlaps(index, rows)
        >>> pairs.row.tolist(), pairs.overlap.round(3).tolist()
        ([0], [0.571])
        >>> index.excerpt(0, pairs.start[0], pairs.length[0])
        'how many apples does'
    """
    tokenized = words(texts["text"])
    hashed = hash_tokens(tokenized)
    flat = tokenized.explode(empty_as_null=False, keep_nulls=False)
    tables = []
    for length, rolled in rolling_hashes(hashed.values, ngram_size):
        if length == ngram_size:
            starts = ngram_starts(hashed, flat, ngram_size)
        elif length >= min_words:
            starts = hashed.offsets[:-1][hashed.lengths == length]
            starts = starts[has_distinct_words(hashed.values, starts, length)]
        else:
            continue
        tables.append(make_table(length, rolled[starts], starts, hashed.offsets))
    ngrams, _ = _indexed(tables, hashed.offsets)
    whole = index_whole(hashed, flat, np.flatnonzero(ngrams.to_numpy() == 0), ngram_size)
    named = texts.drop("text").with_columns(
        pl.Series("length", hashed.lengths), *_indexed([*tables, *whole.tables], hashed.offsets)
    )
    return Index(ngram_size, named, flat, hashed, tables, whole, short_anywhere)


def ngram_starts(hashed: Ragged, flat: pl.Series, ngram_size: int) -> Integers:
    """The first words of the n-grams that are compared: all but those of `MIN_DISTINCT_WORDS`.

    Args:
        hashed: The hashes of the words of each text.
        flat: The words of all texts.
        ngram_size: Words per n-gram.
    """
    nontrivial = np.cumsum(np.append(0, ~flat.str.contains(_TRIVIAL).to_numpy()))
    counts = np.maximum(hashed.lengths - (ngram_size - 1), 0)
    starts = ranges(hashed.offsets[:-1], counts)
    starts = starts[nontrivial[starts + ngram_size] > nontrivial[starts]]
    return starts[has_distinct_words(hashed.values, starts, ngram_size)]


def _indexed(tables: list[NgramTable], offsets: Integers) -> list[pl.Series]:
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


def find_overlaps(index: Index, texts: pl.Series, measure: Measure = "words") -> Overlaps:
    """All pairs of a text and an item text that share an n-gram; rows ascending.

    Args:
        index: Of the items' texts.
        texts: The texts to search.
        measure: What the overlap is a fraction of.
    """
    return _concat(Overlaps, list(scan_overlaps(index, texts, measure)))


def scan_overlaps(index: Index, texts: pl.Series, measure: Measure = "words") -> Iterator[Overlaps]:
    """`find_overlaps` in parts, at least one; all pairs of a row are in one part.

    Args:
        index: Of the items' texts.
        texts: The texts to search.
        measure: What the overlap is a fraction of.
    """
    yield Overlaps(_NONE, _NONE, _NONE.astype(np.float64), _NONE, _NONE)
    for chunk in range(0, len(texts), _CHUNK):
        hashed = hash_tokens(words(texts.slice(chunk, _CHUNK)))
        for hits in _bounded(_hits(index, hashed)):
            pairs = _overlaps(index, hashed, measure, _matches(index, hits, hashed))
            yield pairs._replace(row=pairs.row + chunk)


def _concat(kind: type[_Columns], parts: list[_Columns]) -> _Columns:
    """Parts of columns as one."""
    return kind(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _select(columns: _Columns, rows: Any) -> _Columns:
    """Some rows of columns, by their positions, a mask or a slice."""
    return type(columns)(*(column[rows] for column in columns))


def _hits(index: Index, hashed: Ragged) -> _Hits:
    """Where the texts of a chunk may hold an n-gram, each n-gram once per text, by text."""
    parts = [_Hits(_NONE, _NONE, _NONE, _NONE, _NONE)]
    tables = {t.length: (number, t) for number, t in enumerate(index.tables) if len(t.keys)}
    longest = index.ngram_size if index.whole.tables else max(tables, default=0)
    for length, rolled in rolling_hashes(hashed.values, longest):
        if length in tables:
            number, table = tables[length]
            parts.append(_located(index, hashed, number, table.search(rolled)))
        if length == index.ngram_size:
            numbered = enumerate(find_whole(index.whole, hashed, rolled), len(index.tables))
            parts += [_located(index, hashed, number, entries) for number, entries in numbered]
    hits = _concat(_Hits, parts)
    hits = _select(hits, np.lexsort((hits.word, hits.first, hits.table, hits.row)))
    same_ngram = np.ones(max(len(hits.row) - 1, 0), dtype=np.bool_)
    for column in (hits.table, hits.row, hits.first):
        same_ngram &= column[1:] == column[:-1]
    return _select(hits, np.append(True, ~same_ngram)[: len(hits.row)])


def _located(
    index: Index, hashed: Ragged, number: int, entries: tuple[Integers, Integers, Integers]
) -> _Hits:
    """What a search of a table gave, where it does not cross the end of a text.

    Args:
        index: The index.
        hashed: The words of the chunk.
        number: Position of the table in `all_tables`.
        entries: What `NgramTable.search` gave.
    """
    word, first, counts = entries
    length = index.all_tables()[number].length
    row = np.searchsorted(hashed.offsets, word, side="right") - 1
    inside = word + length <= hashed.offsets[row + 1]
    is_complete = length < index.ngram_size or number >= len(index.tables)
    if is_complete and length < MIN_WORDS_ANYWHERE and not index.short_anywhere:
        inside &= 2 * length >= hashed.lengths[row]
    return _select(_Hits(np.full_like(row, number), row, word, first, counts), inside)


def _bounded(hits: _Hits) -> Iterator[_Hits]:
    """The hits cut between texts, so that a part has at most `_MATCHES` if it can."""
    last = np.flatnonzero(np.append(np.diff(hits.row), 1)) if len(hits.row) else hits.row
    through = np.cumsum(hits.entries)[last]
    begin, done = 0, 0
    while begin < len(hits.row):
        end = max(int(np.searchsorted(through, done + _MATCHES, side="right")) - 1, 0)
        end = max(end, int(np.searchsorted(last, begin)))
        yield _select(hits, slice(begin, last[end] + 1))
        begin, done = int(last[end]) + 1, int(through[end])


def _matches(index: Index, hits: _Hits, hashed: Ragged) -> _Matches:
    """Every run of words that a text of the chunk and an item text share, by pair."""
    parts = [_Matches(_NONE, _NONE, _NONE, _NONE)]
    for number, table in enumerate(index.all_tables()):
        here = _select(hits, np.flatnonzero(hits.table == number))
        entry = ranges(here.first, here.entries)
        row, word = np.repeat(here.row, here.entries), np.repeat(here.word, here.entries)
        text, start = table.text[entry], table.start[entry]
        item_word = index.values.offsets[text] + start
        equal = np.ones(len(row), dtype=np.bool_)
        for k in range(table.length):
            equal &= hashed.values[word + k] == index.values.values[item_word + k]
        matches = _Matches(row, text, start, np.full_like(row, table.length))
        parts.append(_select(matches, equal))
    matches = _concat(_Matches, parts)
    return _select(matches, np.lexsort((matches.start, matches.text, matches.row)))


def _overlaps(index: Index, hashed: Ragged, measure: Measure, matches: _Matches) -> Overlaps:
    """The overlap of each pair, from its matches in the order of their starts."""
    row, text, start, length = matches
    same_pair = (row[1:] == row[:-1]) & (text[1:] == text[:-1])
    first = np.flatnonzero(np.append(True, ~same_pair)[: len(row)])
    texts = text[first]
    if measure == "sequence":
        overlap = _common_subsequence(index, hashed, row[first], texts)
    elif measure == "ngrams":
        counts = np.diff(np.append(first, len(row)))
        overlap = counts / index.texts["ngrams"].to_numpy()[texts]
    else:
        # All matches of a pair have one length, so a word is new if no match before reached it.
        new = length.copy()
        new[1:][same_pair] = np.minimum(length[1:], np.diff(start))[same_pair]
        covered = np.add.reduceat(new, first) if len(first) else _NONE
        overlap = covered / index.texts["findable"].to_numpy()[texts]
    return Overlaps(row[first], texts, overlap, start[first], length[first])


def _common_subsequence(
    index: Index, hashed: Ragged, row: Integers, text: Integers
) -> NDArray[np.float64]:
    """The longest common subsequence of words, as a fraction of the shorter text."""
    from rapidfuzz.distance import LCSseq

    length: Callable[..., int] = LCSseq.similarity
    fractions = np.zeros(len(row))
    # A loop over pairs that share an n-gram only.
    for i, (searched, item) in enumerate(zip(row.tolist(), text.tolist(), strict=True)):
        a, b = _words_of(hashed, searched), _words_of(index.values, item)
        fractions[i] = length(a, b) / min(len(a), len(b))
    return fractions


def _words_of(ragged: Ragged, number: int) -> list[int]:
    words: list[int] = ragged.values[ragged.offsets[number] : ragged.offsets[number + 1]].tolist()
    return words
