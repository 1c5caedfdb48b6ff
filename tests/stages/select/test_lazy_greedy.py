"""The greedy engine: every objective against the plain greedy loop over all pairs in float64."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages._selection.amounts import Amount
from stages._vectors.arrays import ParallelMap, parallel_map
from stages.select.diverse.facility_location import Cover, CoverageObjective
from stages.select.diverse.graph_cut import GraphCutObjective
from stages.select.diverse.k_center import KCenterObjective
from stages.select.diverse.lazy_greedy import Objective, Picks, best, greedy
from stages.select.diverse.mixed_precision import ExcessBounds, Metric, VectorSet
from tests.support.rows import DATA, json_lines

Value = Callable[[list[int]], float]
"""A set function, written as its formula says."""


@cache
def embedded(name: str) -> NDArray[np.float32]:
    """Real vectors: the instructions of a bundled sample."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(DATA / "models/potion-base-4m"), device="cpu")
    rows = json_lines(DATA / "samples" / name)
    texts = [row.get("instruction") or row["prompt"] for row in rows]
    return encoder.encode(texts).astype(np.float32)


def similarities(vectors: NDArray, metric: Metric = "cosine") -> NDArray[np.float64]:
    doubles = vectors.astype(np.float64)
    if metric == "euclidean":
        return -np.sqrt(((doubles[:, None] - doubles) ** 2).sum(axis=2))
    zero = ~doubles.any(axis=1)
    doubles = np.column_stack([doubles, zero])
    doubles /= np.linalg.norm(doubles, axis=1, keepdims=True)
    return doubles @ doubles.T


def possible(gains: NDArray) -> list[int]:
    """Which rows may win: the first of those that are equal to 9 decimals.

    Where a gain lies so near the border between two roundings that the last bits of a
    float64 sum decide, either is right.
    """
    low, high = np.round(gains - 1e-11, 9), np.round(gains + 1e-11, 9)
    rows = np.flatnonzero(high >= low.max())
    return rows[:1].tolist() if (low == high)[rows].all() else rows.tolist()


def is_greedy(
    picked: Picks, value: Value, count: int, budget: int, costs: NDArray | None = None
) -> None:
    """Each pick is what the plain loop, which evaluates every row each time, may pick then."""
    costs = np.ones(count, np.int64) if costs is None else costs
    picks: list[int] = []
    for row, gain in zip(picked.rows.tolist(), picked.gains.tolist(), strict=True):
        rows = np.array([r for r in range(count) if r not in picks and costs[r] <= budget])
        before = value(picks)
        gains = np.array([value([*picks, r]) - before for r in rows.tolist()])
        assert row in rows[possible(gains)]
        assert gain == pytest.approx(gains.max(), abs=2e-9)
        picks.append(row)
        budget -= int(costs[row])
    assert not any(costs[r] <= budget for r in range(count) if r not in picks)


def facility(s: NDArray, cover: Cover) -> Value:
    rows = np.arange(cover.represented.start, cover.represented.stop)

    def value(picks: list[int]) -> float:
        best = np.maximum(s[np.ix_(rows, picks)].max(axis=1, initial=-np.inf), cover.start)
        if cover.cap is not None:
            best = np.maximum(np.minimum(best, cover.cap), cover.start)
        return float(cover.scale * best.sum() + cover.extra[picks].sum())

    return value


def run(
    objective: Objective, count: int, budget: int, costs: NDArray | None = None, leaders: int = 1024
) -> Picks:
    costs = np.ones(count, np.int64) if costs is None else costs
    with mock.patch("stages.select.diverse.lazy_greedy._LEADERS", leaders):
        return greedy(objective, np.ones(count, np.bool_), costs, Amount(budget))


def all_alike(count: int, least: float = 0.0) -> Cover:
    return Cover(slice(0, count), np.full(count, least), None, 1.0, np.zeros(count))


@pytest.fixture
def each() -> Iterator[ParallelMap]:
    with parallel_map() as function:
        yield function


grids = (
    st.integers(1, 24)
    .flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=rows, max_size=rows
        )
    )
    .map(lambda rows: np.array(rows, np.float32))
)  # few different values: ties, copies, zeros


