"""score.knn: against brute force, and where there are too few rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from stages.score.knn import knn
from tests.support.options import problems

CTX = Context.__new__(Context)  # the stage computes only


def pool(rows: int) -> tuple[np.ndarray, pl.DataFrame]:
    vectors = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    column = pl.Series(vectors).arr.to_list()
    return vectors, pl.DataFrame({"id": [f"{i:04x}" for i in range(rows)], "v": column})


@pytest.mark.parametrize("k", [1, 6, 99])
def test_distance_to_the_kth_other_row(k: int) -> None:
    vectors, rows = pool(100)
    distances = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors, axis=2)
    expected = np.sort(distances, axis=1)[:, k]  # position 0 is the row itself
    result = knn(CTX, rows, n_neighbors=k, vector="v")
    assert dict(result.schema) == {"knn_distance": pl.Float32}
    np.testing.assert_allclose(result["knn_distance"], expected, rtol=1e-6)


def test_equal_rows_are_at_distance_zero() -> None:
    _, rows = pool(10)
    doubled = pl.concat([rows, rows])
    assert knn(CTX, doubled, n_neighbors=1, vector="v")["knn_distance"].to_list() == [0.0] * 20


@pytest.mark.parametrize("count", [0, 1, 6])
def test_too_few_rows(count: int) -> None:
    result = knn(CTX, pool(count)[1] if count else pool(1)[1].head(0), vector="v")
    assert result["knn_distance"].to_list() == [None] * count
    assert result.schema["knn_distance"] == pl.Float32


def test_no_such_neighbour() -> None:
    assert problems("score.knn", n_neighbors=0) == ["n_neighbors must be at least 1, got 0"]
