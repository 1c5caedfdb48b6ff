"""Rows with vectors as input of `stages._vectors.greedy_dedup`, and its result as evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import Matrix, as_matrix, to_device
from stages._vectors.greedy_dedup import DedupResult, greedy_dedup


class OrderedVectors(NamedTuple):
    """The vectors of held rows, then of the rows in their order.

    Attributes:
        ids: Of the held rows and the rows.
        vectors: Shape (held rows + rows, dimensions).
        order: Positions of the rows in their table.
    """

    ids: list[str]
    vectors: Matrix
    order: NDArray[Any]

    @property
    def n_held(self) -> int:
        """How many rows were there before."""
        return len(self.ids) - len(self.order)

    def evidence(self, result: DedupResult) -> dict[int, dict[str, Any]]:
        """The row kept instead of each dropped row and the cosine, by position in the table."""
        return {
            int(self.order[i - self.n_held]): {
                "duplicate_of": self.ids[result.nearest[i]],
                "cosine": float(result.similarity[i]),
            }
            for i in np.flatnonzero(~result.kept)
        }


class CosineRule(NamedTuple):
    """A row is dropped if its cosine with a kept row is above the threshold.

    Attributes:
        threshold: The cosine.
        inclusive: At the threshold, too.
    """

    threshold: float
    inclusive: bool


def ordered_vectors(
    rows: pl.DataFrame, held: pl.DataFrame | None, order: NDArray[Any], vector: str
) -> OrderedVectors:
    """Stack the vectors of held rows and of the rows in their order.

    Args:
        rows: The rows to judge.
        held: Rows that count as kept.
        order: Positions of the rows.
        vector: The column of vectors.

    Raises:
        UserError: A vector is missing, or the vectors have different dimensions.
    """
    vectors = as_matrix(rows[vector])[order]
    ids = rows["id"].gather(order).to_list()
    if held is None or not len(held):
        return OrderedVectors(ids, vectors, order)
    held_vectors = as_matrix(held[vector])
    if len(rows) and held_vectors.shape[1] != vectors.shape[1]:
        raise UserError(
            f"{vector!r} must have the same dimensions for the rows and those held, got "
            f"{vectors.shape[1]} and {held_vectors.shape[1]}",
            hint="use the same embed stage for both",
        )
    stacked = np.concatenate([held_vectors, vectors]) if len(rows) else held_vectors
    return OrderedVectors(held["id"].to_list() + ids, stacked, order)


def dedup_all(
    vectors: Matrix,
    n_held: int,
    rule: CosineRule,
    progress: Callable[[int, int], None] | None = None,
) -> DedupResult:
    """Compare each row with all rows kept before it.

    Args:
        vectors: In their order.
        n_held: The first rows, which are kept.
        rule: When a row is dropped.
        progress: Called with the rows done and their number.
    """
    return greedy_dedup(
        to_device(vectors),
        threshold=rule.threshold,
        inclusive=rule.inclusive,
        n_reference=n_held,
        min_similarity=rule.threshold,
        progress=progress,
    )


def dedup_within(
    vectors: Matrix,
    n_held: int,
    rule: CosineRule,
    groups: Sequence[NDArray[np.int64]],
    progress: Callable[[int, int], None],
) -> DedupResult:
    """Compare each row with the rows of its group that are kept before it.

    Args:
        vectors: In their order.
        n_held: The first rows, which are kept.
        rule: When a row is dropped.
        groups: Positions of each group's rows, ascending; each row is in one group.
        progress: Called with the rows done and their number.
    """
    total = len(vectors)
    result = DedupResult(
        np.zeros(total, np.bool_), np.full(total, -1), np.full(total, np.nan), total
    )
    done = 0
    for group in groups:
        part = dedup_all(vectors[group], int(np.searchsorted(group, n_held)), rule)
        result.kept[group] = part.kept
        result.similarity[group] = part.similarity
        result.nearest[group] = np.where(part.nearest < 0, -1, group[part.nearest])
        done += len(group)
        progress(done, total)
    return result