leader_counts = st.sampled_from([1, 3, 1024])


@given(grids, st.integers(0, 30), st.sampled_from([0, 20, 10**6]), st.data())
def test_coverage_is_the_plain_greedy_choice(
    vectors: NDArray, budget: int, max_pairs: int, data: st.DataObject
) -> None:
    """All the covering objectives at once, with pairs kept or not, and with many ties."""
    count = len(vectors)
    metric = data.draw(st.sampled_from(["cosine", "euclidean"]))
    s = similarities(vectors, metric)
    start = np.full(count, data.draw(st.sampled_from([0.0, -1.0])))
    if metric == "euclidean":
        start = np.full(count, 2 * s.min())
    if data.draw(st.booleans()):
        start = np.maximum(start, s[:, data.draw(st.integers(0, count - 1))] - 0.25)
    cap = data.draw(st.sampled_from([None, s[:, 0] / 2]))
    quality = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count)))
    cover = Cover(slice(0, count), start, cap, 0.75, 0.25 * quality)
    costs = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    with parallel_map() as each:
        objective = CoverageObjective(VectorSet.of(each, vectors, metric), cover, max_pairs)
        picked = run(objective, count, budget, costs, data.draw(leader_counts))
    is_greedy(picked, facility(s, cover), count, budget, costs)


@given(
    grids,
    st.integers(1, 24),
    st.sampled_from(["cosine", "euclidean"]),
    st.booleans(),
    leader_counts,
)
def test_k_center_is_the_plain_greedy_choice(
    vectors: NDArray, budget: int, metric: Metric, held: bool, leaders: int
) -> None:
    count = len(vectors)
    distances = (metric == "cosine") - similarities(vectors, metric)
    centers = [count - 1] if held else []
    with parallel_map() as each:
        points = VectorSet.of(each, vectors, metric)
        picked = run(
            KCenterObjective(points, count, np.array(centers, int)), count, budget, leaders=leaders
        )
    far = np.full(count, np.inf) if not held else distances[:, centers[0]].copy()
    for row, gain in zip(picked.rows.tolist(), picked.gains.tolist(), strict=True):
        assert row in possible(far)
        assert gain == pytest.approx(far.max(), abs=2e-9)
        far = np.minimum(far, distances[:, row])
        far[row] = -np.inf
    assert len(picked.rows) == min(budget, count)


@given(grids, st.integers(0, 24), st.sampled_from([0.0, 0.4, 1.0]), st.booleans())
def test_graph_cut_is_the_plain_greedy_choice(
    vectors: NDArray, budget: int, penalty: float, held: bool
) -> None:
    count = len(vectors)
    before = [0] if held else []
    everything = np.concatenate([vectors, vectors[before]])
    s = similarities(everything)

    def value(picks: list[int]) -> float:
        both = picks + [count + i for i in before]
        return float(s[:count, both].sum() - penalty * s[np.ix_(both, both)].sum())

    with parallel_map() as each:
        points = VectorSet.of(each, everything, "cosine")
        objective = GraphCutObjective(points, count, count + np.array(before, int), penalty)
        picked = run(objective, count, budget, leaders=1)
    is_greedy(picked, value, count, budget)


@pytest.mark.parametrize("name", ["self_instruct.jsonl.gz", "selfbehave.jsonl.gz"])
@pytest.mark.parametrize("max_pairs", [0, 40_000, 10**8])
def test_real_rows(each: ParallelMap, name: str, max_pairs: int) -> None:
    """On real vectors, copies among them, whatever is kept."""
    vectors = embedded(name)[:700]
    s = similarities(vectors)
    picked = run(
        CoverageObjective(VectorSet.of(each, vectors, "cosine"), all_alike(len(s)), max_pairs),
        len(s),
        60,
    )
    covers, picks = np.zeros(len(s)), []
    for _ in range(60):
        gains = np.round(np.maximum(s - covers[:, None], 0).sum(axis=0), 8)
        gains[picks] = -np.inf
        picks.append(int(gains.argmax()))
        covers = np.maximum(covers, s[:, picks[-1]])
    assert picked.rows.tolist() == picks
    assert picked.gains.sum() == pytest.approx(covers.sum(), abs=1e-6)


