"""Budgets are exact, quotas sum, and draws depend on one id alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from stages._budget import (
    Quota,
    apportion,
    costs,
    expression,
    expression_columns,
    fill,
    ranking,
    scores,
    uniform,
)

QUOTAS = st.sampled_from(["uniform", "proportional", "sqrt"])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(0, 20_000), QUOTAS)
def test_quotas_sum_to_the_budget(sizes: list[int], budget: int, quota: Quota) -> None:
    shares = apportion(budget, np.array(sizes), quota)
    assert shares.sum() == min(budget, sum(sizes))
    assert (shares >= 0).all()
    assert (shares <= sizes).all()


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(0, 20_000), QUOTAS)
def test_larger_groups_get_no_smaller_share(sizes: list[int], budget: int, quota: Quota) -> None:
    shares = apportion(budget, np.array(sorted(sizes)), quota)
    assert (np.diff(shares) >= -1).all()  # one less at most, by the largest remainder


def test_known_quotas() -> None:
    sizes = np.array([1, 10, 100])
    assert apportion(12, sizes, "uniform").tolist() == [1, 6, 5]
    assert apportion(60, sizes, "uniform").tolist() == [1, 10, 49]
    assert apportion(11, sizes, "proportional").tolist() == [0, 1, 10]
    assert apportion(28, np.array([100, 400, 1600]), "sqrt").tolist() == [4, 8, 16]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 500))
def test_fill_is_within_the_budget_and_leaves_nothing_that_fits(
    prices: list[int], budget: int
) -> None:
    chosen = fill(np.array(prices, np.int64), range(len(prices)), budget)
    spent = sum(p for p, taken in zip(prices, chosen, strict=True) if taken)
    assert spent <= budget
    assert all(p > budget - spent for p, taken in zip(prices, chosen, strict=True) if not taken)


def test_uniform_is_uniform_and_depends_on_the_id_alone() -> None:
    ids = pl.Series([f"{i:032x}" for i in range(20_000)])
    drawn = uniform(ids, "test:0")
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert (uniform(ids[5:9], "test:0") == drawn[5:9]).all()
    assert abs(np.corrcoef(drawn, uniform(ids, "test:1"))[0, 1]) < 0.03


def test_expressions() -> None:
    rows = pl.DataFrame({"ifd": [1.0, None, float("nan"), 3.0], "ppl": [1, 2, 3, 4]})
    assert expression_columns("ifd * 2 - ppl + ifd") == ["ifd", "ppl"]
    values = scores(rows, "ifd * 2 - ppl")
    np.testing.assert_array_equal(values, [1.0, np.nan, np.nan, 2.0])
    assert ranking(values, descending=True).tolist() == [3, 0, 1, 2]
    assert ranking(values, descending=False).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("by", ["ifd *", "", "nosuch(ifd)", "1 + 1", "a, b"])
def test_no_expression(by: str) -> None:
    with pytest.raises(UserError):
        expression(by)


def test_scores_and_costs_must_be_numbers() -> None:
    rows = pl.DataFrame({"name": ["a", "b"], "tokens": [1, None], "length": [1.5, 2.0]})
    with pytest.raises(UserError, match="no number"):
        scores(rows, "name")
    for column in ("tokens", "length", "name"):
        with pytest.raises(UserError, match=column):
            costs(rows, "tokens", column)
    assert costs(rows, "rows", "tokens").tolist() == [1, 1]
