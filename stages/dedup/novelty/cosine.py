"""Novelty by the cosine of vectors: DEITA's filter (Liu et al. 2023, arXiv:2312.15685)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl
from numpy.typing import NDArray

from pipeline.types import PositiveFraction, option_group
from stages.dedup._cosine import CosineRule, dedup_all, ordered_vectors


@option_group
class Cosine:
    """The cosine between the rows' vectors.

    A zero vector is similar to nothing; a missing one is an error.

    Args:
        threshold: A row is dropped if its cosine with a kept row is above this; the paper's
            value is 0.9.
        vector: The column of vectors, on both edges.
    """

    name: Literal["cosine"] = "cosine"
    threshold: PositiveFraction = 0.9
    vector: str = "vector"


def drop_by_cosine(
    rows: pl.DataFrame,
    held: pl.DataFrame | None,
    order: NDArray[Any],
    method: Cosine,
    inclusive: bool,
    progress: Callable[[int, int], None],
) -> dict[int, dict[str, Any]]:
    """The evidence of each row to drop, by its position in the table.

    Args:
        rows: The rows to judge.
        held: Rows that count as kept.
        order: Positions of the rows in the order in which they are judged.
        method: The options.
        inclusive: Drop at the threshold, too.
        progress: Called with the rows done and their number.
    """
    ordered = ordered_vectors(rows, held, order, method.vector)
    rule = CosineRule(method.threshold, inclusive)
    return ordered.evidence(dedup_all(ordered.vectors, ordered.n_held, rule, progress))
