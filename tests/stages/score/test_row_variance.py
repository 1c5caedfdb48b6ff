"""score.row_variance against scikit-learn, and what LIFT takes it for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from pipeline.context import Context
from stages.score.row_variance import row_variance


def table(vectors: np.ndarray) -> pl.DataFrame:
    ids = [f"{i:05}" for i in range(len(vectors))]
    return pl.DataFrame({"id": ids, "vector": pl.Series(vectors.astype(np.float32)).arr.to_list()})


@pytest.mark.parametrize("explained", [0.5, 0.9, 1.0])
def test_it_is_the_variance_over_the_components_of_scikit_learn(
    ctx: Context, explained: float
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 12)) * np.linspace(3, 0.2, 12) + 5
    got = row_variance(ctx, table(vectors), explained_variance=explained)["row_variance"]
    exact = PCA(svd_solver="full").fit(vectors)
    enough = 12
    if explained < 1:
        total = np.cumsum(exact.explained_variance_ratio_)
        enough = 1 + int((total <= explained).sum())
    reduced = exact.transform(vectors)[:, :enough]
    assert np.allclose(got, (reduced**2).mean(axis=1), rtol=2e-3, atol=1e-4)


def test_no_direction_of_a_component_counts(ctx: Context) -> None:
    """About the row's own mean it would: libraries choose the signs of components freely."""
    vectors = np.random.default_rng(2).normal(size=(80, 6))
    one, other = (row_variance(ctx, table(v))["row_variance"] for v in (vectors, -vectors))
    assert np.allclose(one, other, rtol=1e-4)
    reduced = PCA(svd_solver="full").fit_transform(vectors)
    flipped = reduced * [1, 1, 1, -1, -1, -1]
    assert not np.allclose(reduced.var(axis=1), flipped.var(axis=1), rtol=0.1)


def test_rows_far_from_all_others_have_the_most(ctx: Context) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 8)) * 0.1
    far = rng.choice(200, 20, replace=False)
    vectors[far] += rng.choice([-3.0, 3.0], size=(20, 8))
    got = row_variance(ctx, table(vectors))["row_variance"].to_numpy()
    assert {*np.argsort(-got)[:20]} == {*far}


def test_of_no_rows_or_one_there_is_no_variance(ctx: Context) -> None:
    assert row_variance(ctx, table(np.zeros((0, 3)))).schema == {"row_variance": pl.Float32}
    assert row_variance(ctx, table(np.ones((1, 3))))["row_variance"].to_list() == [0.0]
