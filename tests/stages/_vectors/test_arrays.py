"""Vectors, nearest neighbors, principal components: against brute force and libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import (
    DRIVERS,
    as_matrix,
    nearest_neighbors,
    principal_components,
    product_tolerance,
    to_device,
    to_host,
)


def blobs(rows: int, dimensions: int, groups: int, seed: int, spread: float = 0.3) -> NDArray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, dimensions))
    points = centers[rng.integers(groups, size=rows)]
    return (points + spread * rng.normal(size=points.shape)).astype(np.float32)


def test_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(3000, 32, 300, 0, spread=0.7)
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        results.append((*nearest_neighbors(vectors, 5), principal_components(vectors, 0.8)))
    for arrays in results[1:]:
        for array, first in zip(arrays, results[0], strict=True):
            np.testing.assert_array_equal(array, first)


@pytest.mark.parametrize(("rows", "k"), [(2, 1), (50, 6), (1500, 6), (1500, 1499), (700, 30)])
def test_neighbors_equal_brute_force(rows: int, k: int) -> None:
    vectors = blobs(rows, 12, 30, 4)
    vectors[rows // 2] = vectors[0]  # equal vectors: distance 0, ordered by index
    gaps = vectors[:, None].astype(np.float64) - vectors
    distances = np.sqrt((gaps**2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    indices, nearest = nearest_neighbors(vectors, k)
    np.testing.assert_allclose(nearest, np.sort(distances, axis=1)[:, :k], atol=1e-12)
    np.testing.assert_array_equal(indices, np.argsort(distances, axis=1, kind="stable")[:, :k])
    assert nearest[0, 0] == 0


def test_as_matrix_reads_lists_and_arrays() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = pl.Series("vector", values)
    np.testing.assert_array_equal(as_matrix(column), values)
    np.testing.assert_array_equal(as_matrix(column.arr.to_list()[1:]), values[1:])
    assert as_matrix(column.arr.to_list()[:0]).shape == (0, 0)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("vector", [1.0, 2.0]),
        pl.Series("vector", [[1.0], [1.0, 2.0]]),
        pl.Series("vector", [[1.0], None]),
        pl.Series("vector", [[1.0], [None]]),
        pl.Series("vector", [[1.0], [float("nan")]]),
        pl.Series("vector", [[1.0], [float("-inf")]]),
        pl.Series("vector", [[1.0], [2e16]]),
        pl.Series("vector", [[1.0], [-2e16]]),
    ],
)
def test_other_columns_are_refused(column: pl.Series) -> None:
    with pytest.raises(UserError, match="vector"):
        as_matrix(column)


@pytest.mark.skipif(any(map(os.path.exists, DRIVERS)), reason="a GPU's driver is there")
def test_without_a_driver_vectors_stay_and_torch_is_not_imported() -> None:
    program = (
        "import sys, numpy as np; from stages._vectors.arrays import to_host, to_device\n"
        "vectors = np.eye(3, dtype=np.float32)\n"
        "assert to_host(to_device(vectors)) is vectors and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_to_device_and_to_host_are_inverse() -> None:
    """On a GPU where there is one; a driver without a GPU leaves the vectors alone."""
    vectors = blobs(50, 4, 3, 0)
    np.testing.assert_array_equal(to_host(to_device(vectors)), vectors)


def test_a_broken_driver_leaves_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("stages._vectors.arrays.DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    vectors = blobs(50, 4, 3, 0)
    assert to_device(vectors) is vectors


def test_host_reads_tensors() -> None:
    import torch

    assert to_host(torch.arange(3)).tolist() == [0, 1, 2]


def test_vectors_are_not_copied() -> None:
    column = pl.Series("vector", blobs(50, 4, 3, 0)).arr.to_list()
    assert np.shares_memory(as_matrix(column), as_matrix(column))


@pytest.mark.parametrize(("rows", "k"), [(2, 1), (300, 6), (2000, 10)])
def test_neighbors_of_a_tensor_are_those_of_the_array(rows: int, k: int) -> None:
    import torch

    vectors = blobs(rows, 12, 30, 4)
    vectors[rows // 2] = vectors[0]
    indices, distances = nearest_neighbors(torch.from_numpy(vectors), k)
    expected = nearest_neighbors(vectors, k)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_allclose(distances, expected[1], atol=1e-12)


def test_rows_that_are_all_equal_are_each_others_nearest_neighbors() -> None:
    indices, distances = nearest_neighbors(np.ones((40, 3), np.float32), 5)
    assert (distances == 0).all()
    assert all(len({row, *named}) == 6 for row, named in enumerate(indices.tolist()))


@pytest.mark.parametrize("fraction", [0.3, 0.95, 1.0])
def test_principal_components_are_those_of_scikit_learn(fraction: float) -> None:
    from sklearn.decomposition import PCA

    vectors = blobs(6000, 20, 15, 1)
    projected = principal_components(vectors, fraction)
    expected = PCA(fraction if fraction < 1 else None, svd_solver="full").fit_transform(vectors)
    assert projected.shape == expected.shape
    np.testing.assert_allclose(abs(projected), abs(expected), atol=2e-4)


def test_principal_components_of_equal_rows() -> None:
    assert not principal_components(np.ones((7, 3), np.float32), 0.95).any()


@pytest.mark.parametrize("dimensions", [1, 16, 384, 4096])
def test_products_of_unit_vectors_are_within_the_tolerance(dimensions: int) -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(300, dimensions)) * rng.uniform(0, 9, size=dimensions) ** 4
    wide[200:] = wide[:100] * rng.uniform(1, 1 + 1e-6, size=(100, dimensions))
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    units = wide.astype(np.float32)
    errors = np.abs(units @ units.T - wide @ wide.T)
    assert 0 < errors.max() < product_tolerance(dimensions) or dimensions == 1
