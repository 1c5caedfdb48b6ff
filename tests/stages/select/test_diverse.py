"""select.diverse: each formula as it stands, budgets, edges, reasons, and awkward input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from stages.select.diverse import diverse
from tests.support.options import options_of

CTX = Context(Path(), Path(), Path())  # the stage computes only
GREEDY = ["k_center", "facility_location", "graph_cut", "mutual_information", "conditional_gain"]
EVERY = ["threshold", *GREEDY]


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


def edges(objective: str) -> dict[str, pl.DataFrame]:
    needed = {"mutual_information": {"target": TARGET}, "conditional_gain": {"held": HELD}}
    return needed.get(objective, {})


def select(rows: pl.DataFrame, objective: str, **options: Any) -> pl.DataFrame:
    if objective == "threshold":
        options = {"by": "score", **options}
    result = diverse(CTX, rows, objective=objective, **{**edges(objective), **options})
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


FORMULAS = {
    "facility": (
        lambda a: best(S[:, a]).sum(),
        {"objective": "facility_location"},
    ),
    "facility, held": (
        lambda a: np.maximum(best(S[:, a]), best(SH)).sum(),
        {"objective": "facility_location", "held": HELD},
    ),
    "QDIT": (
        lambda a: 0.3 * best(S[:, a]).sum() + 0.7 * Q[a].sum(),
        {"objective": "facility_location", "by": "score", "weight": 0.7},
    ),
    "QDIT, small scores are good": (
        lambda a: 0.5 * best(S[:, a]).sum() - 0.5 * Q[a].sum(),
        {"objective": "facility_location", "by": "score", "descending": False},
    ),
    "graph cut": (
        lambda a: S[:, a].sum() - 0.4 * S[np.ix_(a, a)].sum(),
        {"objective": "graph_cut"},
    ),
    "graph cut, penalty": (
        lambda a: S[:, a].sum() - 3 * S[np.ix_(a, a)].sum() - 6 * SH[a].sum(),
        {"objective": "graph_cut", "penalty": 3.0, "held": HELD},
    ),
    "FLVMI": (
        lambda a: np.minimum(best(S[:, a]), best(ST)).sum(),
        {"objective": "mutual_information", "target": TARGET},
    ),
    "FLVMI, relevance and held": (
        lambda a: np.minimum(np.maximum(best(S[:, a]), best(SH)), 1.1 * best(ST)).sum(),
        {"objective": "mutual_information", "target": TARGET, "held": HELD, "relevance": 1.1},
    ),
    "FLQMI": (
        flqmi,
        {
            "objective": "mutual_information",
            "target": TARGET,
            "represent": "target",
            "relevance": 0.5,
        },
    ),
    "FLQMI, quality": (
        lambda a: 0.25 * flqmi(a) + 0.75 * Q[a].sum(),
        {
            "objective": "mutual_information",
            "target": TARGET,
            "represent": "target",
            "relevance": 0.5,
            "by": "score",
            "weight": 0.75,
        },
    ),
    "FLCG": (
        lambda a: np.maximum(best(S[:, a]) - best(SH), 0).sum(),
        {"objective": "conditional_gain", "held": HELD},
    ),
    "FLCG, relevance": (
        lambda a: np.maximum(best(S[:, a]) - 0.6 * best(SH), 0).sum(),
        {"objective": "conditional_gain", "held": HELD, "relevance": 0.6},
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_is_maximised_step_by_step(name: str) -> None:
    """The picks are those of the loop that evaluates the formula for every row and pick."""
    value, options = FORMULAS[name]
    result = select(POOL, budget=25, **options)
    able = np.flatnonzero(~np.isnan(Q)) if "by" in options else np.arange(len(POOL))
    chosen: list[int] = []
    for row in picked(result):
        gains = {r: value([*chosen, r]) - value(chosen) for r in able if r not in chosen}
        assert gains[row] == pytest.approx(max(gains.values()), abs=1e-8)
        assert result["gain"][row] == pytest.approx(gains[row], abs=1e-8)
        chosen.append(row)
    assert len(chosen) == 25


def test_threshold_is_the_loop_of_deita() -> None:
    for held in (None, HELD):
        result = select(POOL, "threshold", budget=12, threshold=0.8, held=held)
        order = sorted((-q, i) for i, q in enumerate(Q) if not math.isnan(q))
        kept: list[int] = []
        for _, row in order:
            near = max(
                [S[row, k] for k in kept] + ([] if held is None else list(SH[row])), default=-1
            )
            if len(kept) == 12:
                break
            if near <= 0.8:
                kept.append(row)
        assert picked(result) == kept
        assert result["gain"].gather(kept).to_list() == [Q[row] for row in kept]
        for line in result.filter(pl.col("drop_reason") == "too_similar").iter_rows(named=True):
            told = json.loads(line["evidence"])
            assert told["similarity"] > told["threshold"] == 0.8
            row, ids = int(line["id"]), [*POOL["id"], *HELD["id"]]
            value = np.column_stack([S, SH])[row, ids.index(told["nearest"])]
            assert told["similarity"] == pytest.approx(value, abs=1e-9)
        assert set(result["drop_reason"].drop_nulls()) == {
            "too_similar",
            "not_selected",
            "missing_score",
        }


def test_threshold_without_a_budget_keeps_all_that_differ() -> None:
    result = select(POOL, "threshold", threshold=0.95)
    kept = picked(result)
    assert (S[np.ix_(kept, kept)] - np.eye(len(kept))).max() <= 0.95
    assert set(result["drop_reason"].drop_nulls()) == {"too_similar", "missing_score"}


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_k_center_covers_within_twice_the_best_radius(similarity: str) -> None:
    """Gonzalez 1985: the next gain bounds the radius, and all centres are that far apart."""
    result = select(POOL, "k_center", budget=12, similarity=similarity)
    chosen = picked(result)
    vectors = np.array(POOL["vector"].to_list())
    gaps = 1 - S if similarity == "cosine" else np.linalg.norm(vectors[:, None] - vectors, axis=2)
    radius = gaps[:, chosen].min(axis=1).max()
    gains = result["gain"].gather(chosen).to_list()
    assert gains[0] is None
    assert sorted(gains[1:], reverse=True) == gains[1:]
    apart = gaps[np.ix_(chosen, chosen)][~np.eye(12, dtype=bool)].min()
    assert gains[-1] == pytest.approx(apart)
    assert radius <= gains[-1] + 1e-9
    key = "distance" if similarity == "euclidean" else "similarity"
    for line in result.drop_nulls("evidence").iter_rows(named=True):
        told = json.loads(line["evidence"])
        distance = told[key] if similarity == "euclidean" else 1 - told[key]
        row = int(line["id"])
        assert distance == pytest.approx(gaps[row, chosen].min(), abs=1e-6)
        assert int(told["nearest"]) in chosen
        assert told["budget"] == 12


def test_the_first_centre() -> None:
    mean = (cosine(POOL, POOL)).sum(axis=1).argmax()
    assert picked(select(POOL, "k_center", budget=3))[0] == mean
    vectors = np.array(POOL["vector"].to_list())
    middle = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmin()
    assert picked(select(POOL, "k_center", budget=3, similarity="euclidean"))[0] == middle
    scored = select(POOL, "k_center", budget=3, first="score", by="score")
    assert picked(scored)[0] == np.nanargmax(Q)
    drawn = {
        picked(select(POOL, "k_center", budget=2, first="random", seed=s))[0] for s in range(6)
    }
    assert len(drawn) > 2
    assert select(POOL, "k_center", budget=2, held=HELD)["gain"].null_count() == 88


@settings(max_examples=40)
@given(
    st.sampled_from(EVERY), st.integers(0, 900), st.sampled_from(["lazy", "stochastic"]),
    st.integers(0, 2),
)  # fmt: skip
def test_budget_in_tokens(objective: str, budget: int, search: str, seed: int) -> None:
    rows = frame(cloud(60, seed), seed=seed)
    result = select(rows, objective, budget=budget, unit="tokens", search=search, threshold=2.0)
    kept = result["drop_reason"].is_null()
    spent = rows["tokens"].filter(kept).sum()
    left = rows["tokens"].filter(result["drop_reason"].eq_missing("not_selected"))
    assert spent <= budget
    assert (left > budget - spent).all()  # none of the others would fit


@pytest.mark.parametrize("objective", EVERY)
def test_a_budget_above_the_pool_takes_all(objective: str) -> None:
    result = select(POOL.with_columns(score=pl.lit(1.0)), objective, budget=500, threshold=2.0)
    assert result["drop_reason"].null_count() == len(POOL)
    assert result["gain"].null_count() == (objective == "k_center")  # the first has no distance


@pytest.mark.parametrize("objective", EVERY)
def test_a_budget_of_nothing_and_no_rows(objective: str) -> None:
    result = select(POOL.with_columns(score=pl.lit(1.0)), objective, budget=0)
    assert set(result["drop_reason"]) == {"not_selected"}
    told = json.loads(result["evidence"][0])
    assert told["budget"] == 0
    assert ("nearest" in told) == (objective == "conditional_gain")  # held rows are there
    select(POOL.head(0), objective, budget=3)


@pytest.mark.parametrize("objective", EVERY)
def test_equal_rows_and_zero_vectors(objective: str) -> None:
    vectors = np.zeros((40, 6), np.float32)
    vectors[10:20, 0] = 2.0
    vectors[20:30, 0] = 1.0  # the same direction
    vectors[30:, 1] = 1.0
    rows = frame(vectors).with_columns(score=pl.lit(1.0))
    for similarity in ("cosine", "euclidean"):
        if similarity == "euclidean" and objective not in ("k_center", "facility_location"):
            continue
        result = select(rows, objective, budget=12, similarity=similarity)
        assert not result["gain"].is_nan().any()
        chosen = picked(result)
        kinds = 3 if similarity == "cosine" else 4
        groups = {0: 0, 1: 1, 2: 1 if kinds == 3 else 2, 3: 3}
        if objective in ("k_center", "facility_location"):
            assert len({groups[row // 10] for row in chosen[:kinds]}) == kinds
            assert set(chosen[:kinds]) <= {0, 10, 20, 30}  # of equal rows the first
        if objective == "threshold":
            assert chosen == [*range(10), 10, 30]  # zeros say nothing, so none repeats another
    same = select(rows[10:20], objective, budget=4, threshold=0.9)
    assert picked(same) == ([0] if objective == "threshold" else [0, 1, 2, 3])


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("search", ["lazy", "stochastic"])
def test_names_and_order_of_other_rows_do_not_matter(objective: str, search: str) -> None:
    """The runner sorts by id: whatever the ids, the same vectors are chosen.

    The score is there because two rows that stand for each other alone gain the same.
    """
    renamed = POOL.with_columns(id=pl.col("id").str.reverse()).sort("id")
    options = {"search": search, "epsilon": 0.3, "weight": 0.1}
    if objective != "graph_cut":
        options["by"] = "score"
    found = [
        select(rows, objective, budget=20, **options).drop_nulls("gain_rank")
        for rows in (POOL, renamed)
    ]
    found = [f.sort("gain_rank")["vector"].to_list() for f in found]
    assert (found[0] == found[1]) == (search == "lazy" or objective == "threshold")


def test_stochastic_search() -> None:
    """Nearly as good as the plain choice, another for each seed, the same for the same."""
    rows = frame(cloud(1500, dimensions=24))
    s = cosine(rows, rows)

    def covered(result: pl.DataFrame) -> float:
        return float(np.maximum(s[:, picked(result)].max(axis=1), 0).sum())

    lazy = select(rows, "facility_location", budget=30)
    drawn = [
        select(rows, "facility_location", budget=30, search="stochastic", epsilon=0.1, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert picked(drawn[0]) == picked(drawn[1]) != picked(drawn[2])
    for result in drawn:
        assert 0.97 * covered(lazy) < covered(result) < covered(lazy)
    sure = select(rows, "facility_location", budget=30, search="stochastic", epsilon=1e-15)
    assert picked(sure) == picked(lazy)  # ln(1 / epsilon) exceeds the number of picks


def test_missing_scores_are_not_zero() -> None:
    rows = frame(cloud(30)).with_columns(
        score=pl.when(pl.int_range(30) < 10).then(None).otherwise(-1.0)
    )
    for objective in ("threshold", "facility_location", "k_center"):
        result = select(rows, objective, budget=30, by="score", threshold=2.0)
        missing = result.filter(pl.col("drop_reason") == "missing_score")
        assert missing["id"].to_list() == rows["id"].head(10).to_list()
        assert json.loads(missing["evidence"][0]) == {"by": "score"}
        assert len(picked(result)) == 20
    nothing = rows.with_columns(score=pl.lit(None, pl.Float64))
    assert picked(select(nothing, "facility_location", budget=5, by="score")) == []


def test_held_rows_are_avoided_and_named() -> None:
    copy = POOL.head(45).with_columns(id="held" + pl.col("id"))
    for objective in ("threshold", "k_center", "facility_location", "conditional_gain"):
        result = select(POOL, objective, budget=20, held=copy)
        assert min(picked(result)) >= 45
        named = [json.loads(e).get("nearest") for e in result["evidence"].head(30) if e]
        named = [name for name in named if name]
        assert named == [f"held{i}" for i in POOL["id"].head(30)][: len(named)] or (
            objective == "threshold"
        )


@pytest.mark.parametrize("objective", [o for o in EVERY if o != "mutual_information"])
def test_held_rows_of_the_pool_are_not_picked_again(objective: str) -> None:
    held = POOL[[3, 30, 60]]
    result = select(POOL, objective, budget=20, held=held)
    told = result.filter(pl.col("drop_reason") == "held")["id"]
    assert set(told) == set(held["id"])
    assert result["drop_reason"].is_null().sum() == 20


@pytest.mark.parametrize("objective", ["facility_location", "conditional_gain"])
def test_infinite_scores_are_refused(objective: str) -> None:
    rows = POOL.with_columns(score=pl.lit(float("inf")))
    with pytest.raises(UserError, match="infinite for 90 rows"):
        select(rows, objective, budget=3, by="score")


def test_infinite_scores_have_a_place_in_an_order() -> None:
    """Where nothing is added to the score, infinity is the best or the worst one."""
    rows = POOL.with_columns(score=pl.when(pl.int_range(90) == 40).then(np.inf).otherwise(-np.inf))
    assert picked(select(rows, "k_center", budget=5, by="score", first="score"))[0] == 40
    assert picked(select(rows, "threshold", budget=5, threshold=1.0))[:2] == [40, 0]


def test_mutual_information_stays_near_the_target() -> None:
    asked = cosine(POOL, TARGET).max(axis=1)
    for represent in ("rows", "target"):
        chosen = picked(
            select(POOL, "mutual_information", budget=15, represent=represent, relevance=3.0)
        )
        plain = picked(select(POOL, "facility_location", budget=15))
        assert (asked[chosen].mean() >= asked[plain].mean()) or represent == "rows"


@pytest.mark.parametrize(
    ("objective", "options", "told"),
    [
        ("mutual_information", {"target": None}, "needs the edge target"),
        ("facility_location", {"target": TARGET}, "does not read the edge target"),
        ("mutual_information", {"target": TARGET.head(0)}, "no rows"),
        ("conditional_gain", {"held": None}, "needs the edge held"),
        ("k_center", {"held": frame(cloud(3, dimensions=5))}, "differ in length"),
        ("k_center", {"held": HELD.with_columns(vector=pl.lit(None))}, "vector"),
    ],
)
def test_mistakes_in_what_is_connected(objective: str, options: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        select(POOL, objective, budget=3, **options)


def test_vectors_that_are_none() -> None:
    for value in (float("nan"), float("inf")):
        bad = POOL.with_columns(vector=pl.lit([value] * 6, pl.List(pl.Float32)))
        with pytest.raises(UserError, match="not finite"):
            select(bad, "k_center", budget=3)


def test_held_may_be_empty() -> None:
    for objective in EVERY:
        with_empty = select(POOL, objective, budget=9, held=HELD.head(0))
        if objective != "conditional_gain":
            assert with_empty.equals(select(POOL, objective, budget=9))
    plain = select(POOL, "facility_location", budget=9)
    assert with_empty.equals(plain)


def test_mistakes_are_told_before_anything_runs() -> None:
    check = diverse.__stage__.check  # type: ignore[attr-defined]
    good: dict[str, Any] = {"objective": "facility_location", "budget": 5, "by": "score"}
    check(options_of(diverse, **good))
    check(options_of(diverse, objective="threshold", by="score"))
    for change in (
        {"objective": "threshold", "by": None},
        {"objective": "k_center", "by": None, "first": "score"},
        {"objective": "graph_cut"},
        {"budget": None},
        {"budget": -1},
        {"objective": "graph_cut", "by": None, "similarity": "euclidean"},
        {"weight": 1.5},
        {"epsilon": 0.0},
        {"penalty": -1.0},
        {"relevance": -1.0},
        {"by": "score +"},
    ):
        with pytest.raises(UserError):
            check(options_of(diverse, **good | change))


def test_what_it_reads() -> None:
    reads = diverse.__stage__.reads  # type: ignore[attr-defined]
    options = SimpleNamespace(vector="v", by="ifd * 2", unit="tokens", tokens="n")
    assert reads(options) == {"rows": ["v", "ifd", "n"], "target": ["v"], "held": ["v"]}
