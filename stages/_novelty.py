"""Greedy novelty: each text in turn is kept unless it is too similar to one kept before.

The rule of Self-Instruct (Wang et al. 2022, arXiv:2212.10560), for a whole pool at
once and exactly: a dropped text does not count as kept, so the outcome depends on
the order and equals that of the loop over rows.

Every pair that can matter is scored. A pair of m and n tokens shares at most
min(m, n), so texts are compared only with those of a length that could reach the
threshold, in blocks for rapidfuzz's vectorised longest common subsequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from stages._rouge import f1, threads

DropAt = Literal["above", "at"]

_BLOCK = 2048
_CELLS = 1 << 23
"""The most pairs scored in one call: 16 MiB of results."""

_SLACK = 1e-9
"""Bounds are looser by this much; the float64 score itself decides."""


class Verdicts(NamedTuple):
    """For each text the nearest one kept before it, if too near: its position and the score.

    -1 and 0.0 where the text is kept. Both of length len(texts).
    """

    twin: NDArray[np.int64]
    score: NDArray[np.float64]


class _Pairs(NamedTuple):
    later: NDArray[np.int64]
    earlier: NDArray[np.int64]
    score: NDArray[np.float64]


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
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    twin = np.full(len(sequences), -1, dtype=np.int64)
    score = np.zeros(len(sequences))
    kept: dict[int, list[int]] = defaultdict(list)
    _keep(kept, lengths, range(given))
    for start in range(given, len(sequences), _BLOCK):
        block = range(start, min(start + _BLOCK, len(sequences)))
        inside: dict[int, list[int]] = defaultdict(list)
        _keep(inside, lengths, block)
        for near in _near(sequences, lengths, inside, kept, threshold, drop_at):
            # Of the kept texts only each row's nearest matters, of equals the first.
            order = np.lexsort((near.earlier, -near.score, near.later))
            rows, first = np.unique(near.later[order], return_index=True)
            _improve(twin, score, rows, near.earlier[order][first], near.score[order][first])
        _settle(list(_near(sequences, lengths, inside, inside, threshold, drop_at)), twin, score)
        _keep(kept, lengths, [position for position in block if twin[position] < 0])
        if progress:
            progress(block.stop - given, len(sequences) - given)
    return Verdicts(twin, score)


def _keep(
    by_length: dict[int, list[int]], lengths: NDArray[np.int64], positions: Sequence[int]
) -> None:
    for position in positions:
        if lengths[position]:
            by_length[int(lengths[position])].append(position)


def _near(
    sequences: Sequence[Sequence[int]],
    lengths: NDArray[np.int64],
    later: dict[int, list[int]],
    earlier: dict[int, list[int]],
    threshold: float,
    drop_at: DropAt,
) -> Iterator[_Pairs]:
    """All pairs of a later and an earlier text that are too similar."""
    small = np.uint16 if len(lengths) and lengths.max() < 1 << 16 else np.uint32
    ratio = (threshold - _SLACK) / (2 - threshold + _SLACK)
    for m, rows in later.items():
        within = [n for n in earlier if m * ratio <= n and n * ratio <= m]
        columns = np.array([p for n in within for p in earlier[n]], dtype=np.int64)
        if not len(columns):
            continue
        needed = np.ceil((threshold - _SLACK) * (m + lengths[columns]) / 2).astype(small)
        choices = [sequences[p] for p in columns]
        step = max(1, _CELLS // len(columns))
        for i in range(0, len(rows), step):
            part = np.array(rows[i : i + step])
            queries = [sequences[p] for p in part]
            lcs = cdist(queries, choices, scorer=LCSseq.similarity, dtype=small, workers=threads())
            row, column = np.nonzero(lcs >= needed)
            score = f1(lcs[row, column], m, lengths[columns[column]])
            near = score > threshold if drop_at == "above" else score >= threshold
            near &= columns[column] < part[row]
            yield _Pairs(part[row][near], columns[column][near], score[near])


def _improve(
    twin: NDArray[np.int64],
    score: NDArray[np.float64],
    rows: NDArray[np.int64],
    twins: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> None:
    """Take the nearer twin for each of the distinct rows; of equals the first in the order."""
    better = (scores > score[rows]) | ((scores == score[rows]) & (twins < twin[rows]))
    rows = rows[better]
    twin[rows], score[rows] = twins[better], scores[better]


def _settle(pairs: list[_Pairs], twin: NDArray[np.int64], score: NDArray[np.float64]) -> None:
    """Judge the rows of a block against each other, in their order.

    The loop cannot be vectorised: whether a row counts depends on the verdicts
    before it. Pairs with a row that is already dropped are left out first.
    """
    if not pairs:
        return
    later, earlier, scores = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((earlier, later))
    order = order[twin[earlier[order]] < 0]
    for row, other, value in zip(
        later[order].tolist(), earlier[order].tolist(), scores[order].tolist(), strict=True
    ):
        if twin[other] < 0 and value > score[row]:
            twin[row], score[row] = other, value
