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
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from stages.mix.weights import weights
from tests.support.options import options_of
from tests.support.running import run

QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZED = st.sampled_from(["proportional", "temperature", "balanced", "submodular"])


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
    ctx: Context, sizes: list[int], method: Any, budget: int, in_tokens: bool
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
    share = result.group_by("mix_group").agg(pl.col("mix_weight").first())["mix_weight"]
    assert not len(data) or share.sum() == pytest.approx(1)
    for line in json.loads((ctx.files / "budgets.json").read_text()):
        taken = chosen.filter(mix_group=line["group"])
        assert line["kept_rows"] == taken.height
        assert line["kept"] == (taken["tokens"].sum() if in_tokens else taken.height)
        assert line["kept"] <= line["quota"] <= line["size"]
        left = data.with_columns(result).filter(
            pl.col("drop_reason").is_not_null(), mix_group=line["group"]
        )
        price = left["tokens"] if in_tokens else pl.Series([1] * left.height, dtype=pl.Int64)
        assert (price > line["quota"] - line["kept"]).all()  # none left would fit


def test_known_mixtures(ctx: Context) -> None:
    data = pool({"large": 400, "middle": 100, "small": 25})
    fixed: dict[str, Any] = {"method": "fixed"}
    heated: dict[str, Any] = {"method": "temperature"}
    balanced: dict[str, Any] = {"method": "balanced"}
    sized: dict[str, Any] = {"method": "proportional"}
    cases: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
        ({**sized, "budget": 105}, (80, 20, 5)),
        ({**sized, "cap": 100, "budget": 90}, (40, 40, 10)),
        ({**heated, "budget": 70}, (40, 20, 10)),
        ({**heated, "cap": 100, "budget": 50}, (20, 20, 10)),
        ({**balanced, "budget": 60}, (20, 20, 20)),
        ({**balanced, "budget": 225}, (100, 100, 25)),  # what `small` lacks goes to the others
        ({**balanced, "budget": 225, "limit": 90}, (90, 90, 25)),
        ({**fixed, "shares": {"small": 1.0, "large": 3.0}, "budget": 40}, (30, 0, 10)),
        ({**fixed, "shares": {"small": 1.0, "large": 1.0}, "budget": 60}, (35, 0, 25)),
        ({**fixed, "shares": {"small": 60.0, "large": 7.0}}, (7, 0, 25)),
    ]
    for options, expected in cases:
        found = counts(data, weights(ctx, data, **options))
        assert tuple(found[name] for name in ("large", "middle", "small")) == expected, options


def test_temperatures_lie_between_proportional_and_balanced(ctx: Context) -> None:
    data = pool({"large": 400, "small": 100})

    def large(**options: Any) -> float:
        result = weights(ctx, data, budget=50, **options)
        return result.filter(mix_group="large")["mix_weight"][0]

    assert large(method="temperature", temperature=1.0) == large(method="proportional") == 0.8
    assert large(method="temperature", temperature=1e9) == pytest.approx(0.5)
    assert large(method="temperature", temperature=1e-3) == 1.0
    assert 0.5 < large(method="temperature", temperature=3.0) < 0.8


def by_hand(means: np.ndarray, wanted: int, redundancy: float) -> dict[int, float]:
    """Graph cut by its definition, gain by gain, and the Taylor softmax."""
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    similar = units @ units.T

    def cut(chosen: list[int]) -> float:
        inner = similar[np.ix_(chosen, chosen)].sum()
        return float(similar[:, chosen].sum() - redundancy * inner)

    chosen: list[int] = []
    gains: dict[int, float] = {}
    for _ in range(wanted):
        left = [i for i in range(len(means)) if i not in chosen]
        best = max(left, key=lambda i: (round(cut([*chosen, i]) - cut(chosen), 9), -i))
        gains[best] = cut([*chosen, best]) - cut(chosen)
        chosen.append(best)
    raw = {i: 1 + g + g * g / 2 for i, g in gains.items()}
    return {i: value / sum(raw.values()) for i, value in raw.items()}


