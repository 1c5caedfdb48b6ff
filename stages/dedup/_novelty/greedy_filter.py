"""Greedy novelty: each text in turn is kept unless it is too similar to one kept before.

The rule of Self-Instruct (Wang et al. 2022, arXiv:2212.10560), for a whole pool at
once and exactly: a dropped text does not count as kept, so the outcome depends on
the order and equals that of the loop over rows.

A block of texts is compared with all texts kept before it, then with itself. Texts
of m and n tokens share at most min(m, n), so only lengths that could reach the
threshold meet; bit signatures (`lcs_bounds`) then leave few of these pairs, whose
longest common subsequence rapidfuzz finds. Where the signatures would leave many,
as for low thresholds, all pairs go to it in blocks, which is faster per pair.
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
from stages._vectors.greedy_dedup import DropAt
from stages.dedup._novelty.lcs_bounds import (
    Positions,
    Signatures,
    Tokens,
    differing,
    ranked,
    signatures,
    wider,
    width,
)

_BLOCK = 2048
_CELLS = 1 << 22
"""The most pairs that a thread holds at once: 8 MiB of results, 16 for texts of 65,536 tokens."""

_SLACK = 1e-9
"""Bounds are looser by this much; the float64 score itself decides."""

_SAMPLE = 512
"""Columns of a group from which the share of pairs that the signatures leave is estimated."""

_CODES = 0x110000
"""As many different tokens can be the characters of a string."""


class Verdicts(NamedTuple):
    """For each text the nearest one kept before it, if too near: its position and the score.

    -1 and 0.0 where the text is kept. Both of length len(texts).
    """

    twin: Positions
    score: NDArray[np.float64]


class _Pairs(NamedTuple):
    later: Positions
    earlier: Positions
    score: NDArray[np.float64]


_NONE: Final = _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class _Texts(NamedTuple):
    """codes: texts in the form that rapidfuzz reads. signatures: by their width in words.

    needed: the least common subsequence of texts that are too similar, by m + n.
    ratio: the least of m / n for such texts.
    """

    codes: NDArray[np.object_]
    lengths: Positions
    signatures: dict[int, Signatures]
    needed: Positions
    ratio: float


def greedy_novelty(
    sequences: Sequence[Sequence[int]],
    *,
    given: int = 0,
    threshold: float,
    drop_at: DropAt = "above",
    progress: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Judge texts in their order by the ROUGE-L F1 of their token numbers.

    The first `given` texts count as kept whatever they are. Of equally near twins
    the first in the order is named. A text without tokens is always kept.
    """
    count = len(sequences)
    texts = _prepared(sequences, threshold)
    twin, score = np.full(count, -1, dtype=np.int64), np.zeros(count)

    def near(rows: Positions, columns: Positions) -> _Pairs:
        found = pool.map(lambda group: _scored(texts, *group), _groups(texts, rows, columns))
        later, earlier, scores = (np.concatenate(part) for part in zip(_NONE, *found, strict=True))
        chosen = scores > threshold if drop_at == "above" else scores >= threshold
        return _Pairs(later[chosen], earlier[chosen], scores[chosen])

    with ThreadPoolExecutor(num_threads()) as pool:
        for start in range(given, count, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, count))
            _take_nearest(near(block, np.flatnonzero(twin[:start] < 0)), twin, score)
            _settle(near(block, block[twin[block] < 0]), twin, score)
            if progress:
                progress(int(block[-1]) + 1 - given, count - given)
    return Verdicts(twin, score)


def _prepared(sequences: Sequence[Sequence[int]], threshold: float) -> _Texts:
    tokens = ranked(sequences)
    lengths = tokens.lengths
    ratio = (threshold - _SLACK) / (2 - threshold + _SLACK)
    both = np.arange(2 * int(lengths.max(initial=0)) + 1)
    needed = np.ceil((threshold - _SLACK) * both / 2).astype(np.int64)
    served: dict[int, list[int]] = defaultdict(list)
    for m in np.unique(lengths[lengths > 0]).tolist():
        for words in {width(m), wider(width(m))}:
            served[words].append(m)
    made = {}
    for words, of in served.items():  # only for texts that meet one of these lengths
        within = (lengths >= of[0] * ratio) & (lengths <= of[-1] / ratio)
        made[words] = signatures(tokens, words, np.flatnonzero(within))
    return _Texts(_codes(tokens), lengths, made, needed, ratio)


def _codes(tokens: Tokens) -> NDArray[np.object_]:
    """Each text as a string with a character per token, or as a list where these are too few.

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
    is faster to score all pairs as a block. limit: the most bits that differ, by column."""
    words = width(int(texts.lengths[rows[0]]))
    every = slice(None, None, max(1, len(columns) // _SAMPLE))
    sampled = _left(texts, words, rows, columns[every], limit[every])
    if len(sampled[0]) > len(rows) * len(columns[every]) * min(words, 16) / 64:
        return None
    return _left(texts, words, rows, columns, limit)


def _left(
    texts: _Texts, words: int, rows: Positions, columns: Positions, limit: Positions
) -> tuple[Positions, Positions]:
    """Pairs of a row and an earlier column left by signatures of so many words and wider ones."""
    narrow, wide = texts.signatures[words], texts.signatures[wider(words)]
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for row, column in differing(narrow.of(rows), narrow.of(columns), limit):
        bits = np.bitwise_count(wide.of(rows[row]) ^ wide.of(columns[column])).sum(axis=0)
        near = (bits <= limit[column]) & (columns[column] < rows[row])
        found.append((row[near], column[near]))
    row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return row, column


def _take_nearest(pairs: _Pairs, twin: Positions, score: NDArray[np.float64]) -> None:
    """Of the texts kept before, only the nearest to each text matters; of equals the first."""
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    rows, first = np.unique(pairs.later[order], return_index=True)
    twin[rows], score[rows] = pairs.earlier[order][first], pairs.score[order][first]


def _settle(pairs: _Pairs, twin: Positions, score: NDArray[np.float64]) -> None:
    """Judge the rows of a block against each other, in their order.

    The loop cannot be vectorised: whether a row counts depends on the verdicts
    before it.
    """
    order = np.lexsort((pairs.earlier, pairs.later))
    for row, other, value in zip(*(column[order].tolist() for column in pairs), strict=True):
        if twin[other] < 0 and value > score[row]:
            twin[row], score[row] = other, value
