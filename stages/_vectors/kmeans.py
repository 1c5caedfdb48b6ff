"""k-means in a handful of passes over the data.

Four things make it fast without costing inertia. Seeds are chosen by greedy
k-means++ on a sample; centers converge on samples that double before all rows are
used; each step goes beyond the clusters' means (over-relaxation), which
takes about half the iterations; and rows are compared with centers in
blocks, one matrix product each.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from stages._vectors.arrays import (
    BLOCK,
    Matrix,
    ParallelMap,
    parallel_map,
    squared_norms,
    to_host,
)

SAMPLE: Final = 64
"""Rows per cluster of the first sample, at least."""

STEP: Final = 1.8
"""How far a center moves towards its cluster's mean; 1 is Lloyd's algorithm."""

DRAWN: Final = 8
"""Centers for which k-means++ draws candidates at once: one product for all of them."""

_FAR: Final = 16
"""The squared norm of the mean, divided by that of a vector minus the mean, above which the
vectors are moved to have mean 0."""


class Clusters(NamedTuple):
    """A clustering.

    Attributes:
        labels: Cluster of each row, shape (rows,).
        distances: Squared distance of each row to its center, shape (rows,).
        centers: Shape (clusters, dimensions).
    """

    labels: NDArray[np.int32]
    distances: Matrix
    centers: Matrix

    @property
    def inertia(self) -> float:
        """The sum of the squared distances."""
        return float(self.distances.sum(dtype=np.float64))


def kmeans(
    vectors: Any, n_clusters: int, seed: int, tolerance: float = 3e-4, max_iter: int = 300
) -> Clusters:
    """k-means under the Euclidean distance.

    The result is a function of vectors, their order, n_clusters and seed, whatever the
    number of threads. Seeding is greedy k-means++ (Arthur and Vassilvitskii, SODA 2007).
    Each row is nearest to its cluster's center; the centers are the means as far as
    `tolerance` lets them converge. A cluster that runs empty takes the row that is farthest
    from its center; where there are fewer different vectors than clusters, some stay empty.

    Args:
        vectors: A matrix of either kind, shape (rows, dimensions).
        n_clusters: At most the number of rows.
        seed: Of the sample and of the first centers.
        tolerance: It ends when an iteration over all rows lowers the inertia by less than
            this fraction of it.
        max_iter: It ends after so many iterations at the latest.

    Returns:
        The clustering.

    Example:
        >>> points = np.array([[0.0], [0.1], [9.0], [9.1]], np.float32)
        >>> labels = kmeans(points, 2, seed=0).labels.tolist()
        >>> labels[0] == labels[1] != labels[2] == labels[3]
        True
    """
    rng = np.random.default_rng(seed)
    count = len(vectors)
    shuffled = rng.permutation(count)
    halvings = max(0, int(np.log2(count / max(SAMPLE * n_clusters, BLOCK)))) if count else 0

    def sample(halved: int) -> Any:
        index = np.sort(shuffled[: count >> halved])
        xp = array_namespace(vectors)
        return xp.take(vectors, xp.asarray(index, device=device(vectors)), axis=0)

    with parallel_map() as map_blocks:
        mean = _distant_mean(map_blocks, vectors)
        if mean is not None:
            vectors = vectors - array_namespace(vectors).asarray(mean, device=device(vectors))
        seeding = to_host(sample(halvings) if halvings else vectors)
        centers = _plus_plus(map_blocks, seeding, n_clusters, rng)
        for halved in range(halvings, 0, -1):
            coarse = _relax(map_blocks, sample(halved), centers, 10 * tolerance, max_iter)
            centers = coarse.centers
        result = _relax(map_blocks, vectors, centers, tolerance, max_iter, end_at_means=True)
    return result if mean is None else result._replace(centers=result.centers + mean)


def _distant_mean(map_blocks: ParallelMap, vectors: Any) -> Matrix | None:
    """The mean of the vectors if it is far from 0 beside their spread, else None.

    Squared distances are computed from squared norms, which then cancel in float32.
    """
    xp = array_namespace(vectors)
    sums = map_blocks(lambda rows: to_host(xp.sum(vectors[rows], axis=0)), len(vectors), BLOCK)
    mean: Any = sum(sums, np.zeros(vectors.shape[1])) / max(1, len(vectors))
    length = float(mean @ mean)
    spread = (
        float(squared_norms(map_blocks, vectors).mean(dtype=np.float64)) - length if sums else 0.0
    )
    return mean.astype(np.float32) if length > _FAR * max(spread, 0) else None


def _plus_plus(map_blocks: ParallelMap, sample: Matrix, k: int, rng: np.random.Generator) -> Matrix:
    """Choose k rows of the sample, each the best of a few drawn by their squared distance.

    Candidates are drawn for several centers at once, so that one product serves
    them all. A candidate that is nearer to a center by the time it is used is kept with
    the ratio of its squared distances then and before, so that those kept are drawn with
    the current probabilities.
    """
    trials = 2 + int(np.log(k))
    norms = np.einsum("ij,ij->i", sample, sample)
    chosen = [int(rng.integers(len(sample)))]
    nearest = _squared(map_blocks, sample, norms, chosen)[0]
    while len(chosen) < k:
        summed = np.cumsum(nearest, dtype=np.float64)
        drawn = np.searchsorted(summed, rng.random(DRAWN * trials) * summed[-1])
        drawn = drawn.clip(max=len(sample) - 1)
        squared = _squared(map_blocks, sample, norms, drawn)
        limits = rng.random(len(drawn)) * nearest[drawn]
        waiting = np.arange(len(drawn))
        while len(chosen) < k:
            waiting = waiting[limits[waiting] <= nearest[drawn[waiting]]]
            if len(waiting) < trials:
                break
            distances = np.minimum(squared[waiting[:trials]], nearest)
            best = int(distances.sum(axis=1, dtype=np.float64).argmin())
            chosen.append(int(drawn[waiting[best]]))
            nearest = distances[best]
            waiting = waiting[trials:]
    return sample[chosen]


def _squared(map_blocks: ParallelMap, sample: Matrix, norms: Matrix, columns: Any) -> Matrix:
    """Squared distances of some rows to all: shape (columns, rows)."""
    some = sample[columns]

    def block(rows: slice) -> Matrix:
        squared: Matrix = some @ sample[rows].T
        squared *= -2
        squared += norms[rows]
        squared += norms[columns, None]
        return np.maximum(squared, 0, out=squared)

    return np.concatenate(map_blocks(block, len(sample), BLOCK), axis=1)


def _relax(
    map_blocks: ParallelMap,
    vectors: Any,
    centers: Matrix,
    tolerance: float,
    max_iter: int,
    end_at_means: bool = False,
) -> Clusters:
    """Move the centers until the inertia falls by less than `tolerance` of it.

    Steps go beyond the means; with `end_at_means`, the last ones go to the means.
    Labels and distances are those of the centers that are returned.
    """
    norms = squared_norms(map_blocks, vectors)
    step, last_inertia = STEP, np.inf
    for iteration in range(max_iter):
        labels, distances, sums = _assign(map_blocks, vectors, norms, centers)
        inertia = float(distances.sum(dtype=np.float64))
        if last_inertia - inertia <= tolerance * inertia:
            if step == 1 or not end_at_means:
                break
            step = 1.0
        last_inertia = inertia
        centers = _moved(vectors, labels, distances, sums, centers, step if iteration else 1.0)
    return Clusters(labels, distances, centers)


def _assign(
    map_blocks: ParallelMap, vectors: Any, norms: Matrix, centers: Matrix
) -> tuple[NDArray[np.int32], Matrix, NDArray[np.float64]]:
    """The nearest center of each row, the squared distance to it, and each cluster's sum."""
    xp = array_namespace(vectors)
    transposed = xp.asarray(np.ascontiguousarray(centers.T), device=device(vectors))
    half_norms = xp.sum(transposed**2, axis=0) / 2

    def block(rows: slice) -> tuple[NDArray[np.int32], Matrix, Matrix]:
        part = vectors[rows]
        scores = part @ transposed
        scores -= half_norms
        labels = xp.argmax(scores, axis=1)
        best = to_host(xp.take_along_axis(scores, labels[:, None], axis=1))[:, 0]
        sums = to_host(_sums(part, labels, len(centers)))
        distances = np.maximum(norms[rows] - 2 * best, 0)
        return to_host(labels).astype(np.int32), distances, sums

    parts = map_blocks(block, len(vectors), BLOCK)
    sums = np.zeros(centers.shape)
    for part in parts:  # in the order of the blocks, whichever ended first
        sums += part[2]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), sums


