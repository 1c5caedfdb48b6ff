"""k-means in a handful of passes over the data.

Four things make it fast without costing inertia. Seeds are chosen by greedy
k-means++ on a sample; centres settle on samples that double before all rows are
passed over; each step goes beyond the clusters' means (over-relaxation), which
takes about half the iterations; and rows meet centres in blocks, one matrix
product each.
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
    squared_lengths,
    to_host,
)

SAMPLE: Final = 64
"""Rows per cluster of the first sample, at least."""

STEP: Final = 1.8
"""How far a centre goes on the way to its cluster's mean; 1 is Lloyd's algorithm."""

DRAWN: Final = 8
"""Centres for which k-means++ draws candidates at once: one product for all of them."""


_FAR: Final = 16
"""The squared length of the mean, through that of a vector less the mean, above which the
vectors are moved to have mean 0."""


class Clusters(NamedTuple):
    """labels: cluster of each row, shape (rows,). distances: squared, of each row to its centre.

    centers: shape (k, dimensions). The inertia is the sum of the distances.
    """

    labels: NDArray[np.int32]
    distances: Matrix
    centers: Matrix

    @property
    def inertia(self) -> float:
        return float(self.distances.sum(dtype=np.float64))


def kmeans(
    vectors: Any, k: int, seed: int, tolerance: float = 3e-4, iterations: int = 300
) -> Clusters:
    """k-means under the Euclidean distance, of a matrix of either kind.

    It ends when an iteration over all rows lowers the inertia by less than
    `tolerance` of it, or after `iterations` of them. A cluster that runs empty
    takes the row that is farthest from its centre; where there are fewer different
    vectors than `k`, some clusters stay empty. k must not exceed the rows.

    The result is a function of vectors, their order, k and seed, whatever the
    number of threads. k-means++: Arthur and Vassilvitskii, SODA 2007. Each row is
    nearest to its cluster's centre; the centres are the means as far as
    `tolerance` lets them settle.
    """
    rng = np.random.default_rng(seed)
    count = len(vectors)
    shuffled = rng.permutation(count)
    halvings = max(0, int(np.log2(count / max(SAMPLE * k, BLOCK)))) if count else 0

    def sample(halved: int) -> Any:
        index = np.sort(shuffled[: count >> halved])
        xp = array_namespace(vectors)
        return xp.take(vectors, xp.asarray(index, device=device(vectors)), axis=0)

    with parallel_map() as each:
        middle = _far_middle(each, vectors)
        if middle is not None:
            vectors = vectors - array_namespace(vectors).asarray(middle, device=device(vectors))
        centers = _plus_plus(each, to_host(sample(halvings) if halvings else vectors), k, rng)
        for halved in range(halvings, 0, -1):
            centers = _relax(each, sample(halved), centers, 10 * tolerance, iterations).centers
        found = _relax(each, vectors, centers, tolerance, iterations, settle=True)
    return found if middle is None else found._replace(centers=found.centers + middle)


def _far_middle(each: ParallelMap, vectors: Any) -> Matrix | None:
    """The mean of the vectors if it is far from 0 beside their spread, else None.

    Squared distances are taken from squared lengths, which then cancel in float32.
    """
    xp = array_namespace(vectors)
    sums = each(lambda rows: to_host(xp.sum(vectors[rows], axis=0)), len(vectors), BLOCK)
    middle: Any = sum(sums, np.zeros(vectors.shape[1])) / max(1, len(vectors))
    length = float(middle @ middle)
    spread = float(squared_lengths(each, vectors).mean(dtype=np.float64)) - length if sums else 0.0
    return middle.astype(np.float32) if length > _FAR * max(spread, 0) else None


def _plus_plus(each: ParallelMap, sample: Matrix, k: int, rng: np.random.Generator) -> Matrix:
    """k rows of the sample, each the best of a few drawn by their squared distance so far.

    Candidates are drawn for several centres at once, so that one product serves
    them all. One that has come nearer to a centre since is kept with the ratio of
    its squared distances now and then: those kept are drawn by what holds now.
    """
    trials = 2 + int(np.log(k))
    norms = np.einsum("ij,ij->i", sample, sample)
    chosen = [int(rng.integers(len(sample)))]
    nearest = _squared(each, sample, norms, chosen)[0]
    while len(chosen) < k:
        summed = np.cumsum(nearest, dtype=np.float64)
        drawn = np.searchsorted(summed, rng.random(DRAWN * trials) * summed[-1])
        drawn = drawn.clip(max=len(sample) - 1)
        squared = _squared(each, sample, norms, drawn)
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


def _squared(each: ParallelMap, sample: Matrix, norms: Matrix, chosen: Any) -> Matrix:
    """Squared distances of some rows to all: shape (chosen, rows)."""
    some = sample[chosen]

    def block(rows: slice) -> Matrix:
        squared: Matrix = some @ sample[rows].T
        squared *= -2
        squared += norms[rows]
        squared += norms[chosen, None]
        return np.maximum(squared, 0, out=squared)

    return np.concatenate(each(block, len(sample), BLOCK), axis=1)


def _relax(
    each: ParallelMap,
    vectors: Any,
    centers: Matrix,
    tolerance: float,
    iterations: int,
    settle: bool = False,
) -> Clusters:
    """Move the centres until the inertia falls by less than `tolerance` of it.

    Steps go beyond the means; with `settle`, the last ones go to the means.
    Labels and distances are those of the centres that are returned.
    """
    norms = squared_lengths(each, vectors)
    step, before = STEP, np.inf
    for turn in range(iterations):
        labels, distances, sums = _assign(each, vectors, norms, centers)
        inertia = float(distances.sum(dtype=np.float64))
        if before - inertia <= tolerance * inertia:
            if step == 1 or not settle:
                break
            step = 1.0
        before = inertia
        centers = _moved(vectors, labels, distances, sums, centers, step if turn else 1.0)
    return Clusters(labels, distances, centers)


def _assign(
    each: ParallelMap, vectors: Any, norms: Matrix, centers: Matrix
) -> tuple[NDArray[np.int32], Matrix, NDArray[np.float64]]:
    """The nearest centre of each row, the squared distance to it, and each cluster's sum."""
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

    parts = each(block, len(vectors), BLOCK)
    sums = np.zeros(centers.shape)
    for part in parts:  # in the order of the blocks, whoever was first
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
    """The centres after a step towards (1) or beyond (> 1) their clusters' means.

    An empty cluster's centre becomes the farthest row, which leaves its own.
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