def test_gains_never_grow(each: ParallelMap) -> None:
    """Facility location and distances to centers are what the lazy search rests on."""
    points = VectorSet.of(each, embedded("selfbehave.jsonl.gz")[:500], "cosine")
    for objective in (
        CoverageObjective(points, all_alike(500)),
        KCenterObjective(points, 500, np.array([3])),
    ):
        gains = run(objective, 500, 500).gains
        assert len(gains) == 500
        assert (np.diff(gains) <= 1e-8).all()
        assert (gains >= 0).all()


def test_threads_blocks_and_room_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = embedded("self_instruct.jsonl.gz")[:900]
    results = []
    for cores, side, tile, summed, patience, leaders in (
        (1, 512, 2048, 64, 0.25, 1024),
        (3, 100, 64, 5, 0.0, 60),
        (5, 37, 300, 1000, 9.0, 7),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setattr("stages.select.diverse.facility_location._SIDE", side)
        monkeypatch.setattr("stages.select.diverse.facility_location._TILE", tile)
        monkeypatch.setattr("stages.select.diverse.sparse_gains._ROWS", summed)
        monkeypatch.setattr("stages.select.diverse.facility_location._PATIENCE", patience)
        monkeypatch.setattr("stages.select.diverse.k_center.CELLS", tile * 100)
        monkeypatch.setattr("stages.select.diverse.mixed_precision._VALUES", tile * 70)
        with parallel_map() as each:
            points = VectorSet.of(each, vectors, "cosine")
            for max_pairs in (0, 60_000, 10**8):
                objective = CoverageObjective(points, all_alike(len(vectors)), max_pairs)
                results.append(run(objective, 900, 50, leaders=leaders))
            results.append(
                run(KCenterObjective(points, 900, np.array([0])), 900, 50, leaders=leaders)
            )
    for number, picks in enumerate(results):
        first = results[3 if number % 4 == 3 else 0]
        np.testing.assert_array_equal(picks.rows, first.rows)
        np.testing.assert_array_equal(picks.gains, first.gains)


def test_torch_pickedthe_same(each: ParallelMap) -> None:
    torch = pytest.importorskip("torch")
    vectors = embedded("self_instruct.jsonl.gz")[:600]
    vectors = np.concatenate([vectors, vectors[:40]])  # equal rows: ties
    count = len(vectors)
    for kind in (VectorSet.cosine, VectorSet.euclidean):
        results = []
        for points in (kind(each, vectors), kind(each, torch.tensor(vectors))):
            least = 0.0 if points.norms is not None else -9.0
            picks = [
                run(CoverageObjective(points, all_alike(count, least), max_pairs), count, 40)
                for max_pairs in (0, 10**8)
            ]
            picks.append(run(KCenterObjective(points, count, np.array([5])), count, 40))
            if points.norms is not None:
                picks.append(run(GraphCutObjective(points, count, np.array([5]), 0.4), count, 40))
            picks.append(Picks(*points.nearest(np.arange(count), np.arange(7, 300))))
            results.append(picks)
        for of_numpy, of_torch in zip(*results, strict=True):
            np.testing.assert_array_equal(of_numpy.rows, of_torch.rows)
            np.testing.assert_allclose(of_numpy.gains, of_torch.gains, atol=1e-8)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_is_the_first_of_the_most_similar(each: ParallelMap, metric: Metric) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-1, 2, (300, 4)).astype(np.float32)
    s = np.round(similarities(vectors, metric), 10)
    others = np.sort(rng.choice(300, 120, replace=False))
    place, value = VectorSet.of(each, vectors, metric).nearest(np.arange(300), others)
    np.testing.assert_array_equal(place, s[:, others].argmax(axis=1))
    np.testing.assert_allclose(value, s[:, others].max(axis=1), atol=1e-9)