def _sums(part: Any, labels: Any, k: int) -> Any:
    """The sum of each cluster's rows: shape (k, dimensions)."""
    if is_numpy_array(part):  # sparse: a fraction of the work of the dense product below
        from scipy.sparse import csc_array

        members = np.ones(len(part), np.float32), labels, np.arange(len(part) + 1)
        return csc_array(members, (k, len(part))) @ part
    xp = array_namespace(part)
    clusters = xp.arange(k, device=device(part))
    return xp.astype(clusters[:, None] == labels, part.dtype) @ part


def _moved(
    vectors: Any,
    labels: NDArray[np.int32],
    distances: Matrix,
    sums: NDArray[np.float64],
    centers: Matrix,
    step: float,
) -> Matrix:
    """The centers after a step towards (1) or beyond (> 1) their clusters' means.

    An empty cluster's center becomes the farthest row, which leaves its own.
    """
    sizes = np.bincount(labels, minlength=len(sums))
    empty = np.flatnonzero(sizes == 0)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)] if len(empty) else empty
    rows = np.stack([to_host(vectors[int(row)]) for row in farthest]) if len(empty) else sums[:0]
    np.subtract.at(sums, labels[farthest], rows)
    np.subtract.at(sizes, labels[farthest], 1)
    means = sums / np.maximum(sizes, 1)[:, None]
    moved = centers + step * (means - centers)
    moved[sizes == 0] = centers[sizes == 0]
    moved[empty] = rows
    return moved.astype(np.float32)
