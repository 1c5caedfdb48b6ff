"""Rows that were chosen before keep their place, for every selector that spends a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from tests.stages._selection.binding import bound, problems_of
from tests.support.running import planned_steps, pool, run

KEEP = {"keep_chosen": True}
SELECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "select.random": ({}, {}),
    "select.top": ({"score": "score"}, {}),
    "select.top grouped": ({"score": "score", "group": "kind"}, {}),
    "select.stratified": ({"group": "kind"}, {}),
    "select.stratified weighted": (
        {"group": "kind", "weights": {"x": 3, "y": 1, "z": 1}, "score": "score"}, {},
    ),
    "select.coverage": ({}, {}),
    "select.target": ({"method": "nearest"}, KEEP),
    "select.target turns": ({"method": {"name": "nearest", "order": "turns"}}, KEEP),
    "select.target gaps": ({"method": "gaps"}, KEEP),
    "select.diverse": ({"method": "k_center"}, KEEP),
    "select.diverse covering": ({"method": "facility_location"}, KEEP),
    "select.diverse cut": ({"method": "graph_cut"}, KEEP),
    "select.diverse gain": ({"method": "conditional_gain"}, KEEP),
    "select.diverse stochastic": (
        {"method": "facility_location", "optimizer": "stochastic"}, KEEP,
    ),
    "select.diverse threshold": (
        {"method": {"name": "threshold", "threshold": 0.95}, "score": "score"}, KEEP,
    ),
    "select.clusters": ({"n_clusters": 3, "score": "score"}, KEEP),
    "select.clusters car": ({"n_clusters": 3, "score": "score", "rule": "car"}, KEEP),
}  # fmt: skip
"""For each selector its options, and those that only a call with held rows has."""

BUDGETS: list[Any] = [12, 40, {"rows": 10, "tokens": 60}]


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows with a column for every selector; ids of different seeds differ."""
    chance = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": [f"{seed}-{i:03}" for i in chance.permutation(count)],
            "tokens": chance.integers(1, 12, count),
            "kind": chance.choice(list("xyz"), count, p=[0.6, 0.3, 0.1]),
            "score": chance.random(count),
            "tags": [list(chance.choice(list("abcdef"), 2)) for _ in range(count)],
            "vector": pl.Series(chance.normal(size=(count, 4)).tolist(), dtype=pl.List(pl.Float32)),
        }
    ).sort("id")


