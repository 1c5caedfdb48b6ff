"""Which texts contain an evaluation item's text literally, whatever the case.

Searching tens of thousands of texts in every row by themselves would take hours.
Whoever contains a text holds its words in a row, all but the first and the last,
which may be cut; so the first few of these inner words, hashed, name the candidates,
and only these are searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ngram_index import DISTINCT, Overlaps, Table, make_table
from stages._text.ragged import Ragged, offsets_of
from stages._text.tokens import hash_tokens, rolling_hashes, words

ANCHOR: Final = 8
"""Inner words that name a candidate, at most."""

_CHUNK = 16_384
_DOCSTRING = re.compile(r'"""(.+?)"""|\'\'\'(.+?)\'\'\'', re.DOTALL)


class Needles(NamedTuple):
    """Texts to look for, in lower case, without white space at their ends.

    texts: frame with one line per exam text. owner: the exam text of each needle;
    needles: the needles themselves; shown: the first words of each exam text.
    """

    texts: pl.DataFrame
    owner: NDArray[np.int64]
    needles: list[str]
    tables: list[Table]
    shown: pl.Series

    def usable(self) -> NDArray[np.int64]:
        """The numbers of the texts that are looked for."""
        return np.unique(self.owner)

    def run(self, text: int, start: int, length: int) -> str:
        """The first words of a text."""
        return " ".join(self.shown[text][start : start + length])


def build_needles(texts: pl.DataFrame, shortest: int) -> Needles:
    """Texts to look for: a frame with `text` and what names it.

    A text with fewer words than `shortest`, or fewer than three different ones, is
    trivial and left out. Of a text with docstrings (a code prompt), the last one is
    looked for as well: a row may hold the task without the signature.
    """
    lowered = texts["text"].str.to_lowercase().str.strip_chars()
    found = [(number, text) for number, text in enumerate(lowered) if text]
    found += [
        (number, inner)
        for number, text in found
        for blocks in [_DOCSTRING.findall(text)]
        if blocks and (inner := "".join(blocks[-1]).strip())
    ]
    tokenised = words(pl.Series([text for _, text in found], dtype=pl.String))
    enough = (tokenised.list.len() >= shortest) & (tokenised.list.n_unique() >= DISTINCT)
    kept = np.flatnonzero(enough.to_numpy())
    hashed = hash_tokens(tokenised.gather(kept))
    numbers = np.array([number for number, _ in found], dtype=np.int64)
    shown = words(lowered).list.head(2 * ANCHOR)
    lines = texts.drop("text")
    return Needles(lines, numbers[kept], [found[i][1] for i in kept], _anchors(hashed), shown)


def _anchors(hashed: Ragged) -> list[Table]:
    """One entry per needle: the hash of its first inner words."""
    lengths = np.minimum(hashed.lengths - 2, ANCHOR)
    tables = []
    for length, rolled in rolling_hashes(hashed.values, ANCHOR):
        places = hashed.offsets[:-1][lengths == length] + 1
        tables.append(make_table(length, rolled[places], places, hashed.offsets))
    return tables


def contained(needles: Needles, texts: pl.Series) -> Iterator[Overlaps]:
    """The pairs of a text and an exam text that it contains, in parts; overlap is 1."""
    for chunk in range(0, len(texts), _CHUNK):
        part = texts.slice(chunk, _CHUNK).str.to_lowercase()
        row, needle = _candidates(needles, hash_tokens(words(part)))
        holders, wanted = part.gather(row), needles.needles
        # A loop over candidates only: nearly all of them are found.
        good = [wanted[n] in text for n, text in zip(needle.tolist(), holders, strict=True)]
        pairs = np.stack([row + chunk, needles.owner[needle]])[:, np.array(good, dtype=np.bool_)]
        row, text = np.unique(pairs, axis=1)
        start = np.zeros(len(row), dtype=np.int64)
        shown = np.full_like(start, 2 * ANCHOR)
        yield Overlaps(row, text, np.ones(len(row)), start, shown)


def _candidates(needles: Needles, hashed: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Texts and needles whose inner words begin somewhere in them, each pair once."""
    parts = [np.zeros((2, 0), dtype=np.int64)]
    tables = {table.length: table for table in needles.tables if len(table.keys)}
    for length, rolled in rolling_hashes(hashed.values, max(tables, default=0)):
        if length not in tables:
            continue
        place, low, counts = tables[length].search(rolled)
        row = np.searchsorted(hashed.offsets, place, side="right") - 1
        good = place + length <= hashed.offsets[row + 1]
        once = np.unique(np.stack([row, low, counts])[:, good], axis=1)
        inside = offsets_of(once[2])
        entry = np.repeat(once[1] - inside[:-1], once[2]) + np.arange(inside[-1])
        parts.append(np.stack([np.repeat(once[0], once[2]), tables[length].text[entry]]))
    row, needle = np.concatenate(parts, axis=1)
    return row, needle
