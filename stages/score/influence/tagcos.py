"""TAGCOS: rows whose weighted gradients add up to those of their cluster.

TAGCOS: TAGCOS: Task-agnostic Gradient Clustered Coreset Selection for Instruction Tuning Data
(Zhang et al. 2024, arXiv:2407.15235; 2003pro/TAGCOS).

As in the paper: gradients as LESS has them, clustered by k-means; in each cluster orthogonal
matching pursuit takes the rows whose weighted sum is nearest to the cluster's mean gradient.

As in the authors' code: gradients are averaged over checkpoints, 100 clusters, weights of 0 or
more, a ridge of 1, 5% of the rows; a pursuit begins anew on the rows that are left until its
part is full; clusters of fewer than 20 rows give nothing.

Ours: a seed for k-means; quotas are met exactly (the code may exceed them); the tolerance is a part
of the mean's length.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.types import (
    Count,
    NonEmpty,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    option_group,
)
from stages._common.option_types import Distinct
from stages._vectors.arrays import to_device
from stages._vectors.kmeans import kmeans

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

MIN_WEIGHT: Final = 1e-9
"""The weight of a row that is taken and whose weight the last fit has put to 0."""


@option_group
class Tagcos:
    """Orthogonal matching pursuit towards the mean gradient of each cluster.

    Args:
        vectors: The columns of gradients, one for each checkpoint; their mean is clustered.
        fraction: The part of each cluster that is taken.
        n_clusters: Clusters; at most one for each row.
        min_cluster: A cluster of fewer rows gives nothing.
        ridge: The penalty on the squared weights.
        tolerance: A pursuit ends once what is left of the mean is a part of it below this.
        seed: Of the clustering.
    """

    name: Literal["tagcos"] = "tagcos"
    vectors: Annotated[tuple[str, ...], NonEmpty, Distinct] = ("vector",)
    fraction: PositiveFraction = 0.05
    n_clusters: Count = 100
    min_cluster: Count = 20
    ridge: NonNegativeFloat = 1.0
    tolerance: PositiveFloat = 1e-4
    seed: int = 0


def pursuit(
    vectors: Floats, target: Floats, limit: int, ridge: float, tolerance: float
) -> tuple[list[int], Floats]:
    """Orthogonal matching pursuit: few rows whose weighted sum is near a vector.

    Args:
        vectors: Shape (rows, dimensions).
        target: Shape (dimensions,).
        limit: Rows that are taken at most.
        ridge: The penalty on the squared weights.
        tolerance: It ends once the length of the rest is below this part of the target's.

    Returns:
        The rows in the order in which they are taken, and their weights, 0 or more.

    Example:
        >>> pursuit(np.eye(2), np.array([0.0, 3.0]), 1, 0.0, 1e-4)
        ([1], array([3.]))
    """
    from scipy.optimize import nnls

    picks: list[int] = []
    weights = np.zeros(0)
    rest, length = target, float(np.linalg.norm(target))
    while len(picks) < limit and np.linalg.norm(rest) > tolerance * length:
        gains = np.round(vectors @ rest, 12)
        gains[picks] = -np.inf
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        picks.append(best)
        chosen = vectors[picks]
        penalty = np.sqrt(ridge) * np.eye(len(picks))
        stacked = np.concatenate([chosen.T, penalty])
        weights = nnls(stacked, np.concatenate([target, np.zeros(len(picks))]))[0]
        rest = target - weights @ chosen
    return picks, weights


def tagcos(vectors: NDArray[np.float32], method: Tagcos) -> tuple[Floats, NDArray[np.int32]]:
    """The weight of each row, 0 for those that are not taken, and its cluster.

    Args:
        vectors: The mean gradients, shape (rows, dimensions).
        method: The options.
    """
    labels = kmeans(
        to_device(vectors), min(method.n_clusters, len(vectors)), method.seed
    ).labels.astype(np.int32)
    influence = np.zeros(len(vectors))
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        if len(members) >= method.min_cluster:
            influence[members] = _of_cluster(vectors[members].astype(np.float64), method)
    return influence, labels


def _of_cluster(vectors: Floats, method: Tagcos) -> Floats:
    """The weights in one cluster: pursuits one after another until the quota is full."""
    quota = max(1, round(method.fraction * len(vectors)))
    target = vectors.mean(axis=0)
    weights = np.zeros(len(vectors))
    left = np.arange(len(vectors))
    while quota > 0 and len(left):
        picks, values = pursuit(vectors[left], target, quota, method.ridge, method.tolerance)
        if not picks:
            break
        weights[left[picks]] = np.maximum(values, MIN_WEIGHT)
        quota -= len(picks)
        left = np.delete(left, picks)
    return weights
