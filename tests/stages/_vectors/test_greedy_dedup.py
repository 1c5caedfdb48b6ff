"""Greedy deduplication against the loop over rows, whatever the blocks and the library."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.models import Embedder
from stages._vectors.arrays import to_device
from stages._vectors.greedy_dedup import DedupResult, greedy_dedup
from stages._vectors.nearest_kept import nearest_before
from stages._vectors.projection import fit_projection
from tests.support.greedy_oracle import Verdict, at_least, loop
from tests.support.rows import DATA, json_lines


def assert_equal(result: DedupResult, expected: list[Verdict]) -> None:
    until = result.n_processed
    assert result.kept.tolist() == [keep for keep, _, _ in expected]
    assert result.nearest[:until].tolist() == [nearest for _, nearest, _ in expected][:until]
    cosines = [cosine for _, _, cosine in expected][:until]
    np.testing.assert_allclose(result.similarity[:until], cosines, atol=2e-12)
    assert (result.nearest[until:] == -1).all()
    assert np.isnan(result.similarity[until:]).all()


def set_blocks(patch: pytest.MonkeyPatch, block: int, tile: int) -> None:
    patch.setattr("stages._vectors.greedy_dedup._BLOCK", block)
    patch.setattr("stages._vectors.nearest_kept._BLOCK", block)
    patch.setattr("stages._vectors.nearest_kept._TILE", tile)


# Few directions and whole numbers: ties, equal and opposite and zero vectors abound.
vectors = st.integers(1, 4).flatmap(
    lambda d: st.lists(
        st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=1, max_size=40
    )
)


@given(
    vectors,
    st.sampled_from([-0.5, 0.0, 0.5, 0.8, 1.0]),
    st.booleans(),
    st.integers(0, 5),
    st.integers(1, 9),
    st.none() | st.integers(0, 60),
    st.lists(st.integers(0, 4), min_size=40, max_size=40),
)
def test_equals_the_loop(
    rows: list,
    threshold: float,
    inclusive: bool,
    seeds: int,
    block: int,
    budget: int | None,
    row_costs: list[int],
) -> None:
    vectors = np.array(rows, dtype=np.float32)
    seeds = min(seeds, len(rows))
    costs = np.array(row_costs[: len(rows)])
    expected = loop(vectors, threshold, inclusive, seeds, costs, budget)
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, block, 2 * block)
        for array in (vectors, torch.tensor(vectors)):
            result = greedy_dedup(
                array,
                n_reference=seeds,
                threshold=threshold,
                inclusive=inclusive,
                costs=costs,
                budget=budget,
            )
            assert_equal(result, expected)
        above = greedy_dedup(
            vectors,
            n_reference=seeds,
            threshold=threshold,
            inclusive=inclusive,
            min_similarity=threshold,
            costs=costs,
            budget=budget,
        )
        assert_equal(above, at_least(expected, threshold))


def clustered(rows: int, dimensions: int, seed: int, spread: float = 0.35) -> NDArray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(rows // 4, dimensions))
    points = centers[rng.integers(rows // 4, size=rows)]
    return (points + spread * rng.normal(size=points.shape)).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_clustered_vectors(threshold: float) -> None:
    vectors = clustered(900, 48, 1) * np.float32(7)
    expected = loop(vectors, threshold, n_reference=30)
    result = greedy_dedup(vectors, threshold=threshold, n_reference=30)
    assert_equal(result, expected)
    assert 50 < result.kept.sum() < 850
    assert result.n_processed == 900
    tensors = greedy_dedup(torch.tensor(vectors), threshold=threshold, n_reference=30)
    for array, tensor in zip(result, tensors, strict=True):
        np.testing.assert_array_equal(array, tensor)


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(1500, 20, 2)
    vectors[700:800] = vectors[:100] * np.float32(1 + 2**-20)  # cosines of 1 within rounding
    results = []
    for block, tile, cores in [(512, 4096, 2), (37, 37, 1), (1500, 1, 5), (1, 200, 2)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        set_blocks(monkeypatch, block, tile)
        results.append(greedy_dedup(vectors, threshold=1.0, inclusive=True))
    assert not results[0].kept[700:800].any()
    for other in results[1:]:
        for array, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(array, first)


def test_the_threshold_is_exact_beyond_float32() -> None:
    """The cosines lie within 1e-7 around the threshold: less than float32 can tell."""
    rng = np.random.default_rng(5)
    base = np.zeros(384)
    base[0] = 1
    others = rng.normal(size=(200, 384))
    others[:, 0] = 0
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    others *= np.sqrt(1 - 0.9**2)
    others[:, 0] = 0.9 + rng.uniform(-1e-7, 1e-7, size=200)
    vectors = np.concatenate([[base], others]).astype(np.float32)
    expected = loop(vectors, 0.9)
    gaps = np.array([cosine for _, _, cosine in expected[1:]]) - 0.9
    assert (np.abs(gaps) < 1e-7).sum() > 100
    assert 20 < (gaps > 0).sum() < 180
    assert_equal(greedy_dedup(vectors, threshold=0.9), expected)
    assert_equal(greedy_dedup(torch.tensor(vectors), threshold=0.9), expected)


def test_a_limit_ends_the_work_early() -> None:
    vectors = clustered(3000, 16, 3)
    complete = greedy_dedup(vectors, threshold=0.7)
    done: list[int] = []
    some = greedy_dedup(vectors, threshold=0.7, budget=40, progress=lambda d, _: done.append(d))
    assert done[-1] == 256
    first = np.flatnonzero(complete.kept)[:40]
    assert np.flatnonzero(some.kept).tolist() == first.tolist()
    assert some.n_processed == first[-1] + 1
    np.testing.assert_array_equal(
        some.nearest[: some.n_processed], complete.nearest[: some.n_processed]
    )
    assert greedy_dedup(vectors, threshold=0.7, budget=0).n_processed == 0
    ample = greedy_dedup(vectors, threshold=0.7, budget=10_000)
    for array, tensor in zip(complete, ample, strict=True):
        np.testing.assert_array_equal(array, tensor)


def test_nearest_before_equals_the_loop() -> None:
    vectors = clustered(700, 12, 6)
    vectors[[3, 90]] = 0
    vectors[600:650] = vectors[100:150]
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    rows, columns = np.arange(1, 700, 3), np.arange(3, 690, 2)
    cosines = np.round(unit[rows] @ unit[columns].T, 12)
    usable = (columns < rows[:, None]) & (columns != 3) & (rows[:, None] != 90)
    best = np.where(usable, cosines, -np.inf)
    some = usable.any(axis=1)
    for array in (vectors, torch.tensor(vectors)):
        nearest, value = nearest_before(array, rows, columns)
        assert nearest.tolist() == np.where(some, columns[best.argmax(axis=1)], -1).tolist()
        np.testing.assert_allclose(value[some], best.max(axis=1)[some], atol=2e-12)
        assert np.isnan(value[~some]).all()
        assert 1 <= (~some).sum() < 5


def test_all_equal_none_and_one() -> None:
    same = greedy_dedup(np.ones((1300, 8), np.float32), threshold=0.9)
    assert np.flatnonzero(same.kept).tolist() == [0]
    assert (same.nearest[1:] == 0).all()
    assert (same.similarity[1:] == 1).all()
    assert greedy_dedup(np.ones((1, 8), np.float32), threshold=0.9).kept.tolist() == [True]
    assert greedy_dedup(np.ones((0, 8), np.float32), threshold=0.9).kept.tolist() == []


def test_zero_vectors_resemble_nothing() -> None:
    vectors = np.array([[0, 0], [1, 0], [0, 0], [3e38, 0], [1e-40, 0]], np.float32)
    result = greedy_dedup(vectors, threshold=-1.0)
    assert result.kept.tolist() == [True, True, True, False, False]
    assert result.nearest.tolist() == [-1, -1, -1, 1, 1]
    assert np.isnan(result.similarity[:3]).all()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("min_similarity", [-np.inf, 0.6])
def test_projections_change_nothing(
    monkeypatch: pytest.MonkeyPatch, decay: float, min_similarity: float
) -> None:
    """Vectors whose length lies in few or in all dimensions, projected to various widths."""
    rng = np.random.default_rng(8)
    vectors = clustered(700, 64, 4) * np.arange(1, 65) ** -decay
    vectors = np.concatenate([vectors, vectors[::9] * 3, np.zeros((2, 64))])
    vectors = rng.permutation(vectors).astype(np.float32)
    expected = at_least(loop(vectors, 0.6), min_similarity)
    for width in (None, 1, 16, 63, 64):
        monkeypatch.setattr("stages._vectors.projection._best_width", lambda *_, w=width: w)
        for array in (vectors, torch.tensor(vectors)):
            assert_equal(
                greedy_dedup(array, threshold=0.6, min_similarity=min_similarity), expected
            )


def test_a_width_is_result_where_it_pays() -> None:
    vectors = clustered(4000, 64, 4) * np.arange(1, 65, dtype=np.float32) ** -1.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    few = fit_projection(units, 1_000_000, 0.9).basis
    assert few is not None
    assert few.shape[1] <= 16
    cosines = units[:300] @ units[:300].T
    for min_similarity in (-np.inf, 0.9):
        projection = fit_projection(units, 1_000_000, min_similarity)
        bounds = projection.transform(units[:300])
        assert (bounds @ bounds.T >= cosines - projection.tolerance).all()
    flat = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert fit_projection(flat, 1_000_000, -np.inf).basis is None
    assert fit_projection(units, 100, 0.9).basis is None, "too few rows"


def test_real_vectors(ctx: Context, potion: Embedder) -> None:
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:600]
    vectors = ctx.open(potion).encode([row["instruction"] for row in pool])
    for threshold in (0.6, 0.8):
        expected = loop(vectors, threshold)
        assert 5 < sum(not keep for keep, _, _ in expected) < 500
        assert_equal(greedy_dedup(to_device(vectors), threshold=threshold), expected)
