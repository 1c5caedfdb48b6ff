"""select.clusters: exact budgets, the best of every cluster, coverage."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages._budget import Quota
from stages.select.clusters import clusters
from stages.select.random import random

ROOT = Path(__file__).parents[3]
CTX = Context.__new__(Context)  # the stage computes only
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


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120), st.integers(0, 150), QUOTAS, st.integers(0, 3))
def test_budget_in_rows_is_met_exactly(rows: int, budget: int, quota: Quota, seed: int) -> None:
    result = clusters(CTX, pool(rows, seed), budget=budget, quota=quota, by="ifd")
    assert result["drop_reason"].null_count() == min(rows, budget)
    assert (result["drop_reason"].is_null() == result["evidence"].is_null()).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120), st.integers(0, 3000), QUOTAS, st.integers(0, 3))
def test_budget_in_tokens(rows: int, budget: int, quota: Quota, seed: int) -> None:
    data = pool(rows, seed)
    result = clusters(CTX, data, budget=budget, unit="tokens", quota=quota, by="ifd")
    kept = result["drop_reason"].is_null()
    spent = data["tokens"].filter(kept).sum()
    assert spent <= budget
    assert (data["tokens"].filter(~kept) > budget - spent).all()  # none left would fit


def test_ranks_are_those_of_the_score_within_each_cluster() -> None:
    data = pool(400)
    result = pl.concat([data, clusters(CTX, data, budget=40, by="ifd")], how="horizontal")
    for _, members in result.group_by("cluster"):
        expected = members.sort(["ifd", "id"], descending=[True, False], nulls_last=True)
        assert members.sort("cluster_rank")["id"].to_list() == expected["id"].to_list()
        assert sorted(members["cluster_rank"]) == list(range(1, len(members) + 1))
        kept = members.filter(pl.col("drop_reason").is_null())
        assert sorted(kept["cluster_rank"]) == list(range(1, len(kept) + 1))
    assert result["cluster"].n_unique() == 14  # the root of 400 / 2, rounded down


def test_evidence_names_cluster_rank_and_quota() -> None:
    result = clusters(CTX, pool(300), budget=50, by="ifd", quota="uniform")
    for line in result.filter(pl.col("drop_reason") == "not_selected").iter_rows(named=True):
        told = json.loads(line["evidence"])
        assert (told["cluster"], told["rank"]) == (line["cluster"], line["cluster_rank"])
        assert told["rank"] > told["quota"]


def test_uniform_quota_takes_one_of_every_cluster() -> None:
    result = clusters(CTX, pool(300), budget=8, k=8, by="ifd", quota="uniform")
    kept = result.filter(pl.col("drop_reason").is_null())
    assert sorted(kept["cluster"]) == list(range(8))
    assert kept["cluster_rank"].to_list() == [1] * 8


def test_without_a_score_the_rows_nearest_to_the_centre_are_kept() -> None:
    data = pool(200)
    result = clusters(CTX, data, budget=1, k=1)
    vectors = np.array(data["vector"].to_list())
    gaps = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    assert result["cluster_rank"].to_list() == (np.argsort(np.argsort(gaps)) + 1).tolist()


def test_descending_false_keeps_the_smallest_scores() -> None:
    data = pool(100)
    kept = clusters(CTX, data, budget=10, k=1, by="ifd", descending=False)["drop_reason"].is_null()
    assert sorted(data["ifd"].filter(kept)) == data["ifd"].drop_nulls().sort().head(10).to_list()


def test_types_and_empty_input() -> None:
    expected = {"cluster": pl.Int32, "cluster_rank": pl.Int32}
    for rows in (pool(20), pool(20).head(0)):
        result = clusters(CTX, rows, budget=5)
        assert len(result) == len(rows)
        assert dict(result.select("cluster", "cluster_rank").schema) == expected


def test_mistakes_are_told_before_anything_runs() -> None:
    check = clusters.__stage__.check  # type: ignore[attr-defined]
    good = SimpleNamespace(by=None, budget=3, k=None)
    check(good)
    for change in ({"by": "ifd +"}, {"budget": -1}, {"k": 0}):
        with pytest.raises(UserError):
            check(SimpleNamespace(**{**vars(good), **change}))


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

    found = clusters(CTX, questions, budget=0, k=57)["cluster"]
    assert normalized_mutual_info_score(questions["subject"], found) > 0.42  # 0.46 measured


def test_every_row_has_a_chosen_row_nearby(questions: pl.DataFrame) -> None:
    """The rows chosen stand for the others better than as many random ones do."""
    vectors = np.array(questions["vector"].to_list(), np.float32)

    def mean_similarity(result: pl.DataFrame) -> float:
        kept = vectors[result["drop_reason"].is_null().to_numpy()]
        return float((vectors @ kept.T).max(axis=1).mean())

    chosen = clusters(CTX, questions, budget=100, k=100, quota="uniform")
    drawn = [mean_similarity(random(CTX, questions, budget=100, seed=s)) for s in range(5)]
    assert mean_similarity(chosen) > max(drawn) + 0.02
