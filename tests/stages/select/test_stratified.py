"""select.stratified: quotas that sum, strata of every kind, the best or a random few of each."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages._selection.budget import Quota
from stages._selection.groups import groups_of
from stages.select.stratified import stratified
from tests.stages._selection.binding import problems_of

CTX = Context.__new__(Context)  # the stage computes only
QUOTAS = st.sampled_from(["uniform", "proportional", "sqrt"])
KINDS = ("code", "maths", "prose", None)


def pool(rows: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    chance = [0.6, 0.25, 0.1, 0.05]
    score = [None if x < -1.5 else float(x) for x in rng.normal(size=rows)]
    return pl.DataFrame(
        {
            "id": sorted(f"{x:08x}" for x in rng.choice(2**32, rows, replace=False)),
            "kind": pl.Series([KINDS[i] for i in rng.choice(4, rows, p=chance)], dtype=pl.String),
            "ifd": pl.Series(score, dtype=pl.Float64),
            "tokens": rng.integers(1, 40, rows),
        }
    )


def kept(data: pl.DataFrame, result: pl.DataFrame) -> pl.DataFrame:
    return data.with_columns(result).filter(pl.col("drop_reason").is_null())


@given(
    st.integers(0, 90),
    st.integers(0, 120),
    QUOTAS,
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 3),
)
def test_budget_in_rows_is_met_exactly(
    rows: int, budget: int, quota: Quota, minimum: int, best: bool, seed: int
) -> None:
    data = pool(rows, seed)
    result = stratified(
        CTX, data, group="kind", budget=budget, quota=quota, min_quota=minimum,
        score="ifd" if best else None, seed=seed,
    )  # fmt: skip
    chosen = kept(data, result)
    assert chosen.height == min(rows, budget)
    for name, members in result.group_by("stratum"):
        assert sorted(members["stratum_rank"]) == list(range(1, len(members) + 1))
        selected = chosen.filter(stratum=name[0])
        assert sorted(selected["stratum_rank"]) == list(range(1, len(selected) + 1))
        if budget >= minimum * 4:
            assert len(selected) >= min(minimum, len(members))


@given(st.integers(1, 90), st.integers(0, 2000), QUOTAS, st.integers(0, 3))
def test_budget_in_tokens(rows: int, budget: int, quota: Quota, seed: int) -> None:
    data = pool(rows, seed)
    result = stratified(CTX, data, group="kind", budget=budget, unit="tokens", quota=quota)
    spent = kept(data, result)["tokens"].sum()
    assert spent <= budget
    for line in data.with_columns(result).filter(pl.col("drop_reason").is_not_null()).to_dicts():
        assert line["tokens"] > budget - spent or json.loads(line["evidence"])["quota"] == 0


def test_quotas_follow_the_sizes() -> None:
    data = pl.DataFrame(
        {"id": [f"{i:04d}" for i in range(116)], "n": [1] * 100 + [2] * 16},
    )
    expected = {
        "proportional": {"1": 25, "2": 4},
        "sqrt": {"1": 21, "2": 8},  # 29 in the proportion of 10 to 4
        "uniform": {"1": 15, "2": 14},
    }
    for quota, counts in expected.items():
        result = stratified(CTX, data, group="n", budget=29, quota=quota)  # type: ignore[arg-type]
        assert Counter(kept(data, result)["stratum"]) == counts


def test_weights_by_name() -> None:
    data = pool(300)
    weights = {"code": 2.0, "null": 1.0, "maths": 0.0}
    result = stratified(CTX, data, group="kind", budget=30, weights=weights)
    sizes = Counter(data["kind"].fill_null("null"))
    rest = {"null": min(10, sizes["null"])}
    assert Counter(kept(data, result)["stratum"]) == {"code": 30 - rest["null"], **rest}
    with pytest.raises(UserError, match="poetry"):
        stratified(CTX, data, group="kind", budget=3, weights={"code": 1, "poetry": 1})
    assert stratified(CTX, data.head(0), group="kind", budget=3, weights={"x": 1}).height == 0


def test_the_best_of_each_stratum() -> None:
    data = pool(200)
    for descending in (True, False):
        result = stratified(
            CTX, data, group="kind", budget=60, score="ifd", descending=descending, quota="uniform"
        )
        for _, members in data.with_columns(result).group_by("stratum"):
            order = members.sort(["ifd", "id"], descending=[descending, False], nulls_last=True)
            assert members.sort("stratum_rank")["id"].to_list() == order["id"].to_list()


@settings(max_examples=20)
@given(st.randoms(), st.integers(0, 9))
def test_the_order_of_the_rows_does_not_matter(random: Random, seed: int) -> None:
    data = pool(80)
    turned = data.sample(fraction=1, shuffle=True, seed=random.randrange(99))
    chosen = [
        set(kept(f, stratified(CTX, f, group="kind", budget=33, seed=seed))["id"])
        for f in (data, turned)
    ]
    assert chosen[0] == chosen[1]


def test_evidence_and_types() -> None:
    data = pool(50)
    result = stratified(CTX, data, group="kind", budget=9)
    for line in result.filter(pl.col("drop_reason") == "not_selected").to_dicts():
        evidence = json.loads(line["evidence"])
        assert (evidence["stratum"], evidence["rank"]) == (line["stratum"], line["stratum_rank"])
        assert evidence["rank"] > evidence["quota"]
    for rows in (data, data.head(0)):
        schema = stratified(CTX, rows, group="kind", budget=9).schema
        assert (schema["stratum"], schema["stratum_rank"]) == (pl.String, pl.Int32)


def test_groups_of_every_kind() -> None:
    data = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "number": [1, 2, None, 2],
            "flag": [True, None, False, True],
            "score": [0.5, float("nan"), 2.5, 2.0],
            "tags": [["x", "y"], ["x", "x"], [], None],
            "origins": [
                [{"source": "web", "index": 1}, {"source": "books", "index": 0}],
                [{"source": "web", "index": 2}],
                [],
                [{"source": "web", "index": 3}],
            ],
        }
    )

    def labels(group: str, named: tuple[str, ...] = ()) -> list[str]:
        return groups_of(data, group, named).labels().to_list()

    assert labels("number") == ["1", "2", "null", "2"]
    assert labels("flag") == ["true", "null", "false", "true"]
    assert labels("number > 1") == ["false", "true", "null", "true"]
    assert labels("floor(score)") == ["0.0", "null", "2.0", "2.0"]
    assert labels("CASE WHEN number < 2 THEN 'few' END") == ["few", "null", "null", "null"]
    assert labels("source") == ["books", "web", "null", "web"]
    assert labels("tags") == ["y", "x", "null", "null"]  # the rarest of a row's tags
    assert labels("tags", ("x",)) == ["x", "x", "null", "null"]  # of those asked for
    with pytest.raises(UserError, match="must give texts"):
        labels("origins")
    with pytest.raises(UserError, match="must give texts"):
        labels("number || missing")


GOOD = {"group": "kind", "budget": 3}


def test_options_that_are_accepted() -> None:
    for change in ({}, {"score": "ifd * 2"}, {"weights": {"a": 1.0}}, {"quota": "sqrt"}):
        assert problems_of("select.stratified", **GOOD | change) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"group": "kind +"}, "group: group must be a column or an SQL expression over columns"),
        ({"score": "ifd +"}, "score: score must be a column or an SQL expression over columns"),
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        ({"min_quota": -1}, "min_quota: min_quota must be at least 0, got -1"),
        ({"weights": {"a": -1.0}}, "weights.a: weights.a must be at least 0, got -1.0"),
        ({"weights": {"a": 0.0}}, "weights: weights must be above 0 for at least one group"),
        ({"weights": {}}, "weights: weights must be above 0 for at least one group"),
        ({"weights": {"a": 1.0}, "quota": "sqrt"}, "quota: quota must be left out with weights"),
        ({"score": "ifd", "seed": 1}, "seed: seed must be left out with a score"),
        ({"descending": False}, "descending: descending must be left out without a score"),
        ({"token_column": "n"}, "token_column: token_column must be left out with unit: rows"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(change: dict[str, Any], problem: str) -> None:
    (message,) = problems_of("select.stratified", **GOOD | change)
    assert message.startswith(problem)
