"""Budgets in rows and tokens at once: whichever is met first, for every stage with a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.recipe.discovery import available, find
from pipeline.stage import DataKind
from stages._selection.amounts import Budget, RowsAndTokens
from tests.stages._selection.binding import bound, problems_of
from tests.stages._selection.test_budget import by_fractions

COLUMNS = {
    "id": pl.String, "tokens": pl.Int64, "kind": pl.String, "score": pl.Float64,
    "tags": pl.List(pl.String), "vector": pl.List(pl.Float32),
}  # fmt: skip
ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from("xyz"), st.integers(0, 5), st.integers(1, 7)),
    max_size=24,
)
BOTH = st.builds(lambda r, t: {"rows": r, "tokens": t}, st.integers(0, 12), st.integers(0, 60))
AMPLE = {"rows": 1000, "tokens": 10**6}

ONE_BUDGET = {
    "select.random": ({}, "random_rank"),
    "select.top": ({"score": "score"}, "top_rank"),
    "select.coverage": ({}, "coverage_rank"),
    "select.target": ({"method": "nearest"}, "target_rank"),
    "select.target ": ({"method": {"name": "nearest", "order": "turns"}}, "target_rank"),
    "select.target  ": ({"method": "gaps"}, "target_rank"),
    "select.diverse": ({"method": "k_center"}, "gain_rank"),
    "select.diverse ": ({"method": "facility_location"}, "gain_rank"),
    "select.diverse  ": (
        {"method": {"name": "threshold", "threshold": 0.9}, "score": "score"}, "gain_rank",
    ),
}  # fmt: skip
"""Stages that spend one budget in an order, with the column that says it."""

QUOTAS: dict[str, tuple[dict[str, Any], str, str]] = {
    "select.stratified": ({"group": "kind", "score": "score"}, "stratum", "stratum_rank"),
    "select.stratified ": (
        {"group": "kind", "weights": {"x": 3, "y": 1}}, "stratum", "stratum_rank",
    ),
    "mix.weights": (
        {"group": "kind", "method": {"name": "fixed", "weights": {"x": 2, "y": 1}}},
        "mix_group", "mix_rank",
    ),
    "select.clusters": ({"n_clusters": 3, "score": "score"}, "cluster", "cluster_rank"),
}  # fmt: skip


def pool(drawn: list[tuple[int, str, int, int]], kinds: str = "") -> pl.DataFrame:
    rows = [
        (f"{i:04x}", tokens, kind, float(score), [kind, str(score)], [1.0, angle / 3])
        for i, (tokens, kind, score, angle) in enumerate(
            [*drawn, *((1, kind, 0, 1) for kind in kinds)]
        )
    ]
    return pl.DataFrame(rows, COLUMNS, orient="row")


def selected(name: str, rows: pl.DataFrame, folder: Path, **raw: Any) -> pl.DataFrame:
    """The rows with the stage's columns, and whether each is kept."""
    stage = find(name.strip())
    options = vars(bound(stage.name, **raw))
    edge = {"nearest": "target", "gaps": "held"}.get(getattr(options.get("method"), "name", ""))
    edges = {"rows": rows} | ({edge: rows.head(3)} if edge else {})
    result = stage.call(Context.scratch(folder), edges, options)
    columns = result.with_columns(kept=result["drop_reason"].is_null())
    return pl.concat([rows, columns], how="horizontal")


@pytest.mark.parametrize("name", ONE_BUDGET)
def test_the_first_rows_of_what_the_tokens_allow(name: str, tmp_path: Path) -> None:
    options, rank = ONE_BUDGET[name]

    @settings(max_examples=12, deadline=None)
    @given(ROWS, BOTH)
    def check(drawn: list[Any], both: dict[str, int]) -> None:
        rows = pool(drawn, "xyz")
        tokens = {"budget": both["tokens"], "unit": "tokens"}
        by_tokens = selected(name, rows, tmp_path, **options, **tokens).filter("kept")
        result = selected(name, rows, tmp_path, **options, budget=both).filter("kept")
        assert result["id"].to_list() == sorted(by_tokens.sort(rank)["id"].head(both["rows"]))

    check()


