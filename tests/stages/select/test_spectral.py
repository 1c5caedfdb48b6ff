"""Spectral clustering: against scikit-learn, on shapes that k-means cannot find, by brute force."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.kmeans import kmeans
from stages.select.clusters.spectral import (
    _connected,
    _dense,
    _graph,
    _lanczos,
    _normalized,
    spectral,
)
from tests.stages._vectors.test_arrays import blobs


def agreement(first: NDArray, second: NDArray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(first, second))


def test_moons_and_rings() -> None:
    from sklearn.datasets import make_circles, make_moons

    for points, kind in (
        make_moons(800, noise=0.06, random_state=0),
        make_circles(800, factor=0.5, noise=0.05, random_state=0),
    ):
        vectors = points.astype(np.float32)
        assert agreement(spectral(vectors, 2, 0, 10).labels, kind) == 1
        assert agreement(kmeans(vectors, 2, 0).labels, kind) < 0.6


def test_it_agrees_with_scikit_learn_on_digits() -> None:
    from sklearn.cluster import SpectralClustering
    from sklearn.datasets import load_digits

    digits = load_digits()
    vectors = digits.data.astype(np.float32)
    labels = spectral(vectors, 10, 0, 10).labels
    model = SpectralClustering(10, affinity="nearest_neighbors", random_state=0)
    assert agreement(labels, model.fit_predict(vectors)) > 0.8
    assert agreement(labels, digits.target) > 0.75


def test_k_means_among_the_eigenvectors_ends_in_no_bad_optimum() -> None:
    """The embedding by its definition, and scikit-learn's best of many starts there."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    vectors = load_digits().data[:700].astype(np.float32)
    graph = kneighbors_graph(vectors, 10).toarray()
    graph = (graph + graph.T) / 2
    roots = np.sqrt(graph.sum(axis=1))
    places = np.linalg.eigh(graph / roots / roots[:, None])[1][:, -14:]
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    best = KMeans(14, n_init=30, random_state=0).fit(places).inertia_
    for seed in range(5):
        assert spectral(vectors, 14, seed, 10).inertia < 1.02 * best


def test_parts_without_an_edge_between_them() -> None:
    vectors = np.concatenate([blobs(100, 5, 1, s) + 20 * s for s in range(6)])
    parts = np.repeat(np.arange(6), 100)
    assert agreement(spectral(vectors, 6, 0, 10).labels, parts) == 1
    for k in (2, 3):  # complete parts are put together
        labels = spectral(vectors, k, 0, 10).labels
        assert len(set(labels)) == k
        assert len(set(zip(labels.tolist(), parts.tolist(), strict=True))) == 6


def test_the_parts_are_joined_at_their_nearest_rows() -> None:
    """Brute force: each link that was added is the shortest path out of one of the parts."""
    from scipy.sparse.csgraph import connected_components

    vectors = np.concatenate([blobs(40, 3, 1, s) + 9 * s for s in range(4)])
    graph = _graph(vectors, 5)
    joined = _connected(vectors, graph)
    assert connected_components(joined, directed=False)[0] == 1
    count, parts = connected_components(graph, directed=False)
    assert count == 4
    gaps = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors, axis=2)
    gaps[parts[:, None] == parts] = np.inf
    added = (joined - graph).tocoo()
    for row, column in zip(added.coords[0], added.coords[1], strict=True):
        shortest = [gaps[parts == parts[end]].min() for end in (row, column)]
        assert gaps[row, column] in shortest


@pytest.mark.parametrize("k", [1, 2, 5, 20, 30])
def test_equal_rows_and_many_clusters(k: int) -> None:
    for vectors in (np.zeros((30, 3), np.float32), blobs(30, 3, 4, 0)):
        result = spectral(vectors, k, 0, 10)
        assert len(result.labels) == len(result.distances) == 30
        assert result.labels.max() < k
        assert np.isfinite(result.distances).all()
    assert spectral(vectors[:2], 2, 0, 10).labels.tolist() in ([0, 1], [1, 0])


def test_lanczos_finds_the_space_of_all_eigenvectors() -> None:
    vectors = blobs(600, 8, 20, 0)
    matrix = _normalized(_connected(vectors, _graph(vectors, 10)))
    first, second = _lanczos(matrix, 20), _dense(matrix, 20)
    assert np.linalg.svd(first.T @ second)[1].min() > 1 - 1e-6


def test_neither_threads_nor_the_kind_of_array_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    vectors = blobs(1500, 16, 40, 0)
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        results.append(spectral(vectors, 12, 0, 10))
    np.testing.assert_array_equal(results[0].centers, results[1].centers)
    np.testing.assert_array_equal(results[0].centers, results[2].centers)
    tensor = spectral(torch.from_numpy(vectors), 12, 0, 10)
    assert agreement(tensor.labels, results[0].labels) > 0.999


def test_too_many_clusters_of_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[spectral.__module__], "DENSE", 50)
    with pytest.raises(UserError, match="clusters"):
        spectral(blobs(60, 3, 4, 0), 30, 0, 10)