def select(
    name: str, data: pl.DataFrame, budget: Any, held: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The verdicts, checked: one for each row, with reason and evidence for what is dropped."""
    stage, (options, only_held) = name.split()[0], SELECTORS[name]
    options = {**options, **(only_held if held is not None else {})}
    edges: dict[str, Any] = {"rows": data}
    if held is not None or "gain" in name or "gaps" in name:
        edges["held"] = data.head(0) if held is None else held
    if stage == "select.target" and "gaps" not in name:
        edges["target"] = rows(3, 99)
    ctx = Context(Path(), Path(), Path())
    result = find(stage).call(ctx, edges, vars(bound(stage, **options, budget=budget)))
    assert len(result) == len(data)
    dropped = result.filter(pl.col("drop_reason").is_not_null())
    assert all(isinstance(json.loads(text), dict) for text in dropped["evidence"])
    return result


def kept(data: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    return data.filter(verdicts["drop_reason"].is_null())


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("name", SELECTORS)
def test_held_rows_stay_when_others_come(name: str, budget: Any) -> None:
    for seed in range(2):
        first = rows(60, seed)
        before = kept(first, select(name, first, budget))
        both = pl.concat([first, rows(60, seed + 10)]).sort("id")
        now = kept(both, select(name, both, budget, before.select("id")))
        assert set(before["id"]) <= set(now["id"])
        per_group = 3 if "grouped" in name else 1
        most, tokens = (
            (budget["rows"], budget["tokens"]) if isinstance(budget, dict) else (budget, None)
        )
        assert len(now) <= most * per_group
        assert tokens is None or now["tokens"].sum() <= tokens * per_group
        if tokens is None and "threshold" not in name:
            assert len(now) == len(kept(both, select(name, both, budget)))


@pytest.mark.parametrize("name", SELECTORS)
def test_the_budget_that_held_rows_leave_is_spent(name: str) -> None:
    data = rows(60, 5)
    held = data.sample(4, seed=1)
    now = kept(data, select(name, data, 15, held.select("id")))
    assert set(held["id"]) <= set(now["id"])
    assert len(now) == len(kept(data, select(name, data, 15)))


@pytest.mark.parametrize("name", SELECTORS)
def test_more_held_rows_than_the_budget_allows_leave_no_place_for_others(name: str) -> None:
    data = rows(60, 6).with_columns(kind=pl.lit("x"))
    held = data.sample(30, seed=2)
    if "weighted" in name or "threshold" in name:
        pytest.skip("weights name other groups; similar rows are no two")
    now = kept(data, select(name, data, 10, held.select("id")))
    assert set(now["id"]) <= set(held["id"])
    assert len(now) == 10


@pytest.mark.parametrize("name", SELECTORS)
def test_without_held_rows_nothing_changes(name: str) -> None:
    data, strangers = rows(50, 7), rows(5, 8)
    plain = select(name, data, 12)
    assert select(name, data, 12, data.select("id").head(0)).equals(plain)
    assert select(name, data, 12, strangers.select("id")).equals(plain)


def test_held_rows_outside_the_limits_are_convicted() -> None:
    data = rows(40, 9)
    worst = data.sort("score").head(2)
    stage, options = find("select.top"), bound("select.top", score="score", min_score=0.5, budget=9)
    ctx = Context(Path(), Path(), Path())
    result = stage.call(ctx, {"rows": data, "held": worst.select("id")}, vars(options))
    reasons = result.filter(data["id"].is_in(worst["id"].implode()))["drop_reason"]
    assert reasons.to_list() == ["below_threshold", "below_threshold"]


def test_diverse_picks_the_rest_given_the_held_rows() -> None:
    """k_center with held rows is k_center that picked them already."""
    data = rows(50, 3)
    held = data.sample(5, seed=4)
    others = data.filter(~data["id"].is_in(held["id"].implode()))
    stage, ctx = find("select.diverse"), Context(Path(), Path(), Path())
    beside_held = bound("select.diverse", method="k_center", budget=6)
    beside = stage.call(ctx, {"rows": others, "held": held}, vars(beside_held))
    keeping = bound("select.diverse", method="k_center", budget=11, keep_chosen=True)
    together = stage.call(ctx, {"rows": data, "held": held.select("id")}, vars(keeping))
    assert set(kept(data, together)["id"]) == {*held["id"], *kept(others, beside)["id"]}


def test_keeping_needs_the_edge_and_knows_no_rounds() -> None:
    with pytest.raises(UserError, match="keep_chosen must have an input for 'held'"):
        find("select.diverse").call(
            Context(Path(), Path(), Path()),
            {"rows": rows(4, 1)},
            vars(bound("select.diverse", method="k_center", budget=2, keep_chosen=True)),
        )
    rule = {"name": "quota", "round_weight": "score"}
    (problem,) = problems_of("select.clusters", budget=3, rule=rule, keep_chosen=True)
    assert problem.startswith("keep_chosen: keep_chosen must be left out with round_weight")


def test_an_edge_and_an_option_that_came_later_leave_old_results_valid(tmp_path: Path) -> None:
    """Their parts of the fingerprint are those of version 0.6, which had neither."""
    pool(tmp_path / "rows.txt", 5)
    load = {"uses": "tests.support.toys.load", "with": {"path": str(tmp_path / "rows.txt")}}
    stages: dict[str, Any] = {
        "a": load,
        "some": {"uses": "select.random", "needs": "a", "with": {"budget": 3}},
        "kept": {
            "uses": "select.random",
            "needs": {"rows": "a", "held": "a"},
            "with": {"budget": 3},
        },
    }
    wired = Recipe.of("held", stages)
    run(wired, tmp_path / "store")
    parts = {n: p.parts for n, p in planned_steps(wired, tmp_path / "store").items()}
    assert set((parts["some"] or {})["inputs"]) == {"rows"}
    assert set((parts["kept"] or {})["inputs"]) == {"rows", "held"}
    stage = find("select.diverse")
    assert {"keep_chosen"} <= stage.later
