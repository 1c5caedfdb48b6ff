"""Spectral clustering: connected groups of rows, whatever their shape.

Rows are joined to their nearest neighbors. The leading eigenvectors of the normalized graph
give each row coordinates, scaled to length 1, among which k-means finds the clusters: Ng,
Jordan and Weiss, NIPS 2001; von Luxburg, "A tutorial on spectral clustering", 2007,
algorithm 3. The neighbors are exact, so the time grows with the square of the rows: up to
about 100,000 of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import (
    BLOCK,
    nearest_neighbors,
    parallel_map,
    squared_norms,
    to_device,
    to_host,
)
from stages._vectors.kmeans import Clusters, kmeans

DENSE: Final = 12_000
"""Rows up to which all eigenvectors may be computed, where the clusters are many."""

STARTS: Final = 10
"""Runs of k-means among the eigenvectors: the best is kept, since one in a few ends in a bad
optimum, and all of them take little time beside the eigenvectors."""


def spectral(vectors: Any, n_clusters: int, seed: int, n_neighbors: int) -> Clusters:
    """Cluster the graph that joins each row to its nearest others.

    An edge weighs 1 where both rows are neighbors of each other and 1/2 where one is.
    Groups of rows without an edge between them are joined at their nearest rows: the
    spectrum of an unconnected graph does not order its components.

    Args:
        vectors: A matrix of shape (rows, dimensions), numpy or torch.
        n_clusters: The number of clusters, at most that of the rows.
        seed: Of k-means.
        n_neighbors: The neighbors of each row.

    Returns:
        Labels; distances and centers in the space of the `n_clusters` eigenvectors.

    Raises:
        UserError: There are more clusters than a quarter of more than 12,000 rows.

    Example:
        >>> line = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]], np.float32)
        >>> labels = spectral(line, 2, 0, 2).labels
        >>> (labels == labels[0]).tolist()
        [True, True, True, False, False, False]
    """
    count = len(vectors)
    if n_clusters == 1 or count <= 2:
        return kmeans(vectors, min(n_clusters, count), seed)
    if count > 4 * n_clusters:
        eigenvectors = _lanczos
    elif count <= DENSE:
        eigenvectors = _dense
    else:
        raise UserError(
            f"n_clusters must be at most {count // 4} for spectral clustering of {count} rows, "
            f"got {n_clusters}",
            why="all eigenvectors of so many rows do not fit in memory",
            hint="give fewer clusters, or method: kmeans",
        )
    with parallel_map():  # the eigenvectors must not depend on the number of threads either
        graph = _normalized(_connected(vectors, _graph(vectors, n_neighbors)))
        coordinates = eigenvectors(graph, n_clusters)
    lengths = np.linalg.norm(coordinates, axis=1, keepdims=True)
    embedded = np.divide(coordinates, lengths, out=np.zeros_like(coordinates), where=lengths > 0)
    on_device = to_device(embedded.astype(np.float32))
    runs = (kmeans(on_device, n_clusters, STARTS * seed + run) for run in range(STARTS))
    return min(runs, key=lambda clusters: clusters.inertia)


def _graph(vectors: Any, n_neighbors: int) -> Any:
    """The symmetric weights of the nearest-neighbor graph: a sparse (rows, rows) array."""
    from scipy.sparse import csr_array

    count = len(vectors)
    k = min(n_neighbors, count - 1)
    indices, _ = nearest_neighbors(vectors, k)
    weights = np.full(count * k, 0.5)
    half = csr_array((weights, indices.ravel(), np.arange(count + 1) * k), (count, count))
    return half + half.T


def _connected(vectors: Any, graph: Any) -> Any:
    """The graph with its components joined until there is one.

    Borůvka's rounds: every component but the largest gets an edge of weight 1/2 from one
    of its rows to the nearest row outside, so that the number of components falls at least
    by half each round.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    while True:
        count, components = connected_components(graph, directed=False)
        if count == 1:
            return graph
        rows = np.flatnonzero(components != np.bincount(components).argmax())
        outside, distances = _nearest_outside(vectors, components, rows)
        order = np.lexsort((rows, distances, components[rows]))
        first = order[np.unique(components[rows][order], return_index=True)[1]]
        ends = rows[first], outside[first]
        link = coo_array((np.full(len(first), 0.5), ends), graph.shape).tocsr()
        graph = graph.maximum(link).maximum(link.T)


def _nearest_outside(
    vectors: Any, components: NDArray[np.int32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For some rows, the nearest row of another component and the squared distance to it.

    Args:
        vectors: Shape (rows, dimensions).
        components: The component of each row.
        rows: The rows to search for.
    """
    xp, at = array_namespace(vectors), device(vectors)
    components_there = xp.asarray(components, device=at)

    def search(block: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        index = xp.asarray(rows[block], device=at)
        scores = 2 * (xp.take(vectors, index, axis=0) @ vectors.T)
        scores -= lengths_there
        same = xp.take(components_there, index)[:, None] == components_there[None, :]
        scores = xp.where(same, -xp.inf, scores)
        best = xp.argmax(scores, axis=1)
        largest = xp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        return to_host(best), lengths[rows[block]] - to_host(largest)

    with parallel_map() as each:
        lengths = squared_norms(each, vectors)
        lengths_there = xp.asarray(lengths, device=at)
        parts = each(search, len(rows), max(1, BLOCK * BLOCK // len(vectors)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _normalized(graph: Any) -> Any:
    """D^-1/2 W D^-1/2: its largest eigenvalues are the smallest of the normalized Laplacian."""
    from scipy.sparse import diags_array

    scale = diags_array(1 / np.sqrt(graph.sum(axis=1)))
    return (scale @ graph @ scale).tocsr()


def _lanczos(matrix: Any, k: int) -> NDArray[np.float64]:
    """The eigenvectors of the k largest eigenvalues, by Lanczos from a fixed start."""
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).normal(size=matrix.shape[0])
    vectors: NDArray[np.float64] = eigsh(matrix, k, which="LA", v0=start)[1]
    return vectors


def _dense(matrix: Any, k: int) -> NDArray[np.float64]:
    """The same for few rows, where all eigenvectors are computed at once."""
    from scipy.linalg import eigh

    count = matrix.shape[0]
    vectors: NDArray[np.float64]
    _, vectors = eigh(matrix.toarray(), subset_by_index=(count - k, count - 1))
    return vectors