@QUIET
@given(st.integers(1, 7), st.integers(1, 8), st.sampled_from([0.0, 0.4, 0.9]), st.integers(0, 20))
def test_gains_are_those_of_the_definition(
    ctx: Context, groups: int, wanted: int, redundancy: float, seed: int
) -> None:
    data = pool({f"s{i}": 3 + i for i in range(groups)}, seed)
    result = weights(ctx, data, method="submodular", budget=9, groups=wanted, redundancy=redundancy)
    means = np.array(
        [np.mean(data.filter(kind=f"s{i}")["vector"].to_list(), axis=0) for i in range(groups)]
    )
    expected = by_hand(means, min(wanted, groups), redundancy)
    for i in range(groups):
        found = result.filter(mix_group=f"s{i}")["mix_weight"]
        np.testing.assert_allclose(found, expected.get(i, 0.0), rtol=1e-6)
        if i not in expected:
            assert result.filter(mix_group=f"s{i}")["drop_reason"].null_count() == 0


def test_zero_vectors_and_equal_groups(ctx: Context) -> None:
    data = pool({"a": 5, "b": 5, "c": 5}).with_columns(
        vector=pl.lit([0.0] * 8, pl.List(pl.Float32))
    )
    result = weights(ctx, data, method="submodular", budget=6)
    assert counts(data, result) == {"a": 2, "b": 2, "c": 2}
    assert counts(data, weights(ctx, data, method="submodular", budget=6, groups=1)) == {"a": 5}


def test_the_best_or_random_rows_of_each_group(ctx: Context) -> None:
    data = pool({"a": 50, "b": 20})
    result = weights(ctx, data, method="balanced", budget=20, by="ifd")
    for _, members in data.with_columns(result).group_by("mix_group"):
        ranked = members.sort("mix_rank")
        assert ranked["ifd"].is_sorted(descending=True)
        assert ranked["drop_reason"].is_null().to_list() == [True] * 10 + [False] * (
            len(ranked) - 10
        )
    for line in result.filter(pl.col("drop_reason").is_not_null()).to_dicts():
        told = json.loads(line["evidence"])
        assert told["quota"] == 10 < told["rank"] == line["mix_rank"]
        assert (told["group"], told["weight"]) == (line["mix_group"], 0.5)
    drawn = [
        set(
            data["id"].filter(
                weights(ctx, data, method="balanced", budget=20, seed=s)["drop_reason"].is_null()
            )
        )
        for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@QUIET
@given(SIZED, st.randoms())
def test_the_order_of_the_rows_does_not_matter(ctx: Context, method: Any, random: Random) -> None:
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
    result = weights(
        ctx, data, method="fixed", shares={"maths": 1.0, "code": 1.0}, budget=4, group="tags"
    )
    assert result["mix_group"].to_list() == ["maths", "maths", "code", "code", "null", "null"]
    assert result["drop_reason"].is_null().to_list() == [True] * 4 + [False] * 2


def test_types_and_empty_input(ctx: Context) -> None:
    added = weights.__stage__.adds  # type: ignore[attr-defined]
    for data in (pool({"a": 3}), pool({})):
        for method in ("proportional", "balanced", "submodular"):
            result = weights(ctx, data, method=method, budget=2)  # type: ignore[arg-type]
            assert {name: result.schema[name] for name in added} == added
            assert len(result) == len(data)
    result = weights(ctx, pool({}), method="fixed", shares={"a": 1.0}, budget=2)
    assert result.is_empty()
    assert json.loads((ctx.files / "budgets.json").read_text()) == []


def test_mistakes(ctx: Context) -> None:
    check = weights.__stage__.check  # type: ignore[attr-defined]
    good: dict[str, Any] = {"method": "balanced", "budget": 3}
    check(options_of(weights, **good))
    for change in (
        {"group": "kind +"}, {"by": "ifd +"}, {"budget": -1}, {"budget": None}, {"cap": 0},
        {"limit": -1}, {"groups": 0}, {"temperature": 0.0}, {"method": "fixed"},
        {"shares": {"a": 1.0}}, {"method": "fixed", "shares": {"a": 0.0}},
        {"method": "fixed", "shares": {"a": 0.5}, "budget": None},
    ):  # fmt: skip
        with pytest.raises(UserError):
            check(options_of(weights, **good | change))
    with pytest.raises(UserError, match="poetry"):
        weights(ctx, pool({"a": 3}), method="fixed", shares={"poetry": 1.0}, budget=2)


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
            "short": select("select.top", "measured", by="response_words", maximum=400),
            "long": select("select.top", "short", by="response_words", minimum=2),
            "best": select("select.top", "long", by="mtld", percentiles=[10, 90], group="source"),
            "even": select("select.stratified", "best", group="source", budget=300),
            "like": select(
                "select.target", {"rows": "even", "target": "aim"}, mode="distribution", budget=200
            ),
            "mix": select(
                "mix.weights", "like", method="fixed", shares={"a": 1, "b": 3}, budget=40
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