@pytest.mark.parametrize("name", [*ONE_BUDGET, *QUOTAS])
def test_an_ample_amount_in_one_unit_leaves_the_budget_in_the_other(
    name: str, tmp_path: Path
) -> None:
    options = (ONE_BUDGET | QUOTAS)[name][0]
    drawn = [(i * 7 % 10, "xyz"[i % 3], i % 6, 1 + i % 7) for i in range(40)]
    rows = pool(drawn)
    for budget in (0, 5, 17, 70):
        for unit in ("rows", "tokens"):
            one = selected(name, rows, tmp_path, **options, budget=budget, unit=unit)
            both = selected(name, rows, tmp_path, **options, budget={**AMPLE, unit: budget})
            if name in QUOTAS and unit == "rows":
                # An ample budget of tokens is split, too, and never splits too little.
                assert both["kept"].sum() == one["kept"].sum()
            else:
                assert both["kept"].to_list() == one["kept"].to_list()


def by_loop(
    rows: pl.DataFrame, group: str, rank: str, both: dict[str, int], weights: list[int] | None
) -> set[str]:
    """Quotas in both units, filled by rank; then what remains, by rank, then by group."""
    labels, names = rows[group].to_list(), sorted(rows[group].unique())
    costs = {"rows": [1] * len(rows), "tokens": rows["tokens"].to_list()}
    quota, open_groups = {}, set(names)
    for unit, budget in both.items():
        sizes = dict.fromkeys(names, 0)
        for label, cost in zip(labels, costs[unit], strict=True):
            sizes[label] += cost
        numbers = by_fractions(budget, [*sizes.values()], weights or [*sizes.values()])
        quota[unit] = dict(zip(names, numbers, strict=True))
        open_groups &= {name for name, number in quota[unit].items() if number}
    left, kept = dict(both), []
    order = sorted(range(len(rows)), key=lambda i: (rows[rank][i], labels[i]))
    eligible = [i for i in order if labels[i] in open_groups]
    for of_groups in (True, False):
        for i in eligible:
            room = {u: quota[u][labels[i]] if of_groups else left[u] for u in both}
            if i not in kept and all(costs[u][i] <= room[u] for u in both):
                kept.append(i)
                for u in both:
                    quota[u][labels[i]] -= costs[u][i]
                    left[u] -= costs[u][i]
    return {rows["id"][i] for i in kept}


@given(ROWS, BOTH)
def test_strata_are_filled_as_by_a_loop(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], both: dict[str, int]
) -> None:
    rows, folder = pool(drawn), tmp_path_factory.getbasetemp()
    options, group, rank = QUOTAS["select.stratified"]
    result = selected("select.stratified", rows, folder, **options, budget=both)
    assert set(result.filter("kept")["id"]) == by_loop(result, group, rank, both, None)
    rows = pool(drawn, "xyz")
    options, group, rank = QUOTAS["select.stratified "]
    result = selected("select.stratified", rows, folder, **options, budget=both)
    assert set(result.filter("kept")["id"]) == by_loop(result, group, rank, both, [3, 1, 0])


@pytest.mark.parametrize("name", QUOTAS)
def test_nothing_is_exceeded_and_quotas_are_told_in_both_units(name: str, tmp_path: Path) -> None:
    options, group, _ = QUOTAS[name]
    rng = np.random.default_rng(0)
    drawn = [
        (int(t), "xyz"[k], int(s), int(a))
        for t, k, s, a in zip(*(rng.integers(0, n, 90) for n in (10, 3, 6, 7)), strict=True)
    ]
    for both in ({"rows": 20, "tokens": 60}, {"rows": 10, "tokens": 300}, {"rows": 0, "tokens": 9}):
        result = selected(name, pool(drawn), tmp_path, **options, budget=both)
        kept = result.filter("kept")
        assert len(kept) <= both["rows"]
        assert kept["tokens"].sum() <= both["tokens"]
        quota = {
            label: json.loads(evidence)["quota"]
            for label, evidence in result.filter(~pl.col("kept")).select(group, "evidence").rows()
        }
        for unit, budget in both.items():
            assert sum(parts[unit] for parts in quota.values()) <= budget
        if name == "mix.weights":
            (entry, *_) = json.loads((tmp_path / "files" / "budgets.json").read_text())
            assert set(entry["quota"]) == set(entry["kept"]) == {"rows", "tokens"}


