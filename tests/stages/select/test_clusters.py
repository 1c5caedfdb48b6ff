"""select.clusters: exact budgets, the best of every cluster, coverage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from stages._selection.budget import Quota
from stages.select.clusters import Car, KMeans, QuotaRule, Spectral, clusters
from stages.select.random import random
from tests.stages._selection.binding import bound, problems_of

ROOT = Path(__file__).parents[3]
CTX = Context.__new__(Context)  # the stage computes only
UNIFORM = QuotaRule(quota="uniform")
REWEIGHED = QuotaRule(quota="uniform", round_weight="gap")
QUOTAS = st.sampled_from(["uniform", "proportional", "sqrt"])


def pool(rows: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(9, 6))[rng.integers(9, size=rows)]
    vectors = (places + 0.2 * rng.normal(size=(rows, 6))).astype(np.float32)
    score = [None if x < -1.5 else float(x) for x in rng.normal(size=rows)]
    return pl.DataFrame(
        {
            "id": sorted(f"{x:08x}" for x in rng.choice(2**32, rows, replace=False)),
            "vector": pl.Series(vectors).arr.to_list(),
            "ifd": pl.Series(score, dtype=pl.Float64),
            "tokens": rng.integers(0, 40, rows),
        }
    )


@given(st.integers(1, 120), st.integers(0, 150), QUOTAS, st.integers(0, 3))
def test_budget_in_rows_is_met_exactly(rows: int, budget: int, quota: Quota, seed: int) -> None:
    result = clusters(
        CTX, pool(rows, seed), budget=budget, rule=QuotaRule(quota=quota), score="ifd"
    )
    assert result["drop_reason"].null_count() == min(rows, budget)
    assert (result["drop_reason"].is_null() == result["evidence"].is_null()).all()


@given(st.integers(1, 120), st.integers(0, 3000), QUOTAS, st.integers(0, 3))
def test_budget_in_tokens(rows: int, budget: int, quota: Quota, seed: int) -> None:
    data = pool(rows, seed)
    result = clusters(
        CTX, data, budget=budget, unit="tokens", rule=QuotaRule(quota=quota), score="ifd"
    )
    kept = result["drop_reason"].is_null()
    spent = data["tokens"].filter(kept).sum()
    assert spent <= budget
    assert (data["tokens"].filter(~kept) > budget - spent).all()  # none left would fit


def test_ranks_are_those_of_the_score_within_each_cluster() -> None:
    data = pool(400)
    result = pl.concat([data, clusters(CTX, data, budget=40, score="ifd")], how="horizontal")
    for _, members in result.group_by("cluster"):
        expected = members.sort(["ifd", "id"], descending=[True, False], nulls_last=True)
        assert members.sort("cluster_rank")["id"].to_list() == expected["id"].to_list()
        assert sorted(members["cluster_rank"]) == list(range(1, len(members) + 1))
        kept = members.filter(pl.col("drop_reason").is_null())
        assert sorted(kept["cluster_rank"]) == list(range(1, len(kept) + 1))
    assert result["cluster"].n_unique() == 14  # the root of 400 / 2, rounded down


def test_evidence_names_cluster_rank_and_quota() -> None:
    result = clusters(CTX, pool(300), budget=50, score="ifd", rule=UNIFORM)
    for line in result.filter(pl.col("drop_reason") == "not_selected").iter_rows(named=True):
        evidence = json.loads(line["evidence"])
        assert (evidence["cluster"], evidence["rank"]) == (line["cluster"], line["cluster_rank"])
        assert evidence["rank"] > evidence["quota"]


def test_uniform_quota_takes_one_of_every_cluster() -> None:
    result = clusters(CTX, pool(300), budget=8, n_clusters=8, score="ifd", rule=UNIFORM)
    kept = result.filter(pl.col("drop_reason").is_null())
    assert sorted(kept["cluster"]) == list(range(8))
    assert kept["cluster_rank"].to_list() == [1] * 8


def test_without_a_score_the_rows_nearest_to_the_centre_are_kept() -> None:
    data = pool(200)
    result = clusters(CTX, data, budget=1, n_clusters=1)
    vectors = np.array(data["vector"].to_list())
    gaps = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    assert result["cluster_rank"].to_list() == (np.argsort(np.argsort(gaps)) + 1).tolist()


def test_descending_false_keeps_the_smallest_scores() -> None:
    data = pool(100)
    kept = clusters(CTX, data, budget=10, n_clusters=1, score="ifd", descending=False)[
        "drop_reason"
    ].is_null()
    assert sorted(data["ifd"].filter(kept)) == data["ifd"].drop_nulls().sort().head(10).to_list()


def test_types_and_empty_input() -> None:
    expected = {"cluster": pl.Int32, "cluster_rank": pl.Int32}
    for rows in (pool(20), pool(20).head(0)):
        result = clusters(CTX, rows, budget=5)
        assert len(result) == len(rows)
        assert dict(result.select("cluster", "cluster_rank").schema) == expected


CAR = {"rule": "car", "score": "ifd"}


def quota_rule(**options: Any) -> dict[str, Any]:
    return {"rule": {"name": "quota", **options}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": "ifd +"}, "score: score must be a column or an SQL expression"),
        (
            quota_rule(quota_weight="1"),
            "rule.quota_weight: rule.quota_weight must be a column or an SQL expression",
        ),
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        ({"budget": None}, "budget: budget must be given with rule: quota, got null"),
        ({"n_clusters": 0}, "n_clusters: n_clusters must be at least 1, got 0"),
        ({"pca": 0.0}, "pca: pca must be above 0, got 0.0"),
        ({"num_best": 5}, "num_best: 'num_best' is an option of rule: car"),
        (quota_rule(num_best=5), "rule.num_best: rule (quota) has no option 'num_best'"),
        (quota_rule(rounds=2), "rule.rounds: rule.rounds must be 1 without round_weight, got 2"),
        (
            quota_rule(update="softmax"),
            "rule.update: rule.update must be left out without round_weight, got 'softmax'",
        ),
        (
            {**quota_rule(sample=True), "score": "ifd", "descending": False},
            "descending: descending must be left out with sample: true, got false",
        ),
        ({"descending": False}, "descending: descending must be left out without a score"),
        ({"rule": "car"}, "score: score must be given with rule: car, got null"),
        (
            CAR | {"rule": {"name": "car", "rounds": 2}},
            "rule.rounds: rule (car) has no option 'rounds'",
        ),
        (
            CAR | {"rule": {"name": "car", "num_best": -1}},
            "rule.num_best: rule.num_best must be at least 0, got -1",
        ),
        (
            CAR | {"budget": None, "unit": "tokens"},
            "unit: unit must be left out without a budget, got 'tokens'",
        ),
        (
            {"method": {"name": "kmeans", "n_neighbors": 3}},
            "method.n_neighbors: method (kmeans) has no option 'n_neighbors'",
        ),
        ({"token_column": "n"}, "token_column: token_column must be left out with unit: rows"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(change: dict[str, Any], problem: str) -> None:
    (message,) = problems_of("select.clusters", **{"budget": 3} | change)
    assert message.startswith(problem)


def test_options_that_are_accepted() -> None:
    for change in (
        {},
        CAR | {"budget": None},
        CAR | {"rule": {"name": "car", "num_best": 0}},
        {"method": {"name": "spectral", "n_neighbors": 3}, "pca": 1.0},
        quota_rule(quota="uniform", round_weight="gap", update="softmax", rounds=3),
    ):
        assert problems_of("select.clusters", **{"budget": 3} | change) == []


def test_it_reads_and_adds_what_its_options_need() -> None:
    stage = find("select.clusters")
    options = bound("select.clusters", budget=3)
    assert list(stage.reads("rows", options)) == ["vector"]
    assert list(stage.reads("held", options)) == []
    reweighed = quota_rule(round_weight="gold - gap")
    options = bound("select.clusters", budget=3, score="ifd", **reweighed)
    assert list(stage.reads("rows", options)) == ["vector", "ifd"]
    assert set(stage.reads("held", options)) == {"cluster_round", "gold", "gap"}
    assert list(stage.adds(options, {})) == ["cluster", "cluster_rank", "cluster_round"]
    reweighed = quota_rule(round_weight="gold - gap", rounds=2)
    options = bound("select.clusters", budget=3, unit="tokens", score="ifd", **reweighed)
    assert set(stage.reads("rows", options)) == {"vector", "ifd", "gold", "gap", "tokens"}


def kept_of(result: pl.DataFrame) -> pl.Series:
    return result["drop_reason"].is_null()


def groups(sizes: list[int], values: list[float]) -> pl.DataFrame:
    """Far-apart groups of rows, every row of a group with the group's value as `gap`."""
    kind = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(0).normal(size=(len(kind), 2))
    vectors = (np.stack([100.0 * kind, 100.0 * kind**2], axis=1) + noise).astype(np.float32)
    return pl.DataFrame(
        {
            "id": [f"{row:08x}" for row in range(len(kind))],
            "vector": pl.Series(vectors).arr.to_list(),
            "kind": kind,
            "gap": np.array(values)[kind],
            "tokens": np.full(len(kind), 10),
        }
    )


