"""The greedy engine: every objective against the plain greedy loop over all pairs in float64."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stages.select._submodular import facility_location as facility_location_module
from stages.select._submodular import greedy as greedy_module
from stages.select._submodular import mixed_precision as mixed_precision_module
from stages.select._submodular import sparse_gains as sparse_gains_module
from stages.select._submodular.facility_location import Cover, Coverage
from stages.select._submodular.greedy import GraphCut, KCenter, Objective, Picks, greedy
from stages.select._submodular.mixed_precision import Excess, Points, Similarity

from stages._vectors.arrays import ParallelMap, parallel_map
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


def similarities(vectors: NDArray, similarity: Similarity = "cosine") -> NDArray[np.float64]:
    whole = vectors.astype(np.float64)
    if similarity == "euclidean":
        return -np.sqrt(((whole[:, None] - whole) ** 2).sum(axis=2))
    zero = ~whole.any(axis=1)
    whole = np.column_stack([whole, zero])
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    return whole @ whole.T


def possible(gains: NDArray) -> list[int]:
    """Which rows may win: the first of those that are equal to 9 decimals.

    Where a gain lies so near the border between two roundings that the last bits of a
    float64 sum decide, either is right.
    """
    low, high = np.round(gains - 1e-11, 9), np.round(gains + 1e-11, 9)
    able = np.flatnonzero(high >= low.max())
    return able[:1].tolist() if (low == high)[able].all() else able.tolist()


def is_greedy(
    found: Picks, value: Value, count: int, budget: int, prices: NDArray | None = None
) -> None:
    """Each pick is what the plain loop, which evaluates every row each time, may pick then."""
    prices = np.ones(count, np.int64) if prices is None else prices
    picks: list[int] = []
    for row, gain in zip(found.rows.tolist(), found.gains.tolist(), strict=True):
        rows = np.array([r for r in range(count) if r not in picks and prices[r] <= budget])
        before = value(picks)
        gains = np.array([value([*picks, r]) - before for r in rows.tolist()])
        assert row in rows[possible(gains)]
        assert gain == pytest.approx(gains.max(), abs=2e-9)
        picks.append(row)
        budget -= int(prices[row])
    assert not any(prices[r] <= budget for r in range(count) if r not in picks)


def facility(s: NDArray, cover: Cover) -> Value:
    rows = np.arange(cover.represented.start, cover.represented.stop)

    def value(picks: list[int]) -> float:
        best = np.maximum(s[np.ix_(rows, picks)].max(axis=1, initial=-np.inf), cover.start)
        if cover.cap is not None:
            best = np.maximum(np.minimum(best, cover.cap), cover.start)
        return float(cover.scale * best.sum() + cover.extra[picks].sum())

    return value


def run(
    objective: Objective, count: int, budget: int, prices: NDArray | None = None, ahead: int = 1024
) -> Picks:
    prices = np.ones(count, np.int64) if prices is None else prices
    with mock.patch.object(greedy_module, "_AHEAD", ahead):
        return greedy(objective, np.ones(count, np.bool_), prices, budget)


def whole(count: int, least: float = 0.0) -> Cover:
    return Cover(slice(0, count), np.full(count, least), None, 1.0, np.zeros(count))


@pytest.fixture
def each() -> Iterator[ParallelMap]:
    with parallel_map() as found:
        yield found


grids = (
    st.integers(1, 24)
    .flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=rows, max_size=rows
        )
    )
    .map(lambda rows: np.array(rows, np.float32))
)  # few different values: ties, copies, zeros


aheads = st.sampled_from([1, 3, 1024])


@settings(max_examples=120)
@given(grids, st.integers(0, 30), st.sampled_from([0, 20, 10**6]), st.data())
def test_coverage_is_the_plain_greedy_choice(
    vectors: NDArray, budget: int, room: int, data: st.DataObject
) -> None:
    """All the covering objectives at once, with pairs kept or not, and with many ties."""
    count = len(vectors)
    similarity = data.draw(st.sampled_from(["cosine", "euclidean"]))
    s = similarities(vectors, similarity)
    start = np.full(count, data.draw(st.sampled_from([0.0, -1.0])))
    if similarity == "euclidean":
        start = np.full(count, 2 * s.min())
    if data.draw(st.booleans()):
        start = np.maximum(start, s[:, data.draw(st.integers(0, count - 1))] - 0.25)
    cap = data.draw(st.sampled_from([None, s[:, 0] / 2]))
    quality = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count)))
    cover = Cover(slice(0, count), start, cap, 0.75, 0.25 * quality)
    prices = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    with parallel_map() as each:
        objective = Coverage(Points.of(each, vectors, similarity), cover, room)
        found = run(objective, count, budget, prices, data.draw(aheads))
    is_greedy(found, facility(s, cover), count, budget, prices)


@settings(max_examples=80)
@given(grids, st.integers(1, 24), st.sampled_from(["cosine", "euclidean"]), st.booleans(), aheads)
def test_k_center_is_the_plain_greedy_choice(
    vectors: NDArray, budget: int, similarity: Similarity, held: bool, ahead: int
) -> None:
    count = len(vectors)
    distances = (similarity == "cosine") - similarities(vectors, similarity)
    centres = [count - 1] if held else []
    with parallel_map() as each:
        points = Points.of(each, vectors, similarity)
        found = run(KCenter(points, count, np.array(centres, int)), count, budget, ahead=ahead)
    far = np.full(count, np.inf) if not held else distances[:, centres[0]].copy()
    for row, gain in zip(found.rows.tolist(), found.gains.tolist(), strict=True):
        assert row in possible(far)
        assert gain == pytest.approx(far.max(), abs=2e-9)
        far = np.minimum(far, distances[:, row])
        far[row] = -np.inf
    assert len(found.rows) == min(budget, count)


@settings(max_examples=80)
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
        points = Points.of(each, everything, "cosine")
        objective = GraphCut(points, count, count + np.array(before, int), penalty)
        found = run(objective, count, budget, ahead=1)
    is_greedy(found, value, count, budget)


@pytest.mark.parametrize("name", ["self_instruct.jsonl.gz", "selfbehave.jsonl.gz"])
@pytest.mark.parametrize("room", [0, 40_000, 10**8])
def test_real_rows(each: ParallelMap, name: str, room: int) -> None:
    """On real vectors, copies among them, whatever is kept."""
    vectors = embedded(name)[:700]
    s = similarities(vectors)
    found = run(Coverage(Points.of(each, vectors, "cosine"), whole(len(s)), room), len(s), 60)
    covers, picks = np.zeros(len(s)), []
    for _ in range(60):
        gains = np.round(np.maximum(s - covers[:, None], 0).sum(axis=0), 8)
        gains[picks] = -np.inf
        picks.append(int(gains.argmax()))
        covers = np.maximum(covers, s[:, picks[-1]])
    assert found.rows.tolist() == picks
    assert found.gains.sum() == pytest.approx(covers.sum(), abs=1e-6)


def test_gains_never_grow(each: ParallelMap) -> None:
    """Facility location and distances to centres are what the lazy search rests on."""
    points = Points.of(each, embedded("selfbehave.jsonl.gz")[:500], "cosine")
    for objective in (Coverage(points, whole(500)), KCenter(points, 500, np.array([3]))):
        gains = run(objective, 500, 500).gains
        assert len(gains) == 500
        assert (np.diff(gains) <= 1e-8).all()
        assert (gains >= 0).all()


def test_threads_blocks_and_room_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = embedded("self_instruct.jsonl.gz")[:900]
    found = []
    for cores, side, tile, summed, patience, ahead in (
        (1, 512, 2048, 64, 0.25, 1024),
        (3, 100, 64, 5, 0.0, 60),
        (5, 37, 300, 1000, 9.0, 7),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setattr(facility_location_module, "_SIDE", side)
        monkeypatch.setattr(facility_location_module, "_TILE", tile)
        monkeypatch.setattr(sparse_gains_module, "_ROWS", summed)
        monkeypatch.setattr(facility_location_module, "_PATIENCE", patience)
        monkeypatch.setattr(greedy_module, "CELLS", tile * 100)
        monkeypatch.setattr(mixed_precision_module, "_VALUES", tile * 70)
        with parallel_map() as each:
            points = Points.of(each, vectors, "cosine")
            for room in (0, 60_000, 10**8):
                objective = Coverage(points, whole(len(vectors)), room)
                found.append(run(objective, 900, 50, ahead=ahead))
            found.append(run(KCenter(points, 900, np.array([0])), 900, 50, ahead=ahead))
    for number, picks in enumerate(found):
        first = found[3 if number % 4 == 3 else 0]
        np.testing.assert_array_equal(picks.rows, first.rows)
        np.testing.assert_array_equal(picks.gains, first.gains)


def test_torch_picks_the_same(each: ParallelMap) -> None:
    torch = pytest.importorskip("torch")
    vectors = embedded("self_instruct.jsonl.gz")[:600]
    vectors = np.concatenate([vectors, vectors[:40]])  # equal rows: ties
    count = len(vectors)
    for kind in (Points.cosine, Points.euclidean):
        found = []
        for points in (kind(each, vectors), kind(each, torch.tensor(vectors))):
            least = 0.0 if points.norms is not None else -9.0
            picks = [
                run(Coverage(points, whole(count, least), room), count, 40) for room in (0, 10**8)
            ]
            picks.append(run(KCenter(points, count, np.array([5])), count, 40))
            if points.norms is not None:
                picks.append(run(GraphCut(points, count, np.array([5]), 0.4), count, 40))
            picks.append(Picks(*points.nearest(np.arange(count), np.arange(7, 300))))
            found.append(picks)
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours.rows, theirs.rows)
            np.testing.assert_allclose(ours.gains, theirs.gains, atol=1e-8)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_nearest_is_the_first_of_the_most_similar(
    each: ParallelMap, similarity: Similarity
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-1, 2, (300, 4)).astype(np.float32)
    s = np.round(similarities(vectors, similarity), 10)
    others = np.sort(rng.choice(300, 120, replace=False))
    place, value = Points.of(each, vectors, similarity).nearest(np.arange(300), others)
    np.testing.assert_array_equal(place, s[:, others].argmax(axis=1))
    np.testing.assert_allclose(value, s[:, others].max(axis=1), atol=1e-9)


@pytest.mark.parametrize(("room", "patience"), [(0, 0.0), (0, 9.0), (10**8, 9.0)])
def test_ceilings_are_never_too_low(
    each: ParallelMap, monkeypatch: pytest.MonkeyPatch, room: int, patience: float
) -> None:
    """However the gains are summed up in float32, the true ones are not above, and close."""
    monkeypatch.setattr(facility_location_module, "_PATIENCE", patience)
    vectors = embedded("self_instruct.jsonl.gz")[:800]
    s, rows = similarities(vectors), np.arange(800)
    cap = s[:, :50].max(axis=1)
    objective = Coverage(
        Points.of(each, vectors, "cosine"), whole(800)._replace(cap=cap), room=room
    )
    covers = np.zeros(800)
    for _ in range(12):
        row, _ = greedy.best(objective, rows)
        objective.add(row)
        covers = np.maximum(covers, np.minimum(s[:, row], cap))
        gains = np.maximum(np.minimum(s, cap[:, None]) - covers[:, None], 0).sum(axis=0)
        objective.refresh(rows)
        assert (objective.ceilings >= gains).all()
        assert (objective.ceilings - gains).max() < 0.05


def test_ceilings_without_pairs_hold(each: ParallelMap) -> None:
    vectors = embedded("self_instruct.jsonl.gz")[:400]
    points = Points.of(each, vectors, "cosine")
    s = similarities(vectors)[:300, 50:]
    excess = Excess.of(points, 300, slice(50, 400))
    for picks in ([], [3], [3, 120, 250]):
        floors = s[picks].max(axis=0, initial=0.0)
        exact = np.maximum(s - floors, 0).sum(axis=1)
        found = excess.ceilings(points, floors)
        assert (found >= exact).all()
        if not picks:
            assert (found < 1.2 * exact).mean() > 0.9


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_bounds_hold(each: ParallelMap, similarity: Similarity) -> None:
    """No float32 similarity, with its margin, is on the wrong side of the true one."""
    rng = np.random.default_rng(1)
    vectors = np.concatenate([rng.normal(size=(150, 300)), np.abs(rng.normal(size=(150, 300)))])
    vectors = np.concatenate([vectors, vectors[:50] + 1e-4]).astype(np.float32) * 3
    points = Points.of(each, vectors, similarity)
    s = similarities(vectors, similarity)
    assert (points.fast.bounds(points.fast, 1) >= s).all()
    assert (points.fast.bounds(points.fast, -1) <= s).all()
    if similarity == "cosine":
        assert np.abs(points.fast.bounds(points.fast, 1) - s).max() < 1e-4


def test_many_equal_rows_are_no_burden(each: ParallelMap) -> None:
    """Copies share one evaluation; once all is covered the order is that of the rows."""
    vectors = np.repeat(np.eye(5, 8, dtype=np.float32), 800, axis=0)
    points = Points.of(each, vectors, "cosine")
    found = run(Coverage(points, whole(4000)), 4000, 40)
    assert found.rows[:5].tolist() == [0, 800, 1600, 2400, 3200]
    assert found.rows[5:].tolist() == list(range(1, 36))
    assert found.gains[5:].tolist() == [0.0] * 35
    found = run(KCenter(points, 4000, np.array([0])), 4000, 40)
    assert found.rows[:4].tolist() == [800, 1600, 2400, 3200]
    assert found.rows[4:].tolist() == list(range(36))
    assert found.gains.tolist() == [1.0] * 4 + [0.0] * 36


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["mixture", "normal"])
def test_larger_pools(each: ParallelMap, kind: str) -> None:
    """The lazy search over the whole matrix, on data of two shapes."""
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
    for room in (0, 2_000_000, 10**8):
        found = run(Coverage(Points.of(each, vectors, "cosine"), whole(len(s)), room), len(s), 40)
        assert found.rows.tolist() == picks
