"""Which texts contain an evaluation item's text literally, whatever the case and whatever
is invisible between its letters.

In: the texts of evaluation items, and the texts to search. Out: the pairs in which the one
contains the other. See `build_needles` and `find_contained`.

The same as `needle in text` for all pairs, without what is invisible
(tests/stages/decontaminate/test_rules.py), faster because searching tens of thousands of
texts in every row would take hours. A text that contains a needle holds its words in a row,
all but the first and the last, which may be cut; so the first few of these inner words,
hashed, select the candidates, and only these are searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ngram_index import Overlaps
from stages._text.ngram_table import MIN_DISTINCT_WORDS, NgramTable, make_table
from stages._text.ragged import Ragged, ranges
from stages._text.tokens import INVISIBLE, hash_tokens, rolling_hashes, words

ANCHOR: Final = 8
"""Inner words that select a candidate, at most."""

_CHUNK = 16_384
_DOCSTRING = re.compile(r'"""(.+?)"""|\'\'\'(.+?)\'\'\'', re.DOTALL)


class Needles(NamedTuple):
    """Texts to search for, as `_comparable` has them, without white space at their ends.

    Attributes:
        texts: One row per item text: the columns that name it.
        owner: The item text of each needle.
        needles: The needles.
        tables: Their inner words.
        words: The first words of each item text.
    """

    texts: pl.DataFrame
    owner: NDArray[np.int64]
    needles: list[str]
    tables: list[NgramTable]
    words: pl.Series

    def searchable(self) -> NDArray[np.int64]:
        """Positions of the item texts that are searched for."""
        return np.unique(self.owner)

    def excerpt(self, text: int, start: int, length: int) -> str:
        """Some of the first words of an item text.

        Args:
            text: Position of the item text.
            start: The first word, from 0 in the text.
            length: How many words, at most.
        """
        return " ".join(self.words[text][start : start + length])


def build_needles(texts: pl.DataFrame, min_words: int) -> Needles:
    """Prepare texts to search for.

    A text with too few words, or fewer than three different ones, is trivial and left out.
    Of a text with docstrings (a code prompt), the last one is a needle as well: a row may
    hold the task without the signature.

    Args:
        texts: A frame with `text`, and columns that name it.
        min_words: Fewest words of a needle.

    Example:
        >>> items = pl.DataFrame({"name": ["q"], "text": ["Name the capital of Utopia."]})
        >>> needles = build_needles(items, min_words=3)
        >>> parts = find_contained(needles, pl.Series(["Please NAME THE CAPITAL of Utopia.", "x"]))
        >>> [pairs.row.tolist() for pairs in parts]
        [[0]]
    """
    lowered = _comparable(texts["text"]).str.strip_chars()
    owned = [(number, text) for number, text in enumerate(lowered) if text]
    owned += [
        (number, inner)
        for number, text in owned
        for blocks in [_DOCSTRING.findall(text)]
        if blocks and (inner := "".join(blocks[-1]).strip())
    ]
    tokenized = words(pl.Series([text for _, text in owned], dtype=pl.String))
    enough = tokenized.list.len() >= min_words
    enough &= tokenized.list.n_unique() >= MIN_DISTINCT_WORDS
    kept = np.flatnonzero(enough.to_numpy())
    hashed = hash_tokens(tokenized.gather(kept))
    numbers = np.array([number for number, _ in owned], dtype=np.int64)
    first_words = words(lowered).list.head(2 * ANCHOR)
    needles = [owned[i][1] for i in kept]
    return Needles(texts.drop("text"), numbers[kept], needles, _anchors(hashed), first_words)


def _comparable(texts: pl.Series) -> pl.Series:
    """The texts in lower case, without invisible characters."""
    return texts.str.to_lowercase().str.replace_all(INVISIBLE, "")


def _anchors(hashed: Ragged) -> list[NgramTable]:
    """One entry per needle: the hash of its first inner words."""
    lengths = np.minimum(hashed.lengths - 2, ANCHOR)
    tables = []
    for length, rolled in rolling_hashes(hashed.values, ANCHOR):
        starts = hashed.offsets[:-1][lengths == length] + 1
        tables.append(make_table(length, rolled[starts], starts, hashed.offsets))
    return tables


def find_contained(needles: Needles, texts: pl.Series) -> Iterator[Overlaps]:
    """The pairs of a text and an item text that it contains, in parts; overlap is 1."""
    for chunk in range(0, len(texts), _CHUNK):
        part = _comparable(texts.slice(chunk, _CHUNK))
        row, needle = _candidates(needles, hash_tokens(words(part)))
        haystacks = part.gather(row)
        # A loop over candidates only: nearly all of them match.
        matches = [
            needles.needles[n] in text for n, text in zip(needle.tolist(), haystacks, strict=True)
        ]
        pairs = np.stack([row + chunk, needles.owner[needle]])
        row, text = np.unique(pairs[:, np.array(matches, dtype=np.bool_)], axis=1)
        start = np.zeros(len(row), dtype=np.int64)
        length = np.full_like(start, 2 * ANCHOR)
        yield Overlaps(row, text, np.ones(len(row)), start, length)


def _candidates(needles: Needles, hashed: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Texts and needles whose inner words begin somewhere in them, each pair once."""
    parts = [np.zeros((2, 0), dtype=np.int64)]
    tables = {table.length: table for table in needles.tables if len(table.keys)}
    for length, rolled in rolling_hashes(hashed.values, max(tables, default=0)):
        if length not in tables:
            continue
        word, low, counts = tables[length].search(rolled)
        row = np.searchsorted(hashed.offsets, word, side="right") - 1
        inside = word + length <= hashed.offsets[row + 1]
        row, low, counts = np.unique(np.stack([row, low, counts])[:, inside], axis=1)
        entry = ranges(low, counts)
        parts.append(np.stack([np.repeat(row, counts), tables[length].text[entry]]))
    row, needle = np.concatenate(parts, axis=1)
    return row, needle