def kept_per_kind(data: pl.DataFrame, result: pl.DataFrame) -> list[int]:
    """How many rows of each group were kept."""
    kinds = data["kind"].filter(kept_of(result)).to_numpy()
    return np.bincount(kinds, minlength=data["kind"].n_unique()).tolist()


def test_quota_by_a_column() -> None:
    """PASER's shares: uniform quotas times the clusters' means; sizes times means otherwise."""
    data = groups([40, 40, 20], [1.0, 3.0, 4.0])
    quotas: dict[Quota, list[int]] = {"uniform": [5, 15, 20], "proportional": [7, 20, 13]}
    for quota, expected in quotas.items():
        rule = QuotaRule(quota=quota, quota_weight="gap")
        result = clusters(CTX, data, budget=40, n_clusters=3, rule=rule)
        assert kept_per_kind(data, result) == expected
    missing = data.with_columns(gap=pl.when(pl.col("kind") != 2).then("gap"))
    rule = replace(UNIFORM, quota_weight="gap")
    result = clusters(CTX, missing, budget=36, n_clusters=3, rule=rule)
    assert kept_per_kind(data, result) == [6, 18, 12]  # without a value: the mean of 1 and 3
    rule = replace(UNIFORM, quota_weight="gap - 1")
    result = clusters(CTX, data, budget=40, n_clusters=3, rule=rule)
    assert kept_per_kind(data, result)[0] == 0
    for weight in ("gap - 2", "gap * 0"):
        with pytest.raises(UserError, match="quota_weight"):
            clusters(CTX, data, budget=40, n_clusters=3, rule=QuotaRule(quota_weight=weight))