@pytest.mark.parametrize(("max_pairs", "patience"), [(0, 0.0), (0, 9.0), (10**8, 9.0)])
def test_upper_bounds_are_never_too_low(
    each: ParallelMap, monkeypatch: pytest.MonkeyPatch, max_pairs: int, patience: float
) -> None:
    """However the gains are summed up in float32, the true ones are not above, and close."""
    monkeypatch.setattr("stages.select.diverse.facility_location._PATIENCE", patience)
    vectors = embedded("self_instruct.jsonl.gz")[:800]
    s, rows = similarities(vectors), np.arange(800)
    cap = s[:, :50].max(axis=1)
    objective = CoverageObjective(
        VectorSet.of(each, vectors, "cosine"), all_alike(800)._replace(cap=cap), max_pairs=max_pairs
    )
    covers = np.zeros(800)
    for _ in range(12):
        row, _ = best(objective, rows)
        objective.add(row)
        covers = np.maximum(covers, np.minimum(s[:, row], cap))
        gains = np.maximum(np.minimum(s, cap[:, None]) - covers[:, None], 0).sum(axis=0)
        objective.refresh(rows)
        assert (objective.upper_bounds >= gains).all()
        assert (objective.upper_bounds - gains).max() < 0.05


def test_upper_bounds_without_pairs_hold(each: ParallelMap) -> None:
    vectors = embedded("self_instruct.jsonl.gz")[:400]
    points = VectorSet.of(each, vectors, "cosine")
    s = similarities(vectors)[:300, 50:]
    excess = ExcessBounds.of(points, 300, slice(50, 400))
    for picks in ([], [3], [3, 120, 250]):
        floors = s[picks].max(axis=0, initial=0.0)
        exact = np.maximum(s - floors, 0).sum(axis=1)
        bounds = excess.upper_bounds(points, floors)
        assert (bounds >= exact).all()
        if not picks:
            assert (bounds < 1.2 * exact).mean() > 0.9


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_bounds_hold(each: ParallelMap, metric: Metric) -> None:
    """No float32 similarity, with its margin, is on the wrong side of the true one."""
    rng = np.random.default_rng(1)
    vectors = np.concatenate([rng.normal(size=(150, 300)), np.abs(rng.normal(size=(150, 300)))])
    vectors = np.concatenate([vectors, vectors[:50] + 1e-4]).astype(np.float32) * 3
    points = VectorSet.of(each, vectors, metric)
    s = similarities(vectors, metric)
    assert (points.float32.bounds(points.float32, 1) >= s).all()
    assert (points.float32.bounds(points.float32, -1) <= s).all()
    if metric == "cosine":
        assert np.abs(points.float32.bounds(points.float32, 1) - s).max() < 1e-4


def test_many_equal_rows_are_no_burden(each: ParallelMap) -> None:
    """Copies share one evaluation; once all is covered the order is that of the rows."""
    vectors = np.repeat(np.eye(5, 8, dtype=np.float32), 800, axis=0)
    points = VectorSet.of(each, vectors, "cosine")
    picked = run(CoverageObjective(points, all_alike(4000)), 4000, 40)
    assert picked.rows[:5].tolist() == [0, 800, 1600, 2400, 3200]
    assert picked.rows[5:].tolist() == list(range(1, 36))
    assert picked.gains[5:].tolist() == [0.0] * 35
    picked = run(KCenterObjective(points, 4000, np.array([0])), 4000, 40)
    assert picked.rows[:4].tolist() == [800, 1600, 2400, 3200]
    assert picked.rows[4:].tolist() == list(range(36))
    assert picked.gains.tolist() == [1.0] * 4 + [0.0] * 36


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["mixture", "normal"])
def test_larger_pools(each: ParallelMap, kind: str) -> None:
    """The lazy search over the complete matrix, on data of two shapes."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, 64))
    if kind == "mixture":
        vectors = rng.normal(size=(90, 64))[rng.integers(90, size=6000)] + 0.7 * vectors
    vectors = vectors.astype(np.float32)
    s = similarities(vectors)
    covers, picks = np.zeros(len(s)), []
    for _ in range(40):
        gains = np.round(np.maximum(s - covers, 0).sum(axis=1), 8)
        gains[picks] = -np.inf
        picks.append(int(gains.argmax()))
        covers = np.maximum(covers, s[picks[-1]])
    for max_pairs in (0, 2_000_000, 10**8):
        picked = run(
            CoverageObjective(VectorSet.of(each, vectors, "cosine"), all_alike(len(s)), max_pairs),
            len(s),
            40,
        )
        assert picked.rows.tolist() == picks
