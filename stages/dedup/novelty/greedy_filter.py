"""Greedy novelty: each text in turn is kept unless it is too similar to a kept one.

In: texts as token numbers, in an order, and a threshold for ROUGE-L. Out: for each dropped
text the kept text that it duplicates, and the score. See `greedy_novelty`.

The rule of Self-Instruct (Wang et al. 2022, arXiv:2212.10560), for all rows of a pool at
once. A dropped text does not count as kept, so the outcome depends on the order. It is the
same as that of the loop over rows (`loop` in tests/support/novelty_oracle.py), faster
because most pairs are excluded by bounds that no score can exceed:

A block of texts is compared with all texts kept before it, then with itself. Texts
of m and n tokens share at most min(m, n), so only lengths that could reach the
threshold are compared; bit signatures (`lcs_bounds`) then leave few of these pairs, whose
longest common subsequence rapidfuzz computes. Where the signatures would leave many,
as for low thresholds, it computes all pairs in blocks, which is faster per pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist, cpdist

from stages._text.rouge import f1, num_threads
from stages.dedup.novelty.lcs_bounds import (
    Positions,
    Signatures,
    Tokens,
    few_differing_bits,
    rank_tokens,
    signatures,
    wider,
    width,
)

_BLOCK = 2048
_CELLS = 1 << 22
"""The most pairs that a thread holds at once: 8 MiB of results, 16 for texts of 65,536 tokens."""

_TOLERANCE = 1e-9
"""Bounds are looser by this much; the float64 score itself decides."""

_SAMPLE = 512
"""Columns of a group from which the fraction of pairs that the signatures leave is estimated."""

_CODES = 0x110000
"""Up to so many different tokens can be the characters of a string."""


class Verdicts(NamedTuple):
    """The verdict on each text; arrays of length len(texts).

    Attributes:
        duplicate_of: Position of the most similar text kept before it; -1 where it is kept.
        score: The ROUGE-L F1 with it; 0.0 where it is kept.
    """

    duplicate_of: Positions
    score: NDArray[np.float64]


class _Pairs(NamedTuple):
    """Pairs of a text and an earlier one, with their scores."""

    later: Positions
    earlier: Positions
    score: NDArray[np.float64]


_NONE: Final = _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class _Texts(NamedTuple):
    """Texts prepared for a threshold.

    Attributes:
        codes: Texts in the form that rapidfuzz reads.
        lengths: Tokens of each text.
        signatures: By their width in words.
        needed: The shortest common subsequence of texts that are too similar, by m + n.
        ratio: The smallest m / n of such texts.
    """

    codes: NDArray[np.object_]
    lengths: Positions
    signatures: dict[int, Signatures]
    needed: Positions
    ratio: float


def greedy_novelty(
    sequences: Sequence[Sequence[int]],
    *,
    threshold: float,
    inclusive: bool = False,
    n_reference: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Judge texts in their order by the ROUGE-L F1 of their token numbers.

    A text without tokens is always kept.

    Args:
        sequences: The token numbers of each text.
        threshold: A text is dropped if its score with a kept text is above this.
        inclusive: Drop at the threshold, too.
        n_reference: The first texts, which are kept whatever they are.
        progress: Called with the texts done and their number.

    Returns:
        The verdict on each text; of equally similar kept texts the first is named.

    Example:
        >>> verdicts = greedy_novelty([[1, 2, 3], [7, 8], [1, 2, 3, 4]], threshold=0.7)
        >>> verdicts.duplicate_of.tolist(), verdicts.score.round(4).tolist()
        ([-1, -1, 0], [0.0, 0.0, 0.8571])
    """
    count = len(sequences)
    texts = _prepare(sequences, threshold)
    duplicate_of, score = np.full(count, -1, dtype=np.int64), np.zeros(count)

    def too_similar(rows: Positions, columns: Positions) -> _Pairs:
        parts = pool.map(lambda group: _scored(texts, *group), _groups(texts, rows, columns))
        later, earlier, scores = (np.concatenate(part) for part in zip(_NONE, *parts, strict=True))
        over = scores >= threshold if inclusive else scores > threshold
        return _Pairs(later[over], earlier[over], scores[over])

    with ThreadPoolExecutor(num_threads()) as pool:
        for start in range(n_reference, count, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, count))
            kept = np.flatnonzero(duplicate_of[:start] < 0)
            _record_nearest(too_similar(block, kept), duplicate_of, score)
            open_rows = block[duplicate_of[block] < 0]
            _judge_block(too_similar(block, open_rows), duplicate_of, score)
            if progress:
                progress(int(block[-1]) + 1 - n_reference, count - n_reference)
    return Verdicts(duplicate_of, score)


def _prepare(sequences: Sequence[Sequence[int]], threshold: float) -> _Texts:
    tokens = rank_tokens(sequences)
    lengths = tokens.lengths
    ratio = (threshold - _TOLERANCE) / (2 - threshold + _TOLERANCE)
    both = np.arange(2 * int(lengths.max(initial=0)) + 1)
    needed = np.ceil((threshold - _TOLERANCE) * both / 2).astype(np.int64)
    lengths_by_width: dict[int, list[int]] = defaultdict(list)
    for m in np.unique(lengths[lengths > 0]).tolist():
        for words in {width(m), wider(width(m))}:
            lengths_by_width[words].append(m)
    by_width = {}
    for words, served in lengths_by_width.items():  # only texts that are compared with these
        within = (lengths >= served[0] * ratio) & (lengths <= served[-1] / ratio)
        by_width[words] = signatures(tokens, words, np.flatnonzero(within))
    return _Texts(_codes(tokens), lengths, by_width, needed, ratio)