def test_rounds_multiply_the_weights_by_the_mean_scores() -> None:
    """Equation 6 of arXiv:2409.11378 by hand: weights 1 : 1 : 1, 1 : 2 : 1, 1 : 4 : 1."""
    data = groups([50, 50, 50], [1.0, 2.0, 1.0])
    options: dict[str, Any] = {"n_clusters": 3, "rule": replace(REWEIGHED, rounds=3)}
    result = clusters(CTX, data, budget=72, **options)
    assert kept_per_kind(data, result) == [8 + 6 + 4, 8 + 12 + 16, 8 + 6 + 4]
    in_round = result["cluster_round"]
    assert in_round.dtype == pl.Int32
    assert in_round.is_null().equals(~kept_of(result))
    assert in_round.drop_nulls().value_counts().sort("cluster_round")["count"].to_list() == [24] * 3
    spent = clusters(CTX, data, budget=725, unit="tokens", **options)
    assert kept_per_kind(data, spent) == kept_per_kind(data, result)


def test_softmax_replaces_the_weights() -> None:
    data = groups([50, 50], [0.0, -float(np.log(3))])
    rule = replace(REWEIGHED, rounds=3)
    softmax = replace(rule, update="softmax")
    result = clusters(CTX, data, budget=72, n_clusters=2, rule=softmax)
    assert kept_per_kind(data, result) == [48, 24]
    with pytest.raises(UserError, match="round_weight must be 0 or more"):
        clusters(CTX, data, budget=72, n_clusters=2, rule=rule)


