"""Spectral clustering: groups that hang together, whatever their shape.

Rows are joined to their nearest neighbours. The leading eigenvectors of the
normalised graph place each row, scaled to length 1, in a space where k-means
finds the groups: Ng, Jordan and Weiss, NIPS 2001; von Luxburg, "A tutorial on
spectral clustering", 2007, algorithm 3. The neighbours are exact, so the time
grows with the square of the rows: up to about 100,000 of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import (
    BLOCK,
    neighbours,
    parallel_map,
    squared_lengths,
    to_device,
    to_host,
)
from stages._vectors.kmeans import Clusters, kmeans

DENSE: Final = 12_000
"""Rows up to which all eigenvectors may be taken, where k is a large share of the rows."""

STARTS: Final = 10
"""Runs of k-means among the eigenvectors: the best is kept, since one in a few ends in a bad
optimum, and all of them take little beside the eigenvectors."""


def spectral(vectors: Any, k: int, seed: int, nearest: int) -> Clusters:
    """k clusters of the graph that joins each row to its `nearest` nearest others.

    vectors: a matrix of either kind. An edge weighs 1 where both rows name each
    other and 1/2 where one does. Groups of rows without an edge between them are
    joined at their nearest rows: an unconnected graph has no order among its parts.
    Distances and centres are in the space of the k eigenvectors.

    Raises UserError where k is more than a quarter of very many rows.
    """
    count = len(vectors)
    if k == 1 or count <= 2:
        return kmeans(vectors, min(k, count), seed)
    if count > 4 * k:
        found = _iterated
    elif count <= DENSE:
        found = _dense
    else:
        raise UserError(
            f"k: spectral clustering of {count} rows into {k} clusters does not fit in memory",
            hint=f"give at most {count // 4} clusters, or method: kmeans",
        )
    with parallel_map():  # the eigenvectors must not depend on the number of threads either
        places = found(_normalised(_connected(vectors, _graph(vectors, nearest))), k)
    lengths = np.linalg.norm(places, axis=1, keepdims=True)
    embedded = np.divide(places, lengths, out=np.zeros_like(places), where=lengths > 0)
    placed = to_device(embedded.astype(np.float32))
    runs = (kmeans(placed, k, STARTS * seed + run) for run in range(STARTS))
    return min(runs, key=lambda found: found.inertia)


def _graph(vectors: Any, nearest: int) -> Any:
    """The symmetric weights of the nearest-neighbour graph: a sparse (rows, rows) array."""
    from scipy.sparse import csr_array

    count = len(vectors)
    k = min(nearest, count - 1)
    named, _ = neighbours(vectors, k)
    weights = np.full(count * k, 0.5)
    half = csr_array((weights, named.ravel(), np.arange(count + 1) * k), (count, count))
    return half + half.T


def _connected(vectors: Any, graph: Any) -> Any:
    """The graph with its parts joined, each to the row nearest to it outside, until it is one.

    Borůvka's rounds: every part but the largest gets one edge of weight 1/2, so
    that the number of parts falls at least by half each time.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    while True:
        count, parts = connected_components(graph, directed=False)
        if count == 1:
            return graph
        rows = np.flatnonzero(parts != np.bincount(parts).argmax())
        outside, distances = _nearest_outside(vectors, parts, rows)
        order = np.lexsort((rows, distances, parts[rows]))
        first = order[np.unique(parts[rows][order], return_index=True)[1]]
        ends = rows[first], outside[first]
        link = coo_array((np.full(len(first), 0.5), ends), graph.shape).tocsr()
        graph = graph.maximum(link).maximum(link.T)


def _nearest_outside(
    vectors: Any, parts: NDArray[np.int32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For some rows, the nearest row of another part and the squared distance to it."""
    xp, at = array_namespace(vectors), device(vectors)
    everyone = xp.asarray(parts, device=at)

    def search(block: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        some = xp.asarray(rows[block], device=at)
        scores = 2 * (xp.take(vectors, some, axis=0) @ vectors.T)
        scores -= lengths_there
        own = xp.take(everyone, some)[:, None] == everyone[None, :]
        scores = xp.where(own, -xp.inf, scores)
        best = xp.argmax(scores, axis=1)
        near = xp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        return to_host(best), lengths[rows[block]] - to_host(near)

    with parallel_map() as each:
        lengths = squared_lengths(each, vectors)
        lengths_there = xp.asarray(lengths, device=at)
        found = each(search, len(rows), max(1, BLOCK * BLOCK // len(vectors)))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _normalised(graph: Any) -> Any:
    """D^-1/2 W D^-1/2: its largest eigenvalues are the smallest of the normalised Laplacian."""
    from scipy.sparse import diags_array

    scale = diags_array(1 / np.sqrt(graph.sum(axis=1)))
    return (scale @ graph @ scale).tocsr()


def _iterated(matrix: Any, k: int) -> NDArray[np.float64]:
    """The eigenvectors of the k largest eigenvalues, by Lanczos from a fixed start."""
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).normal(size=matrix.shape[0])
    vectors: NDArray[np.float64] = eigsh(matrix, k, which="LA", v0=start)[1]
    return vectors


def _dense(matrix: Any, k: int) -> NDArray[np.float64]:
    """The same for few rows, where all eigenvectors are found at once."""
    from scipy.linalg import eigh

    count = matrix.shape[0]
    everything = eigh(matrix.toarray(), subset_by_index=(count - k, count - 1))
    vectors: NDArray[np.float64] = everything[1]
    return vectors
