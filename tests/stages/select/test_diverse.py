"""select.diverse: each formula as it stands, budgets, edges, reasons, and awkward input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from stages.select.diverse import (
    ConditionalGain,
    FacilityLocation,
    GraphCut,
    KCenter,
    Lazy,
    MutualInformation,
    Stochastic,
    Threshold,
    diverse,
)
from stages.select.diverse.methods import Covering, Method
from stages.select.diverse.mixed_precision import Metric
from tests.stages._selection.binding import bound, problems_of

CTX = Context(Path(), Path(), Path())  # the stage computes only
GREEDY = [KCenter(), FacilityLocation(), GraphCut(), MutualInformation(), ConditionalGain()]
EVERY = [Threshold(), *GREEDY]
OPEN = [Threshold(threshold=1.0), *GREEDY]
"""With a threshold that nothing exceeds."""

every = pytest.mark.parametrize("method", EVERY, ids=[method.name for method in EVERY])


def frame(vectors: NDArray, prefix: str = "", seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    score = [None if x < -1.4 else float(x) for x in rng.normal(size=len(vectors))]
    return pl.DataFrame(
        {
            "id": [f"{prefix}{i:05d}" for i in range(len(vectors))],
            "vector": pl.Series(vectors.astype(np.float32)).arr.to_list(),
            "score": pl.Series(score, dtype=pl.Float64),
            "tokens": pl.Series(rng.integers(1, 30, len(vectors)), dtype=pl.Int32),
        }
    )


def cloud(rows: int, seed: int = 0, dimensions: int = 6) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(7, dimensions)) + 0.5
    return (centers[rng.integers(7, size=rows)] + 0.4 * rng.normal(size=(rows, dimensions))).astype(
        np.float32
    )


POOL = frame(cloud(90))
HELD = frame(cloud(12, seed=1), "held")
TARGET = frame(cloud(9, seed=2), "target")


def edges(method: Method) -> dict[str, pl.DataFrame]:
    needed = {"mutual_information": {"target": TARGET}, "conditional_gain": {"held": HELD}}
    return needed.get(method.name, {})


def select(rows: pl.DataFrame, method: Method, **options: Any) -> pl.DataFrame:
    if isinstance(method, Threshold):
        options = {"score": "score", **options}
    result = diverse(CTX, rows, method=method, **{**edges(method), **options})
    assert len(result) == len(rows)
    chosen = result["drop_reason"].is_null()
    assert (chosen == result["evidence"].is_null()).all()
    assert (chosen == result["gain_rank"].is_not_null()).all()
    assert sorted(result["gain_rank"].drop_nulls()) == list(range(1, chosen.sum() + 1))
    assert dict(result.select("gain", "gain_rank").schema) == {
        "gain": pl.Float64,
        "gain_rank": pl.Int32,
    }
    return pl.concat([rows, result], how="horizontal")


def picked(result: pl.DataFrame) -> list[int]:
    """Positions of the rows chosen, in the order of picking."""
    return result.with_row_index().drop_nulls("gain_rank").sort("gain_rank")["index"].to_list()


def cosine(left: pl.DataFrame, right: pl.DataFrame) -> NDArray[np.float64]:
    a, b = (np.array(f["vector"].to_list(), np.float64) for f in (left, right))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return a @ b.T


def best(s: NDArray, axis: int = 1) -> NDArray:
    return s.max(axis=axis, initial=0.0)


S, SH, ST = cosine(POOL, POOL), cosine(POOL, HELD), cosine(POOL, TARGET)
Q = POOL["score"].fill_null(np.nan).to_numpy()


def flqmi(picks: list[int]) -> float:
    return best(ST[picks], 0).sum() + 0.5 * best(ST)[picks].sum()


FORMULAS: dict[str, tuple[Callable[[list[int]], float], Method, dict[str, Any]]] = {
    "facility": (lambda a: best(S[:, a]).sum(), FacilityLocation(), {}),
    "facility, held": (
        lambda a: np.maximum(best(S[:, a]), best(SH)).sum(),
        FacilityLocation(),
        {"held": HELD},
    ),
    "QDIT": (
        lambda a: 0.3 * best(S[:, a]).sum() + 0.7 * Q[a].sum(),
        FacilityLocation(weight=0.7),
        {"score": "score"},
    ),
    "QDIT, small scores are good": (
        lambda a: 0.5 * best(S[:, a]).sum() - 0.5 * Q[a].sum(),
        FacilityLocation(),
        {"score": "score", "descending": False},
    ),
    "graph cut": (lambda a: S[:, a].sum() - 0.4 * S[np.ix_(a, a)].sum(), GraphCut(), {}),
    "graph cut, penalty": (
        lambda a: S[:, a].sum() - 3 * S[np.ix_(a, a)].sum() - 6 * SH[a].sum(),
        GraphCut(penalty=3.0),
        {"held": HELD},
    ),
    "FLVMI": (
        lambda a: np.minimum(best(S[:, a]), best(ST)).sum(),
        MutualInformation(),
        {"target": TARGET},
    ),
    "FLVMI, relevance and held": (
        lambda a: np.minimum(np.maximum(best(S[:, a]), best(SH)), 1.1 * best(ST)).sum(),
        MutualInformation(relevance=1.1),
        {"target": TARGET, "held": HELD},
    ),
    "FLQMI": (
        flqmi,
        MutualInformation(represent="target", relevance=0.5),
        {"target": TARGET},
    ),
    "FLQMI, quality": (
        lambda a: 0.25 * flqmi(a) + 0.75 * Q[a].sum(),
        MutualInformation(represent="target", relevance=0.5, weight=0.75),
        {"target": TARGET, "score": "score"},
    ),
    "FLCG": (
        lambda a: np.maximum(best(S[:, a]) - best(SH), 0).sum(),
        ConditionalGain(),
        {"held": HELD},
    ),
    "FLCG, relevance": (
        lambda a: np.maximum(best(S[:, a]) - 0.6 * best(SH), 0).sum(),
        ConditionalGain(relevance=0.6),
        {"held": HELD},
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_is_maximised_step_by_step(name: str) -> None:
    """The picks are those of the loop that evaluates the formula for every row and pick."""
    value, method, options = FORMULAS[name]
    result = select(POOL, method, budget=25, **options)
    candidates = np.flatnonzero(~np.isnan(Q)) if "score" in options else np.arange(len(POOL))
    chosen: list[int] = []
    for row in picked(result):
        gains = {r: value([*chosen, r]) - value(chosen) for r in candidates if r not in chosen}
        assert gains[row] == pytest.approx(max(gains.values()), abs=1e-8)
        assert result["gain"][row] == pytest.approx(gains[row], abs=1e-8)
        chosen.append(row)
    assert len(chosen) == 25


def test_threshold_is_the_loop_of_deita() -> None:
    for held in (None, HELD):
        result = select(POOL, Threshold(threshold=0.8), budget=12, held=held)
        order = sorted((-q, i) for i, q in enumerate(Q) if not math.isnan(q))
        kept: list[int] = []
        for _, row in order:
            similarity = max(
                [S[row, k] for k in kept] + ([] if held is None else list(SH[row])), default=-1
            )
            if len(kept) == 12:
                break
            if similarity <= 0.8:
                kept.append(row)
        assert picked(result) == kept
        assert result["gain"].gather(kept).to_list() == [Q[row] for row in kept]
        for line in result.filter(pl.col("drop_reason") == "too_similar").iter_rows(named=True):
            evidence = json.loads(line["evidence"])
            assert evidence["similarity"] > evidence["threshold"] == 0.8
            row, ids = int(line["id"]), [*POOL["id"], *HELD["id"]]
            value = np.column_stack([S, SH])[row, ids.index(evidence["nearest"])]
            assert evidence["similarity"] == pytest.approx(value, abs=1e-9)
        assert set(result["drop_reason"].drop_nulls()) == {
            "too_similar",
            "not_selected",
            "missing_score",
        }


def test_threshold_without_a_budget_keeps_all_that_differ() -> None:
    result = select(POOL, Threshold(threshold=0.95))
    kept = picked(result)
    assert (S[np.ix_(kept, kept)] - np.eye(len(kept))).max() <= 0.95
    assert set(result["drop_reason"].drop_nulls()) == {"too_similar", "missing_score"}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_k_center_covers_within_twice_the_best_radius(metric: Metric) -> None:
    """Gonzalez 1985: the next gain bounds the radius, and all centres are that far apart."""
    result = select(POOL, KCenter(metric=metric), budget=12)
    chosen = picked(result)
    vectors = np.array(POOL["vector"].to_list())
    gaps = 1 - S if metric == "cosine" else np.linalg.norm(vectors[:, None] - vectors, axis=2)
    radius = gaps[:, chosen].min(axis=1).max()
    gains = result["gain"].gather(chosen).to_list()
    assert gains[0] is None
    assert sorted(gains[1:], reverse=True) == gains[1:]
    closest = gaps[np.ix_(chosen, chosen)][~np.eye(12, dtype=bool)].min()
    assert gains[-1] == pytest.approx(closest)
    assert radius <= gains[-1] + 1e-9
    key = "distance" if metric == "euclidean" else "similarity"
    for line in result.drop_nulls("evidence").iter_rows(named=True):
        evidence = json.loads(line["evidence"])
        distance = evidence[key] if metric == "euclidean" else 1 - evidence[key]
        row = int(line["id"])
        assert distance == pytest.approx(gaps[row, chosen].min(), abs=1e-6)
        assert int(evidence["nearest"]) in chosen
        assert evidence["budget"] == 12


def test_the_first_centre() -> None:
    mean = (cosine(POOL, POOL)).sum(axis=1).argmax()
    assert picked(select(POOL, KCenter(), budget=3))[0] == mean
    vectors = np.array(POOL["vector"].to_list())
    middle = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmin()
    assert picked(select(POOL, KCenter(metric="euclidean"), budget=3))[0] == middle
    scored = select(POOL, KCenter(init="score"), budget=3, score="score")
    assert picked(scored)[0] == np.nanargmax(Q)
    at_random = KCenter(init="random")
    drawn = {picked(select(POOL, at_random, budget=2, seed=s))[0] for s in range(6)}
    assert len(drawn) > 2
    assert select(POOL, KCenter(), budget=2, held=HELD)["gain"].null_count() == 88


@given(
    st.sampled_from(OPEN), st.integers(0, 900), st.sampled_from([Lazy(), Stochastic()]),
    st.integers(0, 2),
)  # fmt: skip
def test_budget_in_tokens(
    method: Method, budget: int, optimizer: Lazy | Stochastic, seed: int
) -> None:
    rows = frame(cloud(60, seed), seed=seed)
    result = select(rows, method, budget=budget, unit="tokens", optimizer=optimizer)
    kept = result["drop_reason"].is_null()
    spent = rows["tokens"].filter(kept).sum()
    rest = rows["tokens"].filter(result["drop_reason"].eq_missing("not_selected"))
    assert spent <= budget
    assert (rest > budget - spent).all()  # none of the others would fit


@pytest.mark.parametrize("method", OPEN, ids=[method.name for method in OPEN])
def test_a_budget_above_the_pool_selects_all(method: Method) -> None:
    result = select(POOL.with_columns(score=pl.lit(1.0)), method, budget=500)
    assert result["drop_reason"].null_count() == len(POOL)
    assert result["gain"].null_count() == (method.name == "k_center")  # the first has no distance


@every
def test_a_budget_of_nothing_and_no_rows(method: Method) -> None:
    result = select(POOL.with_columns(score=pl.lit(1.0)), method, budget=0)
    assert set(result["drop_reason"]) == {"not_selected"}
    evidence = json.loads(result["evidence"][0])
    assert evidence["budget"] == 0
    assert ("nearest" in evidence) == (method.name == "conditional_gain")  # held rows are there
    select(POOL.head(0), method, budget=3)


@every
def test_equal_rows_and_zero_vectors(method: Method) -> None:
    vectors = np.zeros((40, 6), np.float32)
    vectors[10:20, 0] = 2.0
    vectors[20:30, 0] = 1.0  # the same direction
    vectors[30:, 1] = 1.0
    rows = frame(vectors).with_columns(score=pl.lit(1.0))
    measured = [method]
    if isinstance(method, KCenter | FacilityLocation):
        measured.append(replace(method, metric="euclidean"))
    for variant in measured:
        result = select(rows, variant, budget=12)
        assert not result["gain"].is_nan().any()
        chosen = picked(result)
        kinds = 3 if variant is method else 4
        groups = {0: 0, 1: 1, 2: 1 if kinds == 3 else 2, 3: 3}
        if isinstance(method, KCenter | FacilityLocation):
            assert len({groups[row // 10] for row in chosen[:kinds]}) == kinds
            assert set(chosen[:kinds]) <= {0, 10, 20, 30}  # of equal rows the first
        if isinstance(method, Threshold):
            assert chosen == [*range(10), 10, 30]  # zeros say nothing, so none repeats another
    same = select(rows[10:20], method, budget=4)
    assert picked(same) == ([0] if isinstance(method, Threshold) else [0, 1, 2, 3])


@every
@pytest.mark.parametrize("optimizer", [Lazy(), Stochastic(epsilon=0.3)])
def test_names_and_order_of_other_rows_do_not_matter(
    method: Method, optimizer: Lazy | Stochastic
) -> None:
    """The runner sorts by id: whatever the ids, the same vectors are chosen.

    The score is there because two rows that stand for each other alone gain the same.
    """
    renamed = POOL.with_columns(id=pl.col("id").str.reverse()).sort("id")
    options: dict[str, Any] = {"optimizer": optimizer}
    if isinstance(method, Covering):
        method = replace(method, weight=0.1)
    if not isinstance(method, GraphCut):
        options["score"] = "score"
    results = [
        select(rows, method, budget=20, **options).drop_nulls("gain_rank")
        for rows in (POOL, renamed)
    ]
    vectors = [r.sort("gain_rank")["vector"].to_list() for r in results]
    exact = isinstance(optimizer, Lazy) or isinstance(method, Threshold)
    assert (vectors[0] == vectors[1]) == exact


def test_stochastic_search() -> None:
    """Nearly as good as the plain choice, another for each seed, the same for the same."""
    rows = frame(cloud(1500, dimensions=24))
    s = cosine(rows, rows)

    def covered(result: pl.DataFrame) -> float:
        return float(np.maximum(s[:, picked(result)].max(axis=1), 0).sum())

    method, optimizer = FacilityLocation(), Stochastic(epsilon=0.1)
    lazy = select(rows, method, budget=30)
    drawn = [select(rows, method, budget=30, optimizer=optimizer, seed=s) for s in (0, 0, 1)]
    assert picked(drawn[0]) == picked(drawn[1]) != picked(drawn[2])
    for result in drawn:
        assert 0.97 * covered(lazy) < covered(result) < covered(lazy)
    sure = select(rows, method, budget=30, optimizer=Stochastic(epsilon=1e-15))
    assert picked(sure) == picked(lazy)  # ln(1 / epsilon) exceeds the number of picks


def test_missing_scores_are_not_zero() -> None:
    rows = frame(cloud(30)).with_columns(
        score=pl.when(pl.int_range(30) < 10).then(None).otherwise(-1.0)
    )
    for method in (Threshold(threshold=1.0), FacilityLocation(), KCenter()):
        result = select(rows, method, budget=30, score="score")
        missing = result.filter(pl.col("drop_reason") == "missing_score")
        assert missing["id"].to_list() == rows["id"].head(10).to_list()
        assert json.loads(missing["evidence"][0]) == {"by": "score"}
        assert len(picked(result)) == 20
    nothing = rows.with_columns(score=pl.lit(None, pl.Float64))
    assert picked(select(nothing, FacilityLocation(), budget=5, score="score")) == []


def test_held_rows_are_avoided_and_named() -> None:
    copy = POOL.head(45).with_columns(id="held" + pl.col("id"))
    for method in (Threshold(), KCenter(), FacilityLocation(), ConditionalGain()):
        result = select(POOL, method, budget=20, held=copy)
        assert min(picked(result)) >= 45
        named = [json.loads(e).get("nearest") for e in result["evidence"].head(30) if e]
        named = [name for name in named if name]
        assert named == [f"held{i}" for i in POOL["id"].head(30)][: len(named)] or (
            isinstance(method, Threshold)
        )


@every
def test_held_rows_of_the_pool_are_not_picked_again(method: Method) -> None:
    held = POOL[[3, 30, 60]]
    result = select(POOL, method, budget=20, held=held)
    dropped = result.filter(pl.col("drop_reason") == "held")["id"]
    assert set(dropped) == set(held["id"])
    assert result["drop_reason"].is_null().sum() == 20


@every
def test_infinite_scores_are_missing(method: Method) -> None:
    rows = POOL.with_columns(score=pl.when(pl.int_range(90) < 40).then(np.inf).otherwise(1.0))
    assert min(picked(select(rows, method, budget=5, score="score"))) >= 40


def test_mutual_information_stays_near_the_target() -> None:
    relevant = cosine(POOL, TARGET).max(axis=1)
    represents: tuple[Literal["rows", "target"], ...] = ("rows", "target")
    for represent in represents:
        method = MutualInformation(represent=represent, relevance=3.0)
        chosen = picked(select(POOL, method, budget=15))
        plain = picked(select(POOL, FacilityLocation(), budget=15))
        assert (relevant[chosen].mean() >= relevant[plain].mean()) or represent == "rows"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (MutualInformation(), {"target": None}, "must have an input for 'target'"),
        (FacilityLocation(), {"target": TARGET}, "does not read 'target', got an input"),
        (MutualInformation(), {"target": TARGET.head(0)}, "must have rows"),
        (ConditionalGain(), {"held": None}, "must have an input for 'held'"),
        (KCenter(), {"held": frame(cloud(3, dimensions=5))}, "must have one length"),
        (KCenter(), {"held": HELD.with_columns(vector=pl.lit(None))}, "vector"),
    ],
)
def test_mistakes_in_what_is_connected(method: Method, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(POOL, method, budget=3, **options)


def test_vectors_that_are_none() -> None:
    for value in (float("nan"), float("inf")):
        bad = POOL.with_columns(vector=pl.lit([value] * 6, pl.List(pl.Float32)))
        with pytest.raises(UserError, match="not finite"):
            select(bad, KCenter(), budget=3)


def test_held_may_be_empty() -> None:
    for method in EVERY:
        with_empty = select(POOL, method, budget=9, held=HELD.head(0))
        if not isinstance(method, ConditionalGain):
            assert with_empty.equals(select(POOL, method, budget=9))
    plain = select(POOL, FacilityLocation(), budget=9)
    assert with_empty.equals(plain)


GOOD: dict[str, Any] = {"method": "facility_location", "budget": 5, "score": "score"}


def test_options_that_are_accepted() -> None:
    for options in (
        GOOD,
        {"method": "threshold", "score": "score"},
        {"method": {"name": "k_center", "init": "random"}, "budget": 5, "seed": 3},
        {"method": "graph_cut", "budget": 5, "optimizer": "stochastic", "seed": 3},
        GOOD | {"method": {"name": "facility_location", "weight": 0.2}},
    ):
        assert problems_of("select.diverse", **options) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"method": "threshold", "score": None},
            "score: score must be given with method: threshold, got null",
        ),
        (
            {"method": {"name": "k_center", "init": "score"}, "score": None},
            "score: score must be given with method: k_center, got null",
        ),
        (
            {"method": "graph_cut"},
            "score: score must be left out with method: graph_cut, got 'score'",
        ),
        ({"budget": None}, "budget: budget must be given with method: facility_location"),
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        (
            {"method": {"name": "graph_cut", "metric": "euclidean"}, "score": None},
            "method.metric: method (graph_cut) has no option 'metric'",
        ),
        (
            {"method": {"name": "facility_location", "weight": 1.5}},
            "method.weight: method.weight must be between 0 and 1, got 1.5",
        ),
        (
            {"method": {"name": "facility_location", "weight": 0.2}, "score": None},
            "method.weight: method.weight must be left out without a score, got 0.2",
        ),
        (
            {"optimizer": {"name": "stochastic", "epsilon": 0.0}},
            "optimizer.epsilon: optimizer.epsilon must be above 0, got 0.0",
        ),
        (
            {"method": {"name": "graph_cut", "penalty": -1.0}, "score": None},
            "method.penalty: method.penalty must be at least 0, got -1.0",
        ),
        (
            {"method": {"name": "conditional_gain", "relevance": -1.0}},
            "method.relevance: method.relevance must be at least 0, got -1.0",
        ),
        ({"score": "score +"}, "score: score must be a column or an SQL expression"),
        (
            {"method": "threshold", "optimizer": "stochastic"},
            "optimizer: optimizer must be left out with method: threshold",
        ),
        ({"seed": 1}, "seed: seed must be left out where nothing is random, got 1"),
        ({"threshold": 0.5}, "threshold: 'threshold' is an option of method: threshold"),
        (
            {"method": "threshold", "budget": None, "unit": "tokens"},
            "unit: unit must be left out without a budget, got 'tokens'",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(change: dict[str, Any], problem: str) -> None:
    (message,) = problems_of("select.diverse", **GOOD | change)
    assert message.startswith(problem)


def test_what_it_reads() -> None:
    options = bound(
        "select.diverse", method="graph_cut", budget=3, vector="v", score="ifd * 2",
        unit="tokens", token_column="n",
    )  # fmt: skip
    reads = diverse.__stage__.reads  # type: ignore[attr-defined]
    assert reads(options) == {"rows": ["v", "ifd", "n"], "target": ["v"], "held": ["v"]}