def _codes(tokens: Tokens) -> NDArray[np.object_]:
    """Each text as a string with a character per token, or as a list if there are too many tokens.

    rapidfuzz reads a string at once, and a list number by number.
    """
    ends = zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True)
    codes = np.empty(len(tokens.lengths), dtype=np.object_)
    if int(tokens.flat.max(initial=0)) < _CODES:
        text = tokens.flat.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        codes[:] = [text[start:end] for start, end in ends]
    else:
        for i, (start, end) in enumerate(ends):
            codes[i] = tokens.flat[start:end].tolist()
    return codes


def _groups(
    texts: _Texts, rows: Positions, columns: Positions
) -> Iterator[tuple[Positions, Positions]]:
    """Rows of one length, with the columns of all lengths that could be too similar to them."""
    rows = rows[np.argsort(texts.lengths[rows], kind="stable")]
    columns = columns[np.argsort(texts.lengths[columns], kind="stable")]
    distinct, starts = np.unique(texts.lengths[rows], return_index=True)
    lows = np.searchsorted(texts.lengths[columns], distinct * texts.ratio)
    highs = np.searchsorted(texts.lengths[columns], distinct / texts.ratio, side="right")
    for m, group, low, high in zip(
        distinct.tolist(), np.split(rows, starts[1:]), lows.tolist(), highs.tolist(), strict=True
    ):
        if m and low < high:
            step = max(1, _CELLS // (high - low))
            for i in range(0, len(group), step):
                yield group[i : i + step], columns[low:high]


def _scored(texts: _Texts, rows: Positions, columns: Positions) -> _Pairs:
    """The pairs of a row of a group and an earlier column that may be too similar."""
    m = int(texts.lengths[rows[0]])
    both = m + texts.lengths[columns]
    needed = texts.needed[both]
    pairs = _candidates(texts, rows, columns, both - 2 * needed)
    if pairs is None:
        size = np.uint16 if len(texts.needed) < 1 << 17 else np.uint32
        codes = texts.codes[rows], texts.codes[columns]
        lcs = cdist(*codes, scorer=LCSseq.similarity, dtype=size)
        row, column = np.nonzero(lcs >= needed.astype(size))
        lcs = lcs[row, column]
    else:
        row, column = pairs
        codes = texts.codes[rows[row]], texts.codes[columns[column]]
        lcs = cpdist(*codes, scorer=LCSseq.similarity, dtype=np.uint32)
    later, earlier = rows[row], columns[column]
    before = earlier < later
    later, earlier = later[before], earlier[before]
    return _Pairs(later, earlier, f1(lcs[before], m, texts.lengths[earlier]))


def _candidates(
    texts: _Texts, rows: Positions, columns: Positions, limit: Positions
) -> tuple[Positions, Positions] | None:
    """The pairs of a group that signatures leave; None where they leave so many that it
    is faster to score all pairs as a block. limit: the most differing bits, by column."""
    words = width(int(texts.lengths[rows[0]]))
    every = slice(None, None, max(1, len(columns) // _SAMPLE))
    sampled = _within_bounds(texts, words, rows, columns[every], limit[every])
    if len(sampled[0]) > len(rows) * len(columns[every]) * min(words, 16) / 64:
        return None
    return _within_bounds(texts, words, rows, columns, limit)


def _within_bounds(
    texts: _Texts, words: int, rows: Positions, columns: Positions, limit: Positions
) -> tuple[Positions, Positions]:
    """Pairs of a row and an earlier column left by signatures of so many words and wider ones."""
    narrow, wide = texts.signatures[words], texts.signatures[wider(words)]
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for row, column in few_differing_bits(narrow.of(rows), narrow.of(columns), limit):
        bits = np.bitwise_count(wide.of(rows[row]) ^ wide.of(columns[column])).sum(axis=0)
        possible = (bits <= limit[column]) & (columns[column] < rows[row])
        parts.append((row[possible], column[possible]))
    row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
    return row, column


def _record_nearest(pairs: _Pairs, duplicate_of: Positions, score: NDArray[np.float64]) -> None:
    """Of the texts kept before, only the most similar matters; of equals the first."""
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    rows, first = np.unique(pairs.later[order], return_index=True)
    duplicate_of[rows], score[rows] = pairs.earlier[order][first], pairs.score[order][first]


def _judge_block(pairs: _Pairs, duplicate_of: Positions, score: NDArray[np.float64]) -> None:
    """Judge the rows of a block against each other, in their order.

    The loop cannot be vectorised: whether a row counts depends on the verdicts
    before it.
    """
    order = np.lexsort((pairs.earlier, pairs.later))
    for row, other, value in zip(*(column[order].tolist() for column in pairs), strict=True):
        if duplicate_of[other] < 0 and value > score[row]:
            duplicate_of[row], score[row] = other, value
