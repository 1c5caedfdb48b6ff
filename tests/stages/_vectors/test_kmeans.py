"""k-means: inertia against scikit-learn's, and the same result whatever the threads."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.models import Embedder
from stages._vectors.arrays import MAX_VALUE, Matrix
from stages._vectors.kmeans import kmeans
from tests.stages._vectors.test_arrays import blobs

SIZES = [125_000, 250_000, 500_000, 1_000_000]


def scikit_learn(vectors: NDArray, k: int, seed: int) -> float:
    from sklearn.cluster import KMeans

    return float(KMeans(k, n_init=1, random_state=seed).fit(vectors).inertia_)


def agrees(vectors: NDArray, k: int, seeds: int, within: float) -> None:
    """The mean inertia over seeds; single runs of either vary by half a percent."""
    ours = np.mean([kmeans(vectors, k, seed).inertia for seed in range(seeds)])
    sklearns = np.mean([scikit_learn(vectors, k, seed) for seed in range(seeds)])
    assert ours <= within * sklearns


def test_inertia_is_that_of_scikit_learn() -> None:
    agrees(blobs(12_000, 24, 200, 0, spread=0.8), 60, seeds=4, within=1.004)


@pytest.fixture(scope="module")
def questions(potion: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Vectors of real exam questions."""
    path = Path(__file__).parents[3] / "data/benchmarks/mmlu_test.parquet"
    texts = pl.read_parquet(path)["question"].gather_every(3).to_list()
    return Context.scratch(tmp_path_factory.mktemp("ctx")).open(potion).encode(texts)


@pytest.mark.parametrize("k", [12, 84])
def test_inertia_on_real_vectors(questions: Matrix, k: int) -> None:
    agrees(questions, k, seeds=2, within=1.004)


def test_separated_groups_are_found_exactly() -> None:
    vectors = blobs(5000, 8, 1, 0, spread=0.01)
    vectors[:, 0] += np.arange(5000) % 70 * 10
    for seed in range(3):
        labels = kmeans(vectors, 70, seed).labels
        assert {len(set(labels[np.arange(5000) % 70 == group])) for group in range(70)} == {1}
        assert len(set(labels)) == 70


def test_labels_and_distances_belong_to_the_centers() -> None:
    vectors = blobs(3000, 16, 40, 1)
    clusters = kmeans(vectors, 25, 0)
    gaps = vectors[:, None].astype(np.float64) - clusters.centers
    squared = (gaps**2).sum(axis=2)
    np.testing.assert_allclose(clusters.distances, squared.min(axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        squared[np.arange(3000), clusters.labels], squared.min(axis=1), rtol=1e-4, atol=1e-5
    )


def test_centers_are_the_means() -> None:
    vectors = blobs(9000, 6, 5, 2)
    clusters = kmeans(vectors, 5, 0, tolerance=0)
    means = [vectors[clusters.labels == cluster].mean(axis=0) for cluster in range(5)]
    np.testing.assert_allclose(clusters.centers, means, atol=1e-4)


def test_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(20_000, 32, 300, 0, spread=0.7)
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        results.append(kmeans(vectors, 50, 0))
    for clusters in results[1:]:
        np.testing.assert_array_equal(clusters.centers, results[0].centers)
        np.testing.assert_array_equal(clusters.labels, results[0].labels)


def test_a_tensor_gives_what_the_array_gives() -> None:
    import torch

    for vectors in (blobs(12_000, 24, 200, 0, spread=0.8), np.ones((30, 2), np.float32)):
        clusters, expected = kmeans(torch.from_numpy(vectors), 20, 0), kmeans(vectors, 20, 0)
        assert np.mean(clusters.labels == expected.labels) > 0.999
        assert clusters.inertia == pytest.approx(expected.inertia, rel=1e-4)


def test_the_largest_vectors_are_clustered_like_small_ones() -> None:
    """A power of two changes no digit, so the clusters are the same to the last row."""
    vectors = blobs(2000, 24, 30, 0)
    factor = np.float32(2.0 ** np.floor(np.log2(MAX_VALUE / np.abs(vectors).max())))
    large = kmeans(vectors * factor, 20, 0)
    small = kmeans(vectors, 20, 0)
    np.testing.assert_array_equal(large.labels, small.labels)
    np.testing.assert_array_equal(large.centers, small.centers * factor)


@pytest.mark.parametrize("offset", [3, 100, 10_000])
def test_clusters_do_not_depend_on_where_the_vectors_lie(offset: int) -> None:
    """Far from 0 squared lengths are large and their differences small."""
    vectors = blobs(3000, 16, 40, 0)
    moved = vectors + np.float32(offset)
    near, far = (kmeans(array, 40, 0) for array in (vectors, moved))
    exact = (((moved - far.centers[far.labels]).astype(np.float64)) ** 2).sum()
    assert far.inertia == pytest.approx(exact, rel=1e-3)
    assert far.inertia <= 1.02 * near.inertia + len(moved) * 16 * (offset * 2.0**-23) ** 2
    same = np.full((500, 3), offset + 0.3, np.float32)
    assert kmeans(same, 4, 0).inertia == 0


def test_seed_matters() -> None:
    vectors = blobs(2000, 8, 100, 0)
    assert not np.array_equal(kmeans(vectors, 20, 0).centers, kmeans(vectors, 20, 1).centers)


def test_fewer_different_vectors_than_clusters() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    clusters = kmeans(vectors, 6, 0)
    assert clusters.inertia == 0
    assert len(set(clusters.labels)) == 3
    assert kmeans(vectors[:1], 1, 0).labels.tolist() == [0]
    assert kmeans(np.zeros((9, 2), np.float32), 3, 0).inertia == 0


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5))
def test_no_cluster_is_empty_while_vectors_differ(rows: int, k: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    k = min(k, rows)
    assert len(set(kmeans(vectors, k, seed).labels)) == k


def measured() -> tuple[list[float], int]:
    """Seconds of a processor at four sizes, and the peak memory of the process."""
    from pipeline.execution.peak_memory import peak_memory

    rng = np.random.default_rng(0)
    centers = rng.normal(size=(300, 128)).astype(np.float32)
    vectors = centers[rng.integers(300, size=SIZES[-1])]
    vectors += rng.standard_normal(vectors.shape, np.float32)
    seconds = []
    for size in SIZES:
        times = []
        for _ in range(2):  # the better one: other work on the machine takes the caches
            start = time.process_time()
            kmeans(vectors[:size], 100, 0)
            times.append(time.process_time() - start)
        seconds.append(min(times))
    return seconds, peak_memory()


@pytest.mark.proof
def test_time_and_memory_over_sizes() -> None:
    """At a fixed k the time grows no worse than n log n; a million rows stay under 4 GiB.

    In a process of its own: memory that other tests have freed would count here.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, peak = pool.submit(measured).result()
    slope = np.polyfit(np.log(SIZES), np.log(seconds), 1)[0]
    assert slope < 1.2, seconds
    assert peak < 4 * 2**30
