"""Which pairs of texts can share enough tokens: bit signatures instead of subsequences.

A text's signature is the set of its tokens, hashed into a few machine words. A bit that
two signatures do not share stands for at least one token that the texts do not
share. So of texts of m and n tokens whose signatures differ in d bits, at most
(m + n - d) / 2 tokens are common, and no common subsequence is longer. Comparing
words costs a nanosecond a pair, a twentieth of a short subsequence and a
thousandth of a long one. (Signatures as such a bound: Sandes, Teodoro and Melo,
"Bitmap Filter", arXiv:1711.07295.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import offsets_of

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

_CELLS = 1 << 16
"""Pairs compared at a time: 512 KiB of words, which stay in a core's cache."""

_ROWS = 4096
"""Texts whose signatures are made at a time."""

_WIDEST = 64
"""Words of the widest signature: 512 bytes a text."""


class Tokens(NamedTuple):
    """Texts as token ranks, 0 the most frequent: flat[offsets[i]:offsets[i + 1]] is text i."""

    flat: NDArray[np.int64]
    offsets: Positions

    @property
    def lengths(self) -> Positions:
        return np.diff(self.offsets)


def ranked(sequences: Sequence[Sequence[int]]) -> Tokens:
    """Number tokens by their frequency, the most frequent first; of equals the smaller first.

    sequences: for each text its token numbers, 0 or more.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(sequences), np.int64, count=int(lengths.sum()))
    counts = np.bincount(flat)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return Tokens(ranks[flat], offsets_of(lengths))


class Signatures(NamedTuple):
    """words: shape (words, some texts); slots: the column of each text, -1 where it has none."""

    words: Words
    slots: NDArray[np.int32]

    def of(self, texts: Positions) -> Words:
        return self.words[:, self.slots[texts]]


def signatures(tokens: Tokens, words: int, texts: Positions) -> Signatures:
    """The signatures, of so many words, of some of the texts.

    A token's bit is its rank modulo the bits, so that frequent tokens share none.
    """
    made = np.empty((words, len(texts)), np.uint64)
    for start in range(0, len(texts), _ROWS):
        part = texts[start : start + _ROWS]
        counts = tokens.lengths[part]
        inside = offsets_of(counts)
        places = np.repeat(tokens.offsets[part] - inside[:-1], counts) + np.arange(inside[-1])
        bits = np.zeros((len(part), 64 * words), np.bool_)
        bits[np.repeat(np.arange(len(part)), counts), tokens.flat[places] % (64 * words)] = True
        made[:, start : start + _ROWS] = np.packbits(bits, axis=1).view(np.uint64).T
    slots = np.full(len(tokens.lengths), -1, np.int32)
    slots[texts] = np.arange(len(texts))
    return Signatures(made, slots)


def width(tokens: int) -> int:
    """Words of a signature that tells texts of so many tokens apart: 64 bits for each 16."""
    return min(_WIDEST, 1 << max(0, (tokens - 1) // 16).bit_length())


def wider(words: int) -> int:
    """Words of the signature that judges what a narrow one has let through."""
    return min(_WIDEST, 4 * words)


def differing(
    rows: Words, columns: Words, limit: Positions
) -> Iterator[tuple[Positions, Positions]]:
    """All pairs of signatures, of shape (words, texts), that differ in few bits.

    limit: for each column the most bits in which it may differ from a row. Yields
    row and column numbers, block after block.
    """
    words = len(columns)
    size = np.uint8 if words < 4 else np.uint16  # holds a count of all bits
    allowed = np.minimum(limit, np.iinfo(size).max).astype(size)
    for start in range(0, columns.shape[1], _CELLS):
        theirs, most = columns[:, start : start + _CELLS], allowed[start : start + _CELLS]
        step = max(1, _CELLS // len(most))
        differ = np.empty((step, len(most)), np.uint64)  # both are written over and over:
        bits = np.empty((step, len(most)), size)  # fresh memory would cost more than the work
        for row in range(0, rows.shape[1], step):
            mine = rows[:, row : row + step, None]
            differ, bits = differ[: mine.shape[1]], bits[: mine.shape[1]]
            np.bitwise_count(np.bitwise_xor(mine[0], theirs[0], out=differ), out=bits)
            for word in range(1, words):
                bits += np.bitwise_count(np.bitwise_xor(mine[word], theirs[word], out=differ))
            near = np.flatnonzero(bits <= most)
            yield near // len(most) + row, near % len(most) + start
