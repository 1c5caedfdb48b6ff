"""DEITA's filter (Liu et al. 2023, arXiv:2312.15685): rows by score that are far from another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stages._selection.scores import ranking
from stages._vectors.arrays import Matrix, to_device
from stages._vectors.greedy_dedup import greedy_dedup
from stages.select.diverse.lazy_greedy import Picks
from stages.select.diverse.methods import Parts
from stages.select.diverse.verdicts import Facts, Place, Selection


def select_by_threshold(
    vectors: Matrix,
    parts: Parts,
    facts: Facts,
    costs: NDArray[np.int64],
    place: Place,
    progress: Callable[[int, int], None],
) -> Selection:
    """Keep each row, in the order of the scores, unless it is too similar to one kept before.

    The same as the loop in `test_threshold_is_the_loop_of_deita` of
    tests/stages/select/test_diverse.py.

    Args:
        vectors: The vectors of all edges.
        parts: Where each edge's vectors are; held rows are kept before all others.
        facts: The rows' scores and the threshold.
        costs: What each row uses of the budget, shape (rows,).
        place: The rows that may be kept, and the budget.
        progress: Called with the rows done and all rows.
    """
    quality, threshold = facts.quality, facts.threshold
    assert threshold is not None
    count, num_held = len(parts.rows), len(parts.held)
    order = ranking(quality, descending=True)
    order = order[place.eligible[order]]
    positions = np.concatenate([parts.held, order])
    result = greedy_dedup(
        to_device(vectors[positions]),
        n_reference=num_held,
        threshold=threshold,
        min_similarity=threshold,
        costs=np.concatenate([np.zeros(num_held, np.int64), costs[order]]),
        budget=place.amount and place.amount.total,
        max_rows=place.amount and place.amount.rows,
        progress=progress,
    )
    nearest, similarity = np.full(count, -1), np.full(count, np.nan)
    of_order = result.nearest[num_held:]
    nearest[order] = np.where(of_order >= 0, positions[of_order], -1)
    similarity[order] = result.similarity[num_held:]
    picks = order[result.kept[num_held:]]
    too_similar = similarity > threshold
    too_similar[picks] = False
    return Selection(Picks(picks, quality[picks]), nearest, similarity, too_similar)