def test_a_round_of_its_own_continues_those_before() -> None:
    """Three stages joined by `held` choose what one stage with three rounds does."""
    data = groups([50, 50, 50], [1.0, 2.0, 1.0])
    options: dict[str, Any] = {"n_clusters": 3, "rule": REWEIGHED}
    held = None
    for _ in range(3):
        result = clusters(CTX, data, held, budget=24, **options)
        if held is not None:
            dropped = data["id"].filter(result["drop_reason"] == "held")
            assert sorted(dropped) == sorted(held["id"])
        new = pl.concat([data, result], how="horizontal").filter(kept_of(result))
        assert len(new) == 24
        held = new if held is None else pl.concat([held, new])
    assert held is not None
    rule = replace(REWEIGHED, rounds=3)
    at_once = clusters(CTX, data, budget=72, n_clusters=3, rule=rule)
    assert sorted(held["id"]) == sorted(data["id"].filter(kept_of(at_once)))
    assert held.sort("id")["cluster_round"].equals(at_once["cluster_round"].drop_nulls())


def test_scores_of_held_rows_may_be_missing() -> None:
    data = groups([50, 50, 50], [1.0, 3.0, 1.0])
    options: dict[str, Any] = {"n_clusters": 3, "rule": REWEIGHED}
    first = clusters(CTX, data, budget=6, **options)
    held = pl.concat([data, first], how="horizontal").filter(kept_of(first))
    unscored = held.with_columns(gap=pl.when(pl.col("kind") != 2).then("gap"))
    assert kept_per_kind(data, clusters(CTX, data, unscored, budget=24, **options)) == [4, 12, 8]
    nothing = held.with_columns(gap=pl.lit(None, pl.Float64))
    assert kept_per_kind(data, clusters(CTX, data, nothing, budget=24, **options)) == [8, 8, 8]
    with pytest.raises(UserError, match="must be rows of the pool"):
        clusters(CTX, data.head(100), held, budget=4, **options)


def test_held_rows_without_reweighing_are_passed_over() -> None:
    data = pool(60)
    first = clusters(CTX, data, budget=20, score="ifd")
    rest = clusters(CTX, data, data.filter(kept_of(first)).select("id"), budget=60, score="ifd")
    assert kept_of(rest).equals(~kept_of(first))


def car(data: pl.DataFrame, labels: list[int], best: int, per_cluster: int) -> set[str]:
    """CaR's union in plain Python."""
    scored = [row for row in data.iter_rows(named=True) if row["ifd"] is not None]
    order = sorted(scored, key=lambda row: (-row["ifd"], row["id"]))
    selected = {row["id"] for row in order[:best]}
    cluster = dict(zip(data["id"], labels, strict=True))
    for name in set(labels):
        members = [row["id"] for row in order if cluster[row["id"]] == name]
        selected |= set(members[:per_cluster])
    return selected


@pytest.mark.parametrize(("best", "per_cluster"), [(0, 1), (12, 1), (30, 3), (500, 2)])
def test_car_is_the_union(best: int, per_cluster: int) -> None:
    data = pool(300)
    rule = Car(num_best=best, num_per_cluster=per_cluster)
    result = clusters(CTX, data, rule=rule, score="ifd")
    expected = car(data, result["cluster"].to_list(), best, per_cluster)
    assert set(data["id"].filter(kept_of(result))) == expected
    assert result["cluster"].n_unique() == 12
    why = result["chosen_by"]
    assert why.is_null().equals(~kept_of(result))
    top = data.with_columns(why).sort("ifd", descending=True, nulls_last=True).head(best)
    assert set(top["chosen_by"].drop_nulls()) <= {"score", "both"}
    firsts = result.filter((pl.col("cluster_rank") <= per_cluster) & kept_of(result))
    assert set(firsts["chosen_by"]) <= {"cluster", "both"}


def test_car_with_a_budget() -> None:
    """The clusters' rows come first; the best of all fill the rest."""
    data = pool(300)
    result = clusters(CTX, data, rule=Car(), score="ifd", budget=50)
    assert kept_of(result).sum() == 50
    assert result["chosen_by"].value_counts().sort("chosen_by").rows() == [
        (None, 250), ("cluster", 12), ("score", 38),
    ]  # fmt: skip
    rest = data.filter(result["chosen_by"].fill_null("") != "cluster").sort("ifd", descending=True)
    assert set(rest.drop_nulls("ifd")["id"].head(38)) <= set(data["id"].filter(kept_of(result)))
    few = clusters(CTX, data, rule=Car(), score="ifd", budget=5)
    assert few["chosen_by"].drop_nulls().to_list() == ["cluster"] * 5
    tokens = clusters(CTX, data, rule=Car(), score="ifd", budget=400, unit="tokens")
    assert data["tokens"].filter(kept_of(tokens)).sum() <= 400
    everything = clusters(CTX, data, rule=Car(), score="ifd")  # 1000, more than there are
    assert kept_of(everything).equals(data["ifd"].is_not_null())


