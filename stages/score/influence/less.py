"""LESS: how much a step on a row lowers the losses of a target, by cosines of gradients.

LESS: LESS: Selecting Influential Data for Targeted Instruction Tuning (Xia et al. 2024,
arXiv:2402.04333; princeton-nlp/LESS).

As in the paper: for each checkpoint the cosine of what Adam would do for the row with the target
row's gradient, weighed by the mean learning rate of the checkpoint's epoch; the mean over the rows
of a task, the largest over tasks.

Ours: weights are scaled to a sum of 1; a target row whose gradient is zero enters no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import NonEmpty, PositiveFloat, option_group
from stages._common.option_types import Distinct

Floats = NDArray[np.float64]


@option_group
class Less:
    """Cosines of gradients with those of the target, over checkpoints.

    Args:
        vectors: The columns of gradients, on both edges, one for each checkpoint.
        weights: The weight of each checkpoint: the mean learning rate of its epoch. Without any
            all weigh the same.
        task: A column of the target: the score is the mean within a task and the largest over
            tasks. null: one task.
    """

    name: Literal["less"] = "less"
    vectors: Annotated[tuple[str, ...], NonEmpty, Distinct] = ("vector",)
    weights: tuple[PositiveFloat, ...] = ()
    task: str | None = None

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.vectors):
            raise ValueError(
                f"weights must be as many as vectors, {len(self.vectors)}, got {len(self.weights)}"
            )


def less(
    rows: Sequence[NDArray[np.float32]],
    target: Sequence[NDArray[np.float32]],
    weights: Sequence[float],
    tasks: NDArray[np.int64],
) -> Floats:
    """The influence of each row.

    Args:
        rows: For each checkpoint the gradients of the rows, shape (rows, dimensions).
        target: The same of the target.
        weights: The weight of each checkpoint; none for equal ones.
        tasks: The task of each target row, as numbers from 0 on.

    Returns:
        Shape (rows,); NaN for a gradient of zeros.

    Example:
        >>> rows = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)
        >>> less([rows], [rows[:1]], (), np.zeros(1, int)).tolist()
        [1.0, 0.0]
    """
    count = int(tasks.max()) + 1
    shares = np.asarray(weights or [1.0] * len(rows), np.float64)
    total = np.zeros((len(rows[0]), count))
    for of_rows, of_target, share in zip(rows, target, shares / shares.sum(), strict=True):
        # The mean of cosines is the cosine's numerator with the mean of unit vectors.
        units = _units(of_target)
        means = np.stack([_mean(units[tasks == task]) for task in range(count)])
        total += share * (_units(of_rows) @ means.T)
    best: Floats = np.round(total.max(axis=1), 12)
    return best


def _mean(units: Floats) -> Floats:
    """The mean of the unit vectors of a task."""
    pointing = units[~np.isnan(units).any(axis=1)]
    if not len(pointing):
        raise UserError(
            "each task of the target must have a row with a gradient, got only zeros",
            why="a gradient of zeros points nowhere, and is left out of the mean",
            hint="see what embed.gradients is given on the edge 'target'",
        )
    mean: Floats = pointing.mean(axis=0)
    return mean


def _units(vectors: NDArray[np.float32]) -> Floats:
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.where(norms > 0, norms, np.nan)


def task_numbers(column: pl.Series | None, count: int) -> NDArray[np.int64]:
    """The tasks of target rows as numbers from 0 on.

    Args:
        column: Their names; None for one task.
        count: How many rows there are.

    Example:
        >>> task_numbers(pl.Series(["b", "a", "b"]), 3).tolist()
        [1, 0, 1]
    """
    if column is None:
        return np.zeros(count, np.int64)
    names = column.cast(pl.String).fill_null("").rank("dense")
    numbers: NDArray[np.int64] = names.to_numpy().astype(np.int64) - 1
    return numbers
