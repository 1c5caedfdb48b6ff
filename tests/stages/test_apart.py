"""The greedy rule by cosine: against the loop over rows, whatever the blocks and the library."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.models import Embedder
from stages._vectors.arrays import to_device
from stages._vectors.greedy_dedup import DedupResult, greedy_dedup, nearest_before
from stages._vectors.projection import projection
from tests.support.rows import DATA, json_lines


def loop(
    vectors: NDArray,
    threshold: float,
    drop_at: str = "above",
    given: int = 0,
    costs: NDArray | None = None,
    budget: int | None = None,
) -> list[tuple[bool, int, float]]:
    """Row after row in float64: (kept, nearest kept before, cosine) of each row."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt((wide**2).sum(axis=1))
    prices = np.ones(len(wide), int) if costs is None else costs
    left = prices.sum() if budget is None else budget
    told: list[tuple[bool, int, float]] = [(True, -1, np.nan)] * given
    kept = list(range(given))
    for row in range(given, len(wide)):
        nearest, best = -1, np.nan
        for other in kept:
            if norms[row] and norms[other]:
                cosine = round(float(wide[row] @ wide[other] / (norms[row] * norms[other])), 12)
                if nearest < 0 or cosine > best:
                    nearest, best = other, cosine
        near = best > threshold or (drop_at == "at" and best == threshold)
        keep = not near and prices[row] <= left
        if keep:
            kept.append(row)
            left -= prices[row]
        told.append((keep, nearest, best))
    return told


def assert_equal(
    found: DedupResult, expected: list[tuple[bool, int, float]], given: int = 0
) -> None:
    until = found.reached
    assert found.kept.tolist() == [keep for keep, _, _ in expected]
    assert found.nearest[:until].tolist() == [near for _, near, _ in expected][:until]
    cosines = [cosine for _, _, cosine in expected][:until]
    np.testing.assert_allclose(found.similarity[:until], cosines, atol=2e-12)
    assert (found.nearest[until:] == -1).all()
    assert np.isnan(found.similarity[until:]).all()


def within(told: list[tuple[bool, int, float]], reach: float) -> list[tuple[bool, int, float]]:
    """What is told if only cosines that reach this are looked for."""
    return [one if one[2] >= reach else (one[0], -1, np.nan) for one in told]


# Few directions and whole numbers: ties, equal and opposite and zero vectors abound.
vectors = st.integers(1, 4).flatmap(
    lambda d: st.lists(
        st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=1, max_size=40
    )
)