def test_car_clusters_in_the_principal_components() -> None:
    """Two columns of noise that hold 4% of the variance do not take part."""
    rng = np.random.default_rng(1)
    wide = rng.choice([-1.0, 1.0], 400)
    vectors = np.stack([wide, 0.1 * rng.normal(size=400), 0.1 * rng.normal(size=400)], axis=1)
    data = pool(400).with_columns(pl.Series("vector", vectors.astype(np.float32)).arr.to_list())
    result = clusters(CTX, data, rule=Car(num_best=0), score="ifd", n_clusters=8)
    assert result["cluster"].n_unique() == 8
    reduced = data.with_columns(pl.Series("vector", wide[:, None].astype(np.float32)))
    expected = clusters(CTX, reduced, rule=Car(num_best=0), score="ifd", n_clusters=2, pca=1.0)
    two = clusters(CTX, data, rule=Car(num_best=0), score="ifd", n_clusters=2)
    assert (two["cluster"] == two["cluster"][0]).equals(
        expected["cluster"] == expected["cluster"][0]
    )


def test_draws_are_in_proportion_to_the_weights() -> None:
    data = groups([4000], [1.0]).with_columns(weight=pl.int_range(4000) % 4)
    drawn: dict[str, Any] = {"budget": 400, "n_clusters": 1, "rule": QuotaRule(sample=True)}
    by_weight = {**drawn, "score": "weight"}
    kept = data["weight"].filter(kept_of(clusters(CTX, data, **by_weight)))
    counts = np.bincount(kept, minlength=4)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 400, np.arange(1, 4) / 6, atol=0.07)
    again = data["weight"].filter(kept_of(clusters(CTX, data, seed=1, **by_weight)))
    assert not kept.equals(again)
    alike = clusters(CTX, data, **drawn)
    spread = np.bincount(data["weight"].filter(kept_of(alike))) / 400
    np.testing.assert_allclose(spread, 0.25, atol=0.08)
    with pytest.raises(UserError, match="must be 0 or more with sample: true"):
        clusters(CTX, data.with_columns(weight=-pl.col("weight")), **by_weight)


@pytest.mark.parametrize("method", [KMeans(), Spectral()], ids=["kmeans", "spectral"])
@pytest.mark.parametrize("values", [0.0, 1.0])
def test_equal_vectors_and_more_clusters_than_rows(
    method: KMeans | Spectral, values: float
) -> None:
    data = pool(12).with_columns(vector=pl.lit([values] * 3, pl.List(pl.Float32)))
    for k in (1, 5, 100):
        result = clusters(
            CTX, data, budget=7, n_clusters=k, method=method, rule=UNIFORM, score="ifd"
        )
        assert kept_of(result).sum() == 7
    result = clusters(CTX, data, budget=1000, method=method)
    assert kept_of(result).all()


@pytest.mark.parametrize("rule", [QuotaRule(), Car()], ids=["quota", "car"])
@pytest.mark.parametrize("method", [KMeans(), Spectral()], ids=["kmeans", "spectral"])
def test_empty_table_and_a_single_row(method: KMeans | Spectral, rule: QuotaRule | Car) -> None:
    options: dict[str, Any] = {"budget": 3, "method": method, "rule": rule, "score": "ifd"}
    if isinstance(rule, QuotaRule):
        options["rule"] = QuotaRule(quota_weight="ifd", round_weight="ifd", rounds=2)
    for rows in (0, 1):
        data = pool(1).head(rows).with_columns(ifd=pl.lit(0.5))
        assert kept_of(clusters(CTX, data, **options)).sum() == rows


