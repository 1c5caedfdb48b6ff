"""mix.weights: budgets by every rule, SMART's gains by brute force, and rows that fill them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from stages._selection.groups import groups_of
from stages.mix import _interaction
from stages.mix._group_weights import (
    Balanced,
    Fixed,
    Interaction,
    Method,
    Proportional,
    Published,
    Replay,
    Submodular,
    Temperature,
    group_weights,
    taylor_softmax,
)
from stages.mix._interaction import descent, linear_programme
from stages.mix._published import MIXTURES
from stages.mix.weights import weights
from tests.stages._selection.binding import bound, problems_of
from tests.support.running import run

QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZED = st.sampled_from([Proportional(), Temperature(), Balanced(), Submodular()])


def pool(sizes: dict[str, int], seed: int = 0) -> pl.DataFrame:
    """Rows of each source; those of one source lie about one place."""
    rng = np.random.default_rng(seed)
    names = [name for name, size in sizes.items() for _ in range(size)]
    places = {name: rng.normal(size=8) for name in sizes}
    vectors = [(places[n] + 0.1 * rng.normal(size=8)).astype(np.float32) for n in names]
    ids = [f"{x:08x}" for x in rng.choice(2**32, len(names), replace=False)]
    schema = {"source": pl.String, "index": pl.Int64, "license": pl.String}
    return pl.DataFrame(
        {
            "id": pl.Series(ids, dtype=pl.String),
            "kind": pl.Series(names, dtype=pl.String),
            "origins": pl.Series(
                [[{"source": n, "index": i, "license": "MIT"}] for i, n in enumerate(names)],
                dtype=pl.List(pl.Struct(schema)),
            ),
            "vector": pl.Series([v.tolist() for v in vectors], dtype=pl.List(pl.Float32)),
            "ifd": pl.Series(rng.normal(size=len(names)), dtype=pl.Float64),
            "tokens": pl.Series(rng.integers(1, 40, len(names)), dtype=pl.Int64),
        }
    ).sort("id")


def counts(data: pl.DataFrame, result: pl.DataFrame) -> Counter[str]:
    return Counter(data["kind"].filter(result["drop_reason"].is_null()))


@QUIET
@given(st.lists(st.integers(0, 30), max_size=5), SIZED, st.integers(0, 120), st.booleans())
def test_budgets_are_kept(
    ctx: Context, sizes: list[int], method: Method, budget: int, in_tokens: bool
) -> None:
    data = pool({f"s{i}": size for i, size in enumerate(sizes)})
    budget = budget * 20 if in_tokens else budget
    result = weights(
        ctx, data, method=method, budget=budget, unit="tokens" if in_tokens else "rows"
    )
    chosen = data.with_columns(result).filter(pl.col("drop_reason").is_null())
    if in_tokens:
        assert chosen["tokens"].sum() <= budget
    else:
        assert chosen.height == min(budget, data.height)
    by_group = result.group_by("mix_group").agg(pl.col("mix_weight").first())["mix_weight"]
    assert not len(data) or by_group.sum() == pytest.approx(1)
    for entry in json.loads((ctx.files / "budgets.json").read_text()):
        kept = chosen.filter(mix_group=entry["group"])
        assert entry["kept_rows"] == kept.height
        assert entry["kept"] == (kept["tokens"].sum() if in_tokens else kept.height)
        assert entry["kept"] <= entry["quota"] <= entry["size"]
        rest = data.with_columns(result).filter(
            pl.col("drop_reason").is_not_null(), mix_group=entry["group"]
        )
        costs = rest["tokens"] if in_tokens else pl.Series([1] * rest.height, dtype=pl.Int64)
        assert (costs > entry["quota"] - entry["kept"]).all()  # none of the rest would fit


@QUIET
@given(SIZED, st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 9))
def test_held_rows_go_first_and_the_mixture_stays(
    ctx: Context, method: Method, budget: int, in_tokens: bool, by_score: bool, seed: int
) -> None:
    """In every group no row has a place while a held one that would fit has none."""
    data = pool({"a": 30, "b": 20, "c": 7}, seed)
    unit = "tokens" if in_tokens else "rows"
    options: dict[str, Any] = {"method": method, "budget": budget * (20 if in_tokens else 1)}
    options |= {"unit": unit, "score": "ifd" if by_score else None}
    plain = weights(ctx, data, **options)
    quotas = {e["group"]: e["quota"] for e in json.loads((ctx.files / "budgets.json").read_text())}
    held = data.sample(15, seed=seed)
    result = data.with_columns(weights(ctx, data, held, **options))
    entries = json.loads((ctx.files / "budgets.json").read_text())
    assert {entry["group"]: entry["quota"] for entry in entries} == quotas
    is_kept, is_held = pl.col("drop_reason").is_null(), pl.col("id").is_in(held["id"].implode())
    for group, quota in quotas.items():
        rows = result.filter(mix_group=group)
        costs = rows.with_columns(cost=pl.col("tokens") if in_tokens else pl.lit(1))
        spent = costs.filter(is_kept & is_held)["cost"].sum()
        assert (costs.filter(~is_kept & is_held)["cost"] + spent > quota).all()
        assert costs.filter(is_kept)["cost"].sum() <= quota
    assert weights(ctx, data, held.head(0), **options).equals(plain)


def test_known_mixtures(ctx: Context) -> None:
    data = pool({"large": 400, "middle": 100, "small": 25})
    cases: list[tuple[Method, dict[str, Any], tuple[int, int, int]]] = [
        (Proportional(), {"budget": 105}, (80, 20, 5)),
        (Proportional(size_cap=100), {"budget": 90}, (40, 40, 10)),
        (Temperature(), {"budget": 70}, (40, 20, 10)),
        (Temperature(size_cap=100), {"budget": 50}, (20, 20, 10)),
        (Balanced(), {"budget": 60}, (20, 20, 20)),
        (Balanced(), {"budget": 225}, (100, 100, 25)),  # what `small` lacks goes to the others
        (Balanced(), {"budget": 225, "max_per_group": 90}, (90, 90, 25)),
        (Fixed(weights={"small": 1.0, "large": 3.0}), {"budget": 40}, (30, 0, 10)),
        (Fixed(weights={"small": 1.0, "large": 1.0}), {"budget": 60}, (35, 0, 25)),
        (Fixed(weights={"small": 60.0, "large": 7.0}), {}, (7, 0, 25)),
    ]
    for method, options, expected in cases:
        kept = counts(data, weights(ctx, data, method=method, **options))
        assert tuple(kept[name] for name in ("large", "middle", "small")) == expected, method


def test_temperatures_lie_between_proportional_and_balanced(ctx: Context) -> None:
    data = pool({"large": 400, "small": 100})

    def large(method: Method) -> float:
        result = weights(ctx, data, budget=50, method=method)
        return float(result.filter(mix_group="large")["mix_weight"][0])

    assert large(Temperature(temperature=1.0)) == large(Proportional()) == 0.8
    assert large(Temperature(temperature=1e9)) == pytest.approx(0.5)
    assert large(Temperature(temperature=1e-3)) == 1.0
    assert 0.5 < large(Temperature(temperature=3.0)) < 0.8


def by_hand(means: np.ndarray, n_groups: int, redundancy: float) -> dict[int, float]:
    """Graph cut by its definition, gain by gain, and the Taylor softmax."""
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    similar = units @ units.T

    def cut(chosen: list[int]) -> float:
        inner = similar[np.ix_(chosen, chosen)].sum()
        return float(similar[:, chosen].sum() - redundancy * inner)

    chosen: list[int] = []
    gains: dict[int, float] = {}
    for _ in range(n_groups):
        rest = [i for i in range(len(means)) if i not in chosen]
        best = max(rest, key=lambda i: (round(cut([*chosen, i]) - cut(chosen), 9), -i))
        gains[best] = cut([*chosen, best]) - cut(chosen)
        chosen.append(best)
    raw = {i: 1 + g + g * g / 2 for i, g in gains.items()}
    return {i: value / sum(raw.values()) for i, value in raw.items()}


@QUIET
@given(st.integers(1, 7), st.integers(1, 8), st.sampled_from([0.0, 0.4, 0.9]), st.integers(0, 20))
def test_gains_are_those_of_the_definition(
    ctx: Context, groups: int, n_groups: int, redundancy: float, seed: int
) -> None:
    data = pool({f"s{i}": 3 + i for i in range(groups)}, seed)
    method = Submodular(n_groups=n_groups, redundancy=redundancy)
    result = weights(ctx, data, method=method, budget=9)
    means = np.array(
        [np.mean(data.filter(kind=f"s{i}")["vector"].to_list(), axis=0) for i in range(groups)]
    )
    expected = by_hand(means, min(n_groups, groups), redundancy)
    for i in range(groups):
        values = result.filter(mix_group=f"s{i}")["mix_weight"]
        np.testing.assert_allclose(values, expected.get(i, 0.0), rtol=1e-6)
        if i not in expected:
            assert result.filter(mix_group=f"s{i}")["drop_reason"].null_count() == 0


def test_the_published_taylor_softmax_and_examples_proportional_mixing() -> None:
    raw = taylor_softmax(np.array([1.0, 2.0, 0.5]))
    np.testing.assert_allclose(raw / raw.sum(), [0.27397, 0.54795, 0.17808], atol=5e-6)
    kinds = ["a"] * 500 + ["b"] * 3000 + ["c"] * 100_000
    groups = groups_of(pl.DataFrame({"kind": kinds}), "kind")
    capped = group_weights(pl.DataFrame(), groups, Proportional(size_cap=3000))
    assert (13 * capped / capped.sum()).tolist() == [1, 6, 6]


PUBLISHED = {
    "tulu-1": 490_694,
    "tulu-2": 330_490,
    "tulu-3": 939_344,
    "dmt": 216_224,
    "flan-palm": 1,
    "flan-collection": 1,
}


def test_published_mixtures_sum_as_they_say() -> None:
    assert {name: round(sum(parts.values()), 9) for name, parts in MIXTURES.items()} == PUBLISHED
    assert [len(MIXTURES["tulu-2"]), len(MIXTURES["tulu-3"])] == [11, 19]


@pytest.mark.parametrize("mixture", PUBLISHED)
def test_a_published_mixture_gives_its_parts(ctx: Context, mixture: Any) -> None:
    """With a budget in proportion, each part named as its group; missing parts are an error."""
    parts = MIXTURES[mixture]
    groups = {name: f"my {name}" for name in parts}
    data = pool({f"my {name}": 60 for name in parts})
    result = weights(ctx, data, method=Published(mixture=mixture, groups=groups), budget=50)
    shares = dict(result.select("mix_group", "mix_weight").unique().iter_rows())
    total = sum(parts.values())
    assert shares == pytest.approx({f"my {name}": n / total for name, n in parts.items()})
    assert sum(counts(data, result).values()) == 50
    some = data.filter(pl.col("kind") != f"my {min(parts)}")
    with pytest.raises(UserError, match=f"my {min(parts)}"):
        weights(ctx, some, method=Published(mixture=mixture, groups=groups), budget=50)
    partial = Published(mixture=mixture, groups=groups, partial=True)
    assert sum(counts(some, weights(ctx, some, method=partial, budget=50)).values()) == 50


def test_published_counts_are_kept_without_a_budget(ctx: Context) -> None:
    data = pool({"hard-coded": 200, "lima": 20, "other": 9})
    result = weights(ctx, data, method=Published(mixture="tulu-2", partial=True))
    assert counts(data, result) == {"hard-coded": 140, "lima": 20}


def test_old_rows_get_their_fraction_and_only_large_groups_count(ctx: Context) -> None:
    data = pool({"new": 90, "newer": 30, "old": 200, "older": 50})
    method = Replay(groups=("old", "older"), fraction=0.25)
    kept = counts(data, weights(ctx, data, method=method, budget=80))
    assert kept == {"new": 45, "newer": 15, "old": 16, "older": 4}
    kept = counts(data, weights(ctx, data, method=Balanced(n_groups=2), budget=20))
    assert kept == {"old": 10, "new": 10}
    with pytest.raises(UserError, match="must leave out at least one group"):
        weights(ctx, data, method=Replay(groups=("new", "newer", "old", "older")), budget=9)


@QUIET
@given(st.integers(1, 6), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 30))
def test_the_linear_programme_is_scipys(groups: int, max_change: float, seed: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    start = rng.dirichlet(np.ones(groups))
    gains = rng.integers(-2, 3, groups).astype(float)
    result = linear_programme(start, gains, max_change)
    bounds = [(a * (1 - max_change), a * (1 + max_change)) for a in start]
    exact = linprog(-gains, A_eq=np.ones((1, groups)), b_eq=[1], bounds=bounds)
    assert result.sum() == pytest.approx(1)
    assert gains @ result == pytest.approx(-exact.fun, abs=1e-9)
    assert all(
        low - 1e-12 <= w <= high + 1e-12 for w, (low, high) in zip(result, bounds, strict=True)
    )


def test_the_descent_is_adams_and_a_fixed_part_is_moved(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(_interaction, "MAX_STEPS", 300)
    start, gains = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.5, 0.2])
    tensor = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([tensor], lr=1e-4)
    for _ in range(300):
        optimizer.zero_grad()
        loss: Any = -(torch.tensor(gains) * tensor).sum() / tensor.sum()
        loss.backward()
        optimizer.step()
        if (tensor < 1e-5).any():
            break
    np.testing.assert_allclose(descent(start, gains), tensor.detach().numpy(), rtol=1e-9)
    data = pool({"chat": 60, "code": 34, "maths": 6})
    effects = {"chat": {"code": 0.3}, "code": {"chat": -0.2}, "maths": {"code": 0.5}}
    method = Interaction(effects=effects, solver="adam", moved=0.06)
    result = weights(ctx, data, method=method, budget=100)
    entries = {e["group"]: e["weight"] * 100 for e in json.loads(text_of(ctx))}
    # chat and maths are to shrink by 3 rows each; maths keeps its last 5.
    assert entries == pytest.approx({"chat": 57, "code": 38, "maths": 5})
    assert result["mix_weight"].n_unique() == 3


def text_of(ctx: Context) -> str:
    return (ctx.files / "budgets.json").read_text()


def test_effects_name_the_groups_of_the_rows(ctx: Context) -> None:
    data = pool({"chat": 5, "code": 3})
    for named, wrong in ((["chat"], "code"), (["chat", "code", "law"], "law")):
        effects: dict[str, dict[str, float]] = {name: {} for name in named}
        with pytest.raises(UserError, match=wrong):
            weights(ctx, data, method=Interaction(effects=effects), budget=4)
    helped = Interaction(effects={"chat": {"code": 1.0}, "code": {}}, max_change=0.2)
    weights(ctx, data, method=helped, budget=4)
    entries = {e["group"]: e["weight"] for e in json.loads(text_of(ctx))}
    assert entries == pytest.approx({"chat": 0.55, "code": 0.45})


def test_zero_vectors_and_equal_groups(ctx: Context) -> None:
    data = pool({"a": 5, "b": 5, "c": 5}).with_columns(
        vector=pl.lit([0.0] * 8, pl.List(pl.Float32))
    )
    result = weights(ctx, data, method=Submodular(), budget=6)
    assert counts(data, result) == {"a": 2, "b": 2, "c": 2}
    assert counts(data, weights(ctx, data, method=Submodular(n_groups=1), budget=6)) == {"a": 5}


def test_the_best_or_random_rows_of_each_group(ctx: Context) -> None:
    data = pool({"a": 50, "b": 20})
    result = weights(ctx, data, method=Balanced(), budget=20, score="ifd")
    for _, members in data.with_columns(result).group_by("mix_group"):
        ranked = members.sort("mix_rank")
        assert ranked["ifd"].is_sorted(descending=True)
        assert ranked["drop_reason"].is_null().to_list() == [True] * 10 + [False] * (
            len(ranked) - 10
        )
    for row in result.filter(pl.col("drop_reason").is_not_null()).to_dicts():
        evidence = json.loads(row["evidence"])
        assert evidence["quota"] == 10 < evidence["rank"] == row["mix_rank"]
        assert (evidence["group"], evidence["weight"]) == (row["mix_group"], 0.5)
    drawn = [
        set(
            data["id"].filter(
                weights(ctx, data, method=Balanced(), budget=20, seed=s)["drop_reason"].is_null()
            )
        )
        for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@QUIET
@given(SIZED, st.randoms())
def test_the_order_of_the_rows_does_not_matter(
    ctx: Context, method: Method, random: Random
) -> None:
    data = pool({"a": 40, "b": 20, "c": 5})
    turned = data.sample(fraction=1, shuffle=True, seed=random.randrange(99))
    chosen = [
        set(f["id"].filter(weights(ctx, f, method=method, budget=21)["drop_reason"].is_null()))
        for f in (data, turned)
    ]
    assert chosen[0] == chosen[1]


def test_by_tags(ctx: Context) -> None:
    tags = [["maths", "code"], ["maths"], ["code"], ["code"], [], None]
    data = pool({"a": 6}).with_columns(tags=pl.Series(tags))
    method = Fixed(weights={"maths": 1.0, "code": 1.0})
    result = weights(ctx, data, method=method, budget=4, group="tags")
    assert result["mix_group"].to_list() == ["maths", "maths", "code", "code", "null", "null"]
    assert result["drop_reason"].is_null().to_list() == [True] * 4 + [False] * 2


def test_types_and_empty_input(ctx: Context) -> None:
    added = weights.__stage__.adds  # type: ignore[attr-defined]
    for data in (pool({"a": 3}), pool({})):
        for method in (Proportional(), Balanced(), Submodular()):
            result = weights(ctx, data, method=method, budget=2)
            assert {name: result.schema[name] for name in added} == added
            assert len(result) == len(data)
    result = weights(ctx, pool({}), method=Fixed(weights={"a": 1.0}), budget=2)
    assert result.is_empty()
    assert json.loads((ctx.files / "budgets.json").read_text()) == []


def test_a_weight_of_a_group_without_rows_is_an_error(ctx: Context) -> None:
    with pytest.raises(UserError, match="poetry"):
        weights(ctx, pool({"a": 3}), method=Fixed(weights={"poetry": 1.0}), budget=2)


def test_options_that_are_accepted() -> None:
    for options in (
        {"method": "balanced", "budget": 3},
        {"method": {"name": "fixed", "weights": {"a": 20, "b": 1}}, "unit": "tokens"},
        {"method": {"name": "fixed", "weights": {"a": 0.5}}, "budget": 3},
        {"method": {"name": "submodular", "n_groups": 3, "vector": "v"}, "budget": 3},
    ):
        assert problems_of("mix.weights", **options) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"group": "kind +"}, "group: group must be a column or an SQL expression"),
        ({"score": "ifd +"}, "score: score must be a column or an SQL expression"),
        ({"budget": -1}, "budget: budget must be at least 0, got -1"),
        ({"budget": None}, "budget: budget must be given with method: balanced, got null"),
        (
            {"method": {"name": "proportional", "size_cap": 0}},
            "method.size_cap: method.size_cap must be at least 1, got 0",
        ),
        ({"max_per_group": -1}, "max_per_group: max_per_group must be at least 0, got -1"),
        (
            {"method": {"name": "submodular", "n_groups": 0}},
            "method.n_groups: method.n_groups must be at least 1, got 0",
        ),
        (
            {"method": {"name": "temperature", "temperature": 0.0}},
            "method.temperature: method.temperature must be above 0, got 0.0",
        ),
        ({"method": "fixed"}, "method.weights: the option 'method.weights' is missing"),
        (
            {"method": {"name": "balanced", "weights": {"a": 1.0}}},
            "method.weights: method (balanced) has no option 'weights'",
        ),
        (
            {"method": {"name": "fixed", "weights": {"a": 0.0}}},
            "method.weights: method.weights must be above 0 for at least one group",
        ),
        (
            {"method": {"name": "fixed", "weights": {"a": 0.5}}, "budget": None},
            "method.weights: method.weights must be whole numbers of rows without a budget",
        ),
        (
            {"method": {"name": "published", "mixture": "flan-palm"}, "budget": None},
            "budget: budget must be given with method: published flan-palm, got null",
        ),
        (
            {"method": {"name": "published", "mixture": "dmt"}, "budget": None, "unit": "tokens"},
            "unit: unit must be rows with the counts of dmt, got tokens",
        ),
        (
            {"method": {"name": "published", "mixture": "dmt", "groups": {"law": "a"}}},
            "method.groups: method.groups must name parts of dmt (maths, code, general), got law",
        ),
        (
            {"method": {"name": "published", "mixture": "dmt", "groups": {"maths": "code"}}},
            "method.groups: method.groups must be a group for each part",
        ),
        (
            {"method": {"name": "published", "mixture": "tulu-9"}},
            "method.mixture: method.mixture must be",
        ),
        (
            {"method": {"name": "replay", "groups": ["a"], "fraction": 1}},
            "method.fraction: method.fraction must be below 1, got 1",
        ),
        (
            {"method": {"name": "interaction", "effects": {"a": {"b": 1}}}},
            "method.effects: method.effects must name the same groups within each group",
        ),
        (
            {"method": {"name": "interaction", "effects": {"a": {}}, "moved": 0.1}},
            "method.moved: method.moved must be left out with linear_programme, got 0.1",
        ),
        ({"descending": False}, "descending: descending must be left out without a score"),
        ({"score": "ifd", "seed": 3}, "seed: seed must be left out with a score"),
        ({"token_column": "n"}, "token_column: token_column must be left out with unit: rows"),
        ({"vector": "v"}, "vector: 'vector' is an option of method: submodular"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(change: dict[str, Any], problem: str) -> None:
    (message,) = problems_of("mix.weights", **{"method": "balanced", "budget": 3} | change)
    assert message.startswith(problem)


def test_what_it_reads() -> None:
    stage = find("mix.weights")
    options = bound("mix.weights", method={"name": "submodular", "vector": "v"}, budget=3)
    assert stage.reads("rows", options) == ["origins", "v"]
    options = bound("mix.weights", method="balanced", budget=3, score="ifd", unit="tokens")
    assert stage.reads("rows", options) == ["origins", "ifd", "tokens"]


def test_selectors_follow_one_another_in_a_recipe(tmp_path: Path) -> None:
    def load(source: str, file: str) -> dict[str, Any]:
        options = {"path": f"data/samples/{file}", "source": source, "license": "Apache-2.0"}
        return {"uses": "load.records", "with": options}

    def select(uses: str, needs: Any, **options: Any) -> dict[str, Any]:
        return {"uses": uses, "needs": needs, "with": options}

    wired = Recipe.of(
        "mixture",
        {
            "a": load("a", "self_instruct.jsonl.gz"),
            "b": load("b", "selfbehave.jsonl.gz"),
            "aim": load("aim", "user_oriented_252.jsonl"),
            "all": {"uses": "load.concat", "needs": ["a", "b"]},
            "some": select("select.random", "all", budget=900),
            "measured": {"uses": "score.heuristics", "needs": "some"},
            "short": select("select.top", "measured", score="response_words", max_score=400),
            "long": select("select.top", "short", score="response_words", min_score=2),
            "best": select(
                "select.top", "long", score="mtld", percentiles=[10, 90], group="source"
            ),
            "even": select("select.stratified", "best", group="source", budget=300),
            "like": select(
                "select.target",
                {"rows": "even", "target": "aim"},
                method="distribution",
                budget=200,
            ),
            "mix": select(
                "mix.weights",
                "like",
                method={"name": "fixed", "weights": {"a": 1, "b": 3}},
                budget=40,
            ),
        },
    )
    assert run(wired, tmp_path) == Exit.DONE
    kept = Store(tmp_path).latest("mixture", "mix")
    assert kept is not None
    assert kept.manifest["counts"]["kept"] == 40
    assert json.loads((kept.files / "budgets.json").read_text())[1]["kept"] == 30
    ranks = {"random_rank", "top_rank", "stratum_rank", "target_rank", "mix_rank"}
    assert ranks <= set(wired.steps["mix"].columns)