@settings(max_examples=150)
@given(
    vectors,
    st.sampled_from([-0.5, 0.0, 0.5, 0.8, 1.0]),
    st.sampled_from(["above", "at"]),
    st.integers(0, 5),
    st.integers(1, 9),
    st.none() | st.integers(0, 60),
    st.lists(st.integers(0, 4), min_size=40, max_size=40),
)
def test_equals_the_loop(
    rows: list,
    threshold: float,
    drop_at: Literal["above", "at"],
    seeds: int,
    block: int,
    budget: int | None,
    prices: list[int],
) -> None:
    vectors = np.array(rows, dtype=np.float32)
    seeds = min(seeds, len(rows))
    costs = np.array(prices[: len(rows)])
    expected = loop(vectors, threshold, drop_at, seeds, costs, budget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages._vectors.greedy_dedup._BLOCK", block)
        patch.setattr("stages._vectors.greedy_dedup._TILE", 2 * block)
        for array in (vectors, torch.tensor(vectors)):
            found = greedy_dedup(
                array, given=seeds, threshold=threshold, drop_at=drop_at, costs=costs, budget=budget
            )
            assert_equal(found, expected)
        near = greedy_dedup(
            vectors, given=seeds, threshold=threshold, drop_at=drop_at, reach=threshold,
            costs=costs, budget=budget,
        )  # fmt: skip
        assert_equal(near, within(expected, threshold))


def clustered(rows: int, dimensions: int, seed: int, spread: float = 0.35) -> NDArray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(rows // 4, dimensions))
    points = centers[rng.integers(rows // 4, size=rows)]
    return (points + spread * rng.normal(size=points.shape)).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_clustered_vectors(threshold: float) -> None:
    vectors = clustered(900, 48, 1) * np.float32(7)
    expected = loop(vectors, threshold, given=30)
    found = greedy_dedup(vectors, threshold=threshold, given=30)
    assert_equal(found, expected)
    assert 50 < found.kept.sum() < 850
    assert found.reached == 900
    tensors = greedy_dedup(torch.tensor(vectors), threshold=threshold, given=30)
    for mine, other in zip(found, tensors, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(1500, 20, 2)
    vectors[700:800] = vectors[:100] * np.float32(1 + 2**-20)  # cosines of 1 within rounding
    found = []
    for block, tile, cores in [(512, 4096, 2), (37, 37, 1), (1500, 1, 5), (1, 200, 2)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setattr("stages._vectors.greedy_dedup._BLOCK", block)
        monkeypatch.setattr("stages._vectors.greedy_dedup._TILE", tile)
        found.append(greedy_dedup(vectors, threshold=1.0, drop_at="at"))
    assert not found[0].kept[700:800].any()
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_threshold_is_not_blurred_by_float32() -> None:
    """The cosines lie within 1e-7 around the threshold: less than float32 can tell."""
    rng = np.random.default_rng(5)
    base = np.zeros(384)
    base[0] = 1
    aside = rng.normal(size=(200, 384))
    aside[:, 0] = 0
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    aside *= np.sqrt(1 - 0.9**2)
    aside[:, 0] = 0.9 + rng.uniform(-1e-7, 1e-7, size=200)
    vectors = np.concatenate([[base], aside]).astype(np.float32)
    expected = loop(vectors, 0.9)
    gaps = np.array([cosine for _, _, cosine in expected[1:]]) - 0.9
    assert (np.abs(gaps) < 1e-7).sum() > 100
    assert 20 < (gaps > 0).sum() < 180
    assert_equal(greedy_dedup(vectors, threshold=0.9), expected)
    assert_equal(greedy_dedup(torch.tensor(vectors), threshold=0.9), expected)


def test_a_limit_ends_the_work_early() -> None:
    vectors = clustered(3000, 16, 3)
    whole = greedy_dedup(vectors, threshold=0.7)
    done: list[int] = []
    some = greedy_dedup(vectors, threshold=0.7, budget=40, progress=lambda d, _: done.append(d))
    assert done[-1] == 256
    first = np.flatnonzero(whole.kept)[:40]
    assert np.flatnonzero(some.kept).tolist() == first.tolist()
    assert some.reached == first[-1] + 1
    np.testing.assert_array_equal(some.nearest[: some.reached], whole.nearest[: some.reached])
    assert greedy_dedup(vectors, threshold=0.7, budget=0).reached == 0
    ample = greedy_dedup(vectors, threshold=0.7, budget=10_000)
    for mine, other in zip(whole, ample, strict=True):
        np.testing.assert_array_equal(mine, other)


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
        near, value = nearest_before(array, rows, columns)
        assert near.tolist() == np.where(some, columns[best.argmax(axis=1)], -1).tolist()
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
    found = greedy_dedup(vectors, threshold=-1.0)
    assert found.kept.tolist() == [True, True, True, False, False]
    assert found.nearest.tolist() == [-1, -1, -1, 1, 1]
    assert np.isnan(found.similarity[:3]).all()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("reach", [-np.inf, 0.6])
def test_projections_change_nothing(
    monkeypatch: pytest.MonkeyPatch, decay: float, reach: float
) -> None:
    """Vectors whose length lies in few or in all dimensions, projected to various widths."""
    rng = np.random.default_rng(8)
    vectors = clustered(700, 64, 4) * np.arange(1, 65) ** -decay
    vectors = np.concatenate([vectors, vectors[::9] * 3, np.zeros((2, 64))])
    vectors = rng.permutation(vectors).astype(np.float32)
    expected = within(loop(vectors, 0.6), reach)
    for width in (None, 1, 16, 63, 64):
        monkeypatch.setattr("stages._vectors.projection._width", lambda *_, w=width: w)
        for array in (vectors, torch.tensor(vectors)):
            assert_equal(greedy_dedup(array, threshold=0.6, reach=reach), expected)


def test_a_width_is_found_where_it_pays() -> None:
    vectors = clustered(4000, 64, 4) * np.arange(1, 65, dtype=np.float32) ** -1.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    few = projection(units, 1_000_000, 0.9).basis
    assert few is not None
    assert few.shape[1] <= 16
    cosines = units[:300] @ units[:300].T
    for reach in (-np.inf, 0.9):
        short = projection(units, 1_000_000, reach)
        bounds = short.of(units[:300])
        assert (bounds @ bounds.T >= cosines - short.slack).all()
    flat = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert projection(flat, 1_000_000, -np.inf).basis is None
    assert projection(units, 100, 0.9).basis is None, "too few rows"


def test_real_vectors(ctx: Context, potion: Embedder) -> None:
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:600]
    vectors = ctx.open(potion).encode([row["instruction"] for row in pool])
    for threshold in (0.6, 0.8):
        expected = loop(vectors, threshold)
        assert 5 < sum(not keep for keep, _, _ in expected) < 500
        assert_equal(greedy_dedup(to_device(vectors), threshold=threshold), expected)
