"""Which pairs of texts can share enough tokens: bit signatures instead of subsequences.

In: texts as token numbers. Out: pairs whose signatures differ in few bits
(`few_differing_bits`); all others cannot have a long common subsequence.

A text's signature is the set of its tokens, hashed into a few machine words. A bit that
two signatures do not share stands for at least one token that the texts do not
share. So texts of m and n tokens whose signatures differ in d bits have at most
(m + n - d) / 2 common tokens, and no longer common subsequence. Comparing
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

from stages._text.ragged import offsets_of, ranges

Positions = NDArray[np.int64]
Words = NDArray[np.uint64]

_CELLS = 1 << 16
"""Pairs compared at a time: 512 KiB of words, which stay in a core's cache."""

_ROWS = 4096
"""Texts whose signatures are computed at a time."""

_WIDEST = 64
"""Words of the widest signature: 512 bytes a text."""


class Tokens(NamedTuple):
    """Texts as token ranks, 0 the most frequent: flat[offsets[i]:offsets[i + 1]] is text i."""

    flat: NDArray[np.int64]
    offsets: Positions

    @property
    def lengths(self) -> Positions:
        """Tokens of each text."""
        return np.diff(self.offsets)


def rank_tokens(sequences: Sequence[Sequence[int]]) -> Tokens:
    """Number tokens by their frequency, the most frequent first; of equals the smaller first.

    Args:
        sequences: For each text its token numbers, 0 or more.

    Example:
        >>> rank_tokens([[5, 9, 9], [9, 7]]).flat.tolist()
        [1, 0, 0, 0, 2]
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(sequences), np.int64, count=int(lengths.sum()))
    counts = np.bincount(flat)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return Tokens(ranks[flat], offsets_of(lengths))


class Signatures(NamedTuple):
    """Signatures of some texts.

    Attributes:
        words: Shape (words, texts with a signature).
        slots: The column of each text, -1 where it has none.
    """

    words: Words
    slots: NDArray[np.int32]

    def of(self, texts: Positions) -> Words:
        """The signatures of these texts, shape (words, texts)."""
        return self.words[:, self.slots[texts]]


def signatures(tokens: Tokens, words: int, texts: Positions) -> Signatures:
    """The signatures of some of the texts.

    A token's bit is its rank modulo the bits, so that frequent tokens share none.

    Args:
        tokens: Of all texts.
        words: Width of the signatures in 64-bit words.
        texts: Positions of the texts.
    """
    result = np.empty((words, len(texts)), np.uint64)
    for start in range(0, len(texts), _ROWS):
        part = texts[start : start + _ROWS]
        counts = tokens.lengths[part]
        positions = ranges(tokens.offsets[part], counts)
        bits = np.zeros((len(part), 64 * words), np.bool_)
        bits[np.repeat(np.arange(len(part)), counts), tokens.flat[positions] % (64 * words)] = True
        result[:, start : start + _ROWS] = np.packbits(bits, axis=1).view(np.uint64).T
    slots = np.full(len(tokens.lengths), -1, np.int32)
    slots[texts] = np.arange(len(texts))
    return Signatures(result, slots)


def width(tokens: int) -> int:
    """Words of a signature that distinguishes texts of so many tokens: 64 bits for each 16."""
    return min(_WIDEST, 1 << max(0, (tokens - 1) // 16).bit_length())


def wider(words: int) -> int:
    """Words of the signature that checks the pairs left by a narrow one."""
    return min(_WIDEST, 4 * words)


def few_differing_bits(
    rows: Words, columns: Words, limit: Positions
) -> Iterator[tuple[Positions, Positions]]:
    """All pairs of signatures that differ in few bits.

    Args:
        rows: Signatures, shape (words, rows).
        columns: Signatures, shape (words, columns).
        limit: For each column the most bits in which it may differ from a row.

    Yields:
        Positions of rows and columns, block after block.

    Example:
        >>> rows, columns = np.array([[0b011]], np.uint64), np.array([[0b111, 0b100]], np.uint64)
        >>> pairs = few_differing_bits(rows, columns, np.array([1, 1]))
        >>> [(row.tolist(), column.tolist()) for row, column in pairs]
        [([0], [0])]
    """
    words = len(columns)
    size = np.uint8 if words < 4 else np.uint16  # holds a count of all bits
    allowed = np.minimum(limit, np.iinfo(size).max).astype(size)
    for start in range(0, columns.shape[1], _CELLS):
        others, most = columns[:, start : start + _CELLS], allowed[start : start + _CELLS]
        step = max(1, _CELLS // len(most))
        differ = np.empty((step, len(most)), np.uint64)  # both are written over and over:
        bits = np.empty((step, len(most)), size)  # fresh memory would cost more than the work
        for row in range(0, rows.shape[1], step):
            block = rows[:, row : row + step, None]
            differ, bits = differ[: block.shape[1]], bits[: block.shape[1]]
            np.bitwise_count(np.bitwise_xor(block[0], others[0], out=differ), out=bits)
            for word in range(1, words):
                bits += np.bitwise_count(np.bitwise_xor(block[word], others[word], out=differ))
            few = np.flatnonzero(bits <= most)
            yield few // len(most) + row, few % len(most) + start
