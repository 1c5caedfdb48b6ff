"""Greedy deduplication: each row in turn is kept unless it is too similar to a kept one.

In: vectors in an order, and a threshold for the cosine. Out: for each row whether it is
kept, the most similar row kept before it, and the cosine with it. See `greedy_dedup`.

The rule of deduplication (`dedup.semantic`), of novelty by cosine (`dedup.novelty`) and of
DEITA's filter (Liu et al. 2023, arXiv:2312.15685). A dropped row does not count against
later ones, so the outcome depends on the order. It is the same as that of the loop over
rows (`loop` in tests/support/greedy_oracle.py), faster because blocks of rows are
multiplied at once. (DEITA's code differs from the loop for batches above one: there a row
is also rejected for its similarity to a rejected row of its batch.)

A block of rows is multiplied with all rows kept before it, in projections that bound the
cosines (`stages._vectors.projection`), then with itself. These products are float32 and
only select candidates. What decides, which kept row is the nearest and whether it is too
similar, is a cosine computed in float64 from the rows themselves and rounded to 12 decimals.
A float32 product is off by at most `stages._vectors.arrays.product_tolerance`, so no
candidate is missed: the outcome depends neither on blocks nor on threads, and numpy and
torch agree. Products on a GPU must not be in TF32; `stages._vectors.arrays.to_device`
switches it off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._vectors.arrays import parallel_map, to_host
from stages._vectors.nearest_kept import NearestKept, Positions, Similarities

_BLOCK = 256
"""Rows that are judged at a time."""


class DedupResult(NamedTuple):
    """The verdict on each row; arrays of length len(vectors).

    Attributes:
        kept: Whether the row is kept; reference rows are.
        nearest: Position of the most similar row kept before it, the first of equals; -1
            where none has `min_similarity`.
        similarity: The cosine with `nearest`; NaN where there is none.
        n_processed: Rows from this position on were not compared, because the budget was
            spent; their `nearest` is -1 and their `similarity` NaN, too.
    """

    kept: NDArray[np.bool_]
    nearest: Positions
    similarity: Similarities
    n_processed: int


class _Limits(NamedTuple):
    """When a row is dropped: at this cosine (`inclusive`) or above it."""

    threshold: float
    inclusive: bool

    def exceeded(self, similarity: Similarities) -> NDArray[np.bool_]:
        """Whether cosines are too large; False for NaN."""
        return similarity >= self.threshold if self.inclusive else similarity > self.threshold


def greedy_dedup(
    vectors: Any,
    *,
    threshold: float,
    inclusive: bool = False,
    n_reference: int = 0,
    min_similarity: float = -np.inf,
    costs: NDArray[np.int64] | None = None,
    budget: int | None = None,
    max_rows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DedupResult:
    """Judge rows in their order by their cosines with the rows kept before.

    Args:
        vectors: Shape (rows, dimensions), finite, of any norm: a numpy array or a torch
            tensor. A zero vector has similarity to nothing: it is kept, and is no row's
            nearest.
        threshold: A row is dropped if a cosine with a kept row is above it.
        inclusive: Drop at the threshold, too.
        n_reference: The first rows, which are kept whatever they are, and cost nothing.
        min_similarity: `nearest` is reported from this cosine on; at most the threshold.
            Where only the duplicates of dropped rows matter, the threshold itself is several
            times as fast.
        costs: What each row costs, 0 or more, shape (rows,); None: 1 each.
        budget: The most that the kept rows may cost; None: no limit. A row that no longer
            fits is passed over and is not kept.
        max_rows: The most rows that are kept beside the first ones; None: no limit.
        progress: Called with the rows done and their number.

    Returns:
        The verdict on each row.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], np.float32)
        >>> result = greedy_dedup(vectors, threshold=0.7)
        >>> result.kept.tolist(), result.nearest.tolist(), result.similarity.round(6).tolist()
        ([True, True, False], [-1, 0, 0], [nan, 0.0, 0.8])
    """
    count = len(vectors)
    search = NearestKept.over(vectors, min_similarity)
    search.fit_projection()
    limits = _Limits(threshold, inclusive)
    costs = np.ones(count, np.int64) if costs is None else costs
    remaining = int(costs.sum()) if budget is None else budget
    rows_left = count if max_rows is None else max_rows
    cheapest = np.minimum.accumulate(costs[::-1])[::-1]  # of a row and all after it
    kept = np.arange(count) < n_reference
    search.keep_all(np.arange(n_reference))
    with parallel_map() as map_blocks:
        for start in range(n_reference, count, _BLOCK):
            if remaining < cheapest[start] or not rows_left:
                break
            rows = np.arange(start, min(start + _BLOCK, count))
            units, bounds = search.compare(map_blocks, rows)
            products = to_host(units @ units.T)
            kept[rows] = _judge_block(
                search, rows, products, limits, costs[rows], (remaining, rows_left)
            )
            inside = np.flatnonzero(kept[rows])
            remaining -= int(costs[rows][inside].sum())
            rows_left -= len(inside)
            search.keep(rows[inside], bounds[inside])
            if progress:
                progress(int(rows[-1]) + 1 - n_reference, count - n_reference)
    result = DedupResult(kept, search.nearest, search.similarity, count)
    if budget is None:
        return result
    n_affordable = int(np.searchsorted(cheapest, remaining, side="right")) if rows_left else 0
    return _cut(result, n_reference, n_affordable)


def _judge_block(
    search: NearestKept,
    rows: Positions,
    products: NDArray[np.float32],
    limits: _Limits,
    costs: NDArray[np.int64],
    left: tuple[int, int],
) -> NDArray[np.bool_]:
    """Judge the rows of a block against each other, in order.

    Args:
        search: Knows the nearest row kept before the block.
        rows: The block's positions, ascending.
        products: Of the unit vectors of all rows of the block with all.
        limits: When a row is dropped.
        costs: What each row of the block costs.
        left: What they may cost together, and how many of them may be kept.

    Returns:
        Which rows are kept.
    """
    open_rows = np.flatnonzero(~limits.exceeded(search.similarity[rows]))
    columns = rows[open_rows]
    if len(open_rows) < len(rows):
        products = products[:, open_rows]
    earlier = columns < rows[:, None]
    conflicts = _conflicts(search, columns, products[open_rows], earlier[open_rows], limits)
    excludes = np.any(conflicts, axis=0).tolist()
    stays = np.zeros(len(columns), np.bool_)
    is_open, (budget, rows_left) = ~stays, left
    # The loop cannot be vectorized: whether a row counts depends on those before it.
    for i, cost in enumerate(costs[open_rows].tolist()):
        if is_open[i] and cost <= budget and rows_left:
            stays[i] = True
            budget -= cost
            rows_left -= 1
            if excludes[i]:
                is_open &= ~conflicts[:, i]
    kept = np.zeros(len(rows), np.bool_)
    kept[open_rows] = stays
    earlier &= stays & (search.norms[columns] > 0)
    products = np.where(earlier, products, np.float32(-np.inf))
    search.improve(rows, columns, products, search.tolerance)
    return kept


def _conflicts(
    search: NearestKept,
    rows: Positions,
    products: NDArray[np.float32],
    earlier: NDArray[np.bool_],
    limits: _Limits,
) -> NDArray[np.bool_]:
    """Which rows (first axis) are too similar to which earlier ones (second axis)."""
    candidates = np.flatnonzero(earlier & (products > limits.threshold - search.tolerance))
    conflicts = np.zeros(products.size, np.bool_)
    conflicts[candidates] = True
    close = products.ravel()[candidates] <= limits.threshold + search.tolerance
    unsure = candidates[close]
    later, before = np.divmod(unsure, len(rows))
    conflicts[unsure] = limits.exceeded(search.cosines(rows[later], rows[before]))
    return conflicts.reshape(products.shape)


def _cut(result: DedupResult, n_reference: int, n_affordable: int) -> DedupResult:
    """The result without what is reported for rows after the last that could still be kept.

    Args:
        result: For all rows.
        n_reference: As for `greedy_dedup`.
        n_affordable: From this position on no row fits into what remains of the budget.
    """
    last = max(np.flatnonzero(result.kept), default=n_reference - 1)
    n_processed = max(int(last) + 1, n_affordable)
    result.nearest[n_processed:] = -1
    result.similarity[n_processed:] = np.nan
    return result._replace(n_processed=n_processed)
