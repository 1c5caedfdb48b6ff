"""GOT-D: what moves the pool's distribution towards the target's, by the gradient of transport.

Get more for less (GOT-D): Get more for less: Principled Data Selection for Warming Up Fine-Tuning
in LLMs (Kang et al. 2024, arXiv:2405.02774).

As in the paper: one entropic optimal transport between the pool, which stands for what the model
was pre-trained on, and the target; the calibrated gradient of a row is its dual potential less the
mean of the others' (Just et al. 2023, arXiv:2305.00054), and rows with the most negative ones are
taken. So what the pool has and the target wants more of comes first, not what is nearest to the
target. With rows on `unwanted` those that move it away from these count as much.

Ours: the embedder; squared Euclidean distances; the entropy's weight as a part of the mean
distance; the sign is turned: above 0 a row brings the pool nearer to the target. The paper's code
is not public.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Count, PositiveFloat, option_group

Floats = NDArray[np.float64]

_CELLS: Final = 1 << 22
"""Cells of the distances whose exponentials are held at once: 32 MiB."""


@option_group
class GotD:
    """The calibrated gradient of the transport from the rows to the target.

    The distances of all rows to all target rows are held: 8 bytes each.

    Args:
        vector: The column of vectors, on all edges.
        epsilon: The weight of the entropy, as a part of the mean distance.
        max_iter: Iterations of Sinkhorn at most.
        tolerance: It ends once the potentials change by less than this part of the mean distance.
    """

    name: Literal["got_d"] = "got_d"
    vector: str = "vector"
    epsilon: PositiveFloat = 0.05
    max_iter: Count = 1000
    tolerance: PositiveFloat = 1e-9


def squared_distances(left: Floats, right: Floats) -> Floats:
    """Squared Euclidean distances of all pairs, shape (left, right).

    Example:
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])).tolist()
        [[25.0]]
    """
    norms = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
    distances: Floats = np.maximum(norms - 2 * (left @ right.T), 0)
    return distances


def potentials(
    costs: Floats, masses: Floats, epsilon: float, max_iter: int, tolerance: float
) -> tuple[Floats, Floats]:
    """The dual potentials of an entropic transport, by Sinkhorn's iterations on logarithms.

    Args:
        costs: Shape (rows, columns); the columns' masses are equal.
        masses: Of the rows, above 0, with a sum of 1.
        epsilon: The weight of the entropy.
        max_iter: Iterations at most.
        tolerance: It ends once no row's potential changes by more.

    Returns:
        f and g, shapes (rows,) and (columns,).
    """
    rows, columns = costs.shape
    log_rows, log_columns = np.log(masses), np.full(columns, -np.log(columns))
    f, g = np.zeros(rows), np.zeros(columns)
    for _ in range(max_iter):
        before = f
        f = -epsilon * _log_sum_exp(log_columns + g / epsilon, costs, epsilon)
        g = -epsilon * _log_sum_exp(log_rows + f / epsilon, costs.T, epsilon)
        if np.abs(f - before).max() <= tolerance:
            break
    # The potentials of the last g, so that no row's depends on where the iterations ended.
    return -epsilon * _log_sum_exp(log_columns + g / epsilon, costs, epsilon), g


def _log_sum_exp(weights: Floats, costs: Floats, epsilon: float) -> Floats:
    """For each row of the costs log sum exp(weights - costs / epsilon), in blocks of rows."""
    size = max(1, _CELLS // costs.shape[1])
    parts = []
    for start in range(0, len(costs), size):
        logs = weights - costs[start : start + size] / epsilon
        largest = logs.max(axis=1)
        parts.append(largest + np.log(np.exp(logs - largest[:, None]).sum(axis=1)))
    return np.concatenate(parts)


def calibrated(potential: Floats) -> Floats:
    """Each potential less the mean of the others: the derivative by the row's mass.

    Example:
        >>> calibrated(np.array([1.0, 2.0, 6.0])).tolist()
        [-3.0, -1.5, 4.5]
    """
    count = len(potential)
    if count < 2:
        return np.zeros(count)
    gradients: Floats = (potential - potential.mean()) * count / (count - 1)
    return gradients


def got_d(rows: Floats, target: Floats, method: GotD) -> Floats:
    """How much more mass on each row brings the rows nearer to the target.

    Args:
        rows: Vectors, shape (rows, dimensions).
        target: Vectors, shape (target rows, dimensions).
        method: The options.
    """
    costs = squared_distances(rows, target)
    scale = float(costs.mean()) or 1.0
    masses = np.full(len(rows), 1 / len(rows))
    f, _ = potentials(
        costs, masses, method.epsilon * scale, method.max_iter, method.tolerance * scale
    )
    return -calibrated(f)
