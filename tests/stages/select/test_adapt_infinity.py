"""select.clusters with `rule: adapt_infinity`: scorers of clusters, draws over their range."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from stages.select.clusters import clusters
from stages.select.clusters.adapt_infinity import AdaptInfinity, entropy, equal_parts
from tests.support.options import problems

RULE = AdaptInfinity(scorers=("flat", "spread"))


def pool(count: int = 40, seed: int = 0) -> pl.DataFrame:
    """Two clusters: `spread` tells the rows of the first one apart, `flat` those of the second."""
    rng = np.random.default_rng(seed)
    near, far = rng.normal(0, 0.1, (count, 2)), rng.normal(9, 0.1, (count, 2))
    wide, narrow = rng.uniform(0, 1, count), (np.arange(count) == 0).astype(float)
    return pl.DataFrame(
        {
            "id": [f"{i:03}" for i in range(2 * count)],
            "vector": pl.Series([*near.tolist(), *far.tolist()], dtype=pl.List(pl.Float32)),
            "spread": [*wide, *narrow],
            "flat": [*narrow, *wide],
        }
    )


def choose(ctx: Context, rows: pl.DataFrame, budget: int, **options: Any) -> pl.DataFrame:
    result = clusters(ctx, rows, budget=budget, n_clusters=2, rule=RULE, **options)
    return pl.concat([rows, result], how="horizontal")


def kept(rows: pl.DataFrame) -> set[str]:
    return set(rows.filter(pl.col("drop_reason").is_null())["id"])


def test_each_cluster_has_the_scorer_that_tells_its_rows_apart(ctx: Context) -> None:
    result = choose(ctx, pool(), 10)
    assert set(result["cluster_scorer"][:40]) == {"spread"}
    assert set(result["cluster_scorer"][40:]) == {"flat"}
    near = result[:40].filter(pl.col("drop_reason").is_null())
    assert (len(near), len(kept(result))) == (5, 10)
    # Drawn over the range: no two of five rows within a fiftieth, and none in the tails.
    scores = np.sort(near["spread"])
    assert np.diff(scores).min() > 0
    inner = np.sort(result["spread"][:40])[2:-2]
    assert scores[0] >= inner[0]
    assert scores[-1] <= inner[-1]
    evidence = json.loads(result["evidence"].drop_nulls()[0])
    assert {"cluster", "quota", "scorer", "entropy"} <= set(evidence)


def test_the_poorest_bins_come_first(ctx: Context) -> None:
    """Rows of a dense stretch and a few elsewhere: the few are all drawn before the many."""
    scores = [*np.linspace(0.0, 0.01, 60), *np.linspace(0.2, 1.0, 9)]
    rows = pl.DataFrame(
        {
            "id": [f"{i:03}" for i in range(69)],
            "vector": pl.Series(
                [[0.0, float(i % 3)] for i in range(69)], dtype=pl.List(pl.Float32)
            ),
            "score": scores,
        }
    )
    rule = AdaptInfinity(scorers=("score",), trim=0.0)
    result = clusters(ctx, rows, budget=18, n_clusters=1, rule=rule)
    chosen = pl.Series(scores).filter(result["drop_reason"].is_null())
    assert (chosen >= 0.2).sum() == 9
    assert len(chosen) == 18


def test_entropies_are_scipys_over_the_same_bins() -> None:
    from scipy.stats import entropy as expected

    values = np.random.default_rng(0).normal(size=500)
    counts, _ = np.histogram((values - values.mean()) / values.std(), 50, (-4, 4))
    assert entropy(values, 50) == pytest.approx(expected(counts, base=2))
    assert entropy(7 * values + 3, 50) == pytest.approx(entropy(values, 50), abs=0.05)
    assert [entropy(np.array(few), 50) for few in ([], [1.0], [2.0, 2.0])] == [0, 0, 0]


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 100))
def test_parts_are_equal_as_far_as_groups_have_rows(sizes: list[int], budget: int) -> None:
    parts = equal_parts(np.array(sizes, np.int64), budget)
    assert (parts <= sizes).all()
    assert parts.sum() == min(budget, sum(sizes))
    unfilled = parts[parts < sizes]
    if len(unfilled):
        assert np.ptp(unfilled) <= 1
        assert parts.max() <= unfilled.max() + 1


def test_order_company_and_seed(ctx: Context) -> None:
    rows = pool()
    chosen = kept(choose(ctx, rows, 10))
    assert kept(choose(ctx, rows.reverse(), 10)) == chosen
    assert kept(choose(ctx, rows, 10, seed=1)) != chosen


def test_more_than_there_is_and_nothing(ctx: Context) -> None:
    rows = pool(20)
    # A twentieth at each end of a cluster is never taken.
    assert len(kept(choose(ctx, rows, 1000))) == 36
    assert kept(choose(ctx, rows, 0)) == set()
    assert len(choose(ctx, rows[:1], 5).filter(pl.col("drop_reason").is_null())) == 1
    assert clusters(ctx, rows[:0], budget=3, rule=RULE).is_empty()


def test_rows_without_the_score_are_not_drawn(ctx: Context) -> None:
    rows = pool().with_columns(spread=pl.when(pl.col("id") >= "010").then("spread"))
    result = choose(ctx, rows, 1000)
    assert not {f"{i:03}" for i in range(10)} & kept(result)
    nothing = rows.with_columns(flat=pl.lit(None, pl.Float64), spread=pl.lit(None, pl.Float64))
    assert kept(choose(ctx, nothing, 10)) == set()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"score": "flat", "budget": 5}, "must be left out with rule: adapt_infinity"),
        ({"budget": 5, "unit": "tokens"}, "must be a number of rows"),
        ({"budget": None}, "must be a number of rows"),
        ({"budget": 5, "keep_chosen": True}, "must be left out with rule: adapt_infinity"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], problem: str) -> None:
    rule = {"name": "adapt_infinity", "scorers": ["flat"]}
    assert any(problem in each for each in problems("select.clusters", rule=rule, **options))