def test_groups_of_top_have_the_budget_each(tmp_path: Path) -> None:
    drawn = [(i * 7 % 10, "xyz"[i % 3], i % 6, 1) for i in range(40)]
    both = {"rows": 3, "tokens": 14}
    rows = pool(drawn)
    grouped = selected("select.top", rows, tmp_path, score="score", group="kind", budget=both)
    for kind in "xyz":
        alone = selected("select.top", rows.filter(kind=kind), tmp_path, score="score", budget=both)
        assert (
            grouped.filter("kept", kind=kind)["id"].to_list()
            == alone.filter("kept")["id"].to_list()
        )


def test_rounds_and_car_stay_within_both(tmp_path: Path) -> None:
    drawn = [(i * 7 % 10, "x", i % 6, 1 + i % 7) for i in range(60)]
    both = {"rows": 11, "tokens": 40}
    rounds = {"name": "quota", "round_weight": "score", "rounds": 3}
    for rule in (rounds, {"name": "car", "num_per_cluster": 2}):
        options = {"n_clusters": 4, "score": "score", "budget": both, "rule": rule}
        kept = selected("select.clusters", pool(drawn), tmp_path, **options).filter("kept")
        assert 5 < len(kept) <= 11
        assert kept["tokens"].sum() <= 40


def stages_with_a_budget() -> Iterator[str]:
    for name in available():
        stage = find(name)
        # Pairs are counted alone: they have no column of tokens.
        of_records = stage.edges and stage.edges[0].kind is DataKind.RECORDS
        if of_records and any(option.name == "budget" for option in stage.options):
            yield name


@pytest.mark.parametrize("name", stages_with_a_budget())
def test_every_stage_with_a_budget_takes_both(name: str) -> None:
    assert name in {key.strip() for key in (*ONE_BUDGET, *QUOTAS)}
    declared = {option.name: option for option in find(name).options}
    assert declared["budget"].annotation in (Budget, Budget | None)
    assert "token_column" in declared
    options = next(v[0] for k, v in (ONE_BUDGET | QUOTAS).items() if k.strip() == name)
    both = {"rows": 3, "tokens": 9}
    assert problems_of(name, **options, budget=both, token_column="length") == []
    (message,) = problems_of(name, **options, budget=both, unit="tokens")
    assert message.startswith("unit: unit must be left out with a budget in rows and tokens")
    for wrong in ({"rows": 3}, {"rows": 3, "tokens": -1}, {**both, "words": 3}, "many", 1.5):
        assert problems_of(name, **options, budget=wrong)


@pytest.mark.parametrize(
    ("name", "option"), [("select.stratified", "min_quota"), ("mix.weights", "max_per_group")]
)
def test_amounts_are_in_the_units_of_the_budget(name: str, option: str, tmp_path: Path) -> None:
    options = QUOTAS[name][0]
    both = {"rows": 3, "tokens": 9}
    assert problems_of(name, **options, budget=both, **{option: both}) == []
    (message,) = problems_of(name, **options, budget=both, **{option: 3})
    assert "must be in rows and tokens as the budget is, got 3" in message
    (message,) = problems_of(name, **options, budget=3, **{option: both})
    assert "must be a number as the budget is" in message
    assert bound(name, **options, budget=both).budget == RowsAndTokens(**both)