def test_what_is_no_vector_is_refused() -> None:
    for value in ([float("nan")] * 6, None):
        wrong = pl.lit(value, pl.List(pl.Float32))
        data = pool(9).with_columns(
            vector=pl.when(pl.int_range(9) == 4).then(wrong).otherwise("vector")
        )
        with pytest.raises(UserError, match="vector"):
            clusters(CTX, data, budget=3)


def test_rows_without_a_score_rank_last_and_zero_does_not() -> None:
    data = pool(30).with_columns(ifd=pl.when(pl.int_range(30) < 10).then(0.0))
    kept = kept_of(clusters(CTX, data, budget=10, n_clusters=1, score="ifd"))
    assert data["ifd"].filter(kept).to_list() == [0.0] * 10
    assert kept_of(clusters(CTX, data, budget=12, n_clusters=1, score="ifd")).sum() == 12


@pytest.fixture(scope="module")
def questions() -> pl.DataFrame:
    """Real exam questions of 57 subjects, with their vectors."""
    from sentence_transformers import SentenceTransformer

    table = pl.read_parquet(ROOT / "data/benchmarks/mmlu_test.parquet").gather_every(3)
    encoder = SentenceTransformer(str(ROOT / "data/models/potion-base-4m"), device="cpu")
    vectors = encoder.encode(table["question"].to_list()).astype(np.float32)
    ids = pl.int_range(pl.len()).cast(pl.String).str.zfill(8)
    return table.select("subject", id=ids, vector=pl.Series(vectors).arr.to_list())


def test_clusters_follow_the_subjects(questions: pl.DataFrame) -> None:
    from sklearn.metrics import normalized_mutual_info_score

    labels = clusters(CTX, questions, budget=0, n_clusters=57)["cluster"]
    assert normalized_mutual_info_score(questions["subject"], labels) > 0.42  # 0.46 measured


def test_every_row_has_a_chosen_row_nearby(questions: pl.DataFrame) -> None:
    """The rows chosen stand for the others better than as many random ones do."""
    vectors = np.array(questions["vector"].to_list(), np.float32)

    def mean_similarity(result: pl.DataFrame) -> float:
        kept = vectors[result["drop_reason"].is_null().to_numpy()]
        return float((vectors @ kept.T).max(axis=1).mean())

    chosen = clusters(CTX, questions, budget=100, n_clusters=100, rule=UNIFORM)
    drawn = [mean_similarity(random(CTX, questions, budget=100, seed=s)) for s in range(5)]
    assert mean_similarity(chosen) > max(drawn) + 0.02


def test_spectral_clusters_follow_the_subjects_too(questions: pl.DataFrame) -> None:
    from sklearn.metrics import normalized_mutual_info_score

    labels = clusters(CTX, questions, budget=0, n_clusters=57, method=Spectral())["cluster"]
    assert normalized_mutual_info_score(questions["subject"], labels) > 0.42


SOURCES = "ag_news|amazon|app_reviews|common_gen|commonsense_qa|gigaword|paws|qasc|ropes|trec|wiqa"
"""Data sets that templates of the labelled pool put into words, of eleven kinds of task."""


@pytest.mark.parametrize("method", [KMeans(), Spectral()], ids=["kmeans", "spectral"])
def test_clusters_find_the_tasks(shared: Path, method: KMeans | Spectral) -> None:
    """Purity on prompts of eleven data sets, each under several templates."""
    from sentence_transformers import SentenceTransformer

    table = pl.read_parquet(shared / "pools/t0_train_templates.parquet")
    table = table.with_columns(source=pl.col("template").str.extract(f"^({SOURCES})"))
    table = table.drop_nulls("source").gather_every(5)
    encoder = SentenceTransformer(str(ROOT / "data/models/potion-base-4m"), device="cpu")
    vectors = encoder.encode(table["prompt"].to_list()).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = pl.int_range(pl.len()).cast(pl.String).str.zfill(8)
    rows = table.select("source", id=ids, vector=pl.Series(vectors).arr.to_list())
    labeled = rows.with_columns(clusters(CTX, rows, budget=0, method=method)["cluster"])
    largest = labeled.group_by("cluster", "source").len().group_by("cluster").agg(pl.max("len"))
    assert largest["len"].sum() / len(rows) > 0.75  # 0.82 measured; 0.13 without clusters
