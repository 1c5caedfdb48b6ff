"""Budgets are exact, quotas sum, and draws depend on one id alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._selection.amounts import PerGroup
from stages._selection.budget import (
    EXPONENTS,
    Quota,
    divide,
    fill,
    fill_groups,
    not_selected,
    row_costs,
)
from stages._selection.random_draws import uniform
from stages._selection.scores import expression, expression_columns, ranking, ranks_within, scores

QUOTAS = st.sampled_from(["uniform", "proportional", "sqrt"])


def apportion(budget: int, sizes: NDArray[np.int64], quota: Quota) -> NDArray[np.int64]:
    """Shares by the groups' sizes, as the selectors ask for them."""
    return divide(budget, sizes, sizes.astype(np.float64) ** EXPONENTS[quota])


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


GROUPS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([0.0, 0.01, 0.5, 1.0, 7.0])), min_size=1
)


@given(GROUPS, st.integers(0, 5000), st.integers(0, 40))
def test_divided_budgets_keep_weights_capacities_and_minima(
    groups: list[tuple[int, float]], budget: int, minimum: int
) -> None:
    sizes, weights = np.array([g[0] for g in groups]), np.array([g[1] for g in groups])
    shares = divide(budget, sizes, weights, minimum)
    assert shares.sum() == min(budget, sizes[weights > 0].sum())
    assert ((shares >= 0) & (shares <= sizes) & ((weights > 0) | (shares == 0))).all()
    floors = np.minimum(np.where(weights > 0, minimum, 0), sizes)
    if floors.sum() <= budget:
        assert (shares >= floors).all()
    else:
        assert (shares <= floors).all()
    free = (shares < sizes) & (shares > floors)  # neither full nor raised: in proportion
    if free.any():
        ratio = shares[free] / weights[free]
        tolerance = 1 / weights[free]
        assert (ratio - tolerance).max() <= (ratio + tolerance).min() + 1e-6


def by_fractions(budget: int, sizes: list[int], weights: list[int]) -> list[int]:
    """The same without a minimum, in numbers that are exact."""
    shares, free = [0] * len(sizes), {i for i, size in enumerate(sizes) if size and weights[i]}
    while free:
        left, total = budget - sum(shares), sum(weights[i] for i in free)
        exact = {i: Fraction(left * weights[i], total) for i in free}
        full = {i for i in free if exact[i] >= sizes[i]}
        for i in full or free:
            shares[i] = sizes[i] if full else int(exact[i])
        if not full:
            order = sorted(free, key=lambda i: (shares[i] - exact[i], i))
            for i in order[: budget - sum(shares)]:
                shares[i] += 1
            return shares
        free -= full
    return shares


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=1), st.integers(0, 5000)
)
def test_shares_are_those_of_exact_fractions(groups: list[tuple[int, int]], budget: int) -> None:
    sizes, weights = (list(side) for side in zip(*groups, strict=True))
    shares = divide(budget, np.array(sizes), np.array(weights, np.float64))
    assert shares.tolist() == by_fractions(budget, sizes, weights)


def test_of_equal_remainders_the_first_group_gets_the_row() -> None:
    """Of 20 rows, 9 and 7/13 are due to 31 of 65, 1 and 7/13 to 5: in float64, 1.538... is more."""
    assert apportion(20, np.array([31, 29, 5]), "proportional").tolist() == [10, 9, 1]
    assert divide(15, np.full(3, 20), np.array([0.1, 0.2, 0.7])).tolist() == [2, 3, 10]
    assert divide(15, np.full(3, 20), np.array([0.7, 0.2, 0.1])).tolist() == [11, 3, 1]


def test_known_divisions() -> None:
    sizes = np.array([100, 100, 5])
    assert divide(50, sizes, np.array([4.0, 1.0, 0.0])).tolist() == [40, 10, 0]
    assert divide(50, sizes, np.array([8.0, 1.0, 1.0]), 10).tolist() == [35, 10, 5]
    assert divide(9, sizes, np.array([8.0, 1.0, 1.0]), 10).tolist() == [3, 3, 3]
    assert divide(500, sizes, np.array([1.0, 0.0, 1.0])).tolist() == [100, 0, 5]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40), st.integers(0, 60))
def test_groups_are_filled_as_if_each_were_alone(rows: list[tuple[int, int]], budget: int) -> None:
    groups = np.array([g for g, _ in rows], np.int64)
    costs = np.array([c for _, c in rows], np.int64)
    budgets = np.array([budget, budget // 2, 0, 3])
    chosen = fill_groups(costs, groups, np.arange(len(rows)), PerGroup(budgets))
    for group, alone in enumerate(budgets.tolist()):
        members = np.flatnonzero(groups == group)
        expected = fill(costs, members.tolist(), alone)
        assert (chosen[members] == expected[members]).all()


def test_ranks_within_groups() -> None:
    groups = np.array([0, 1, 0, 1, 0])
    keys = np.array([2.0, np.nan, 1.0, 5.0, 1.0])
    assert ranks_within(groups, keys).tolist() == [3, 2, 1, 1, 2]
    assert ranks_within(groups[:0], keys[:0]).tolist() == []


def test_verdict_of_rows_that_are_not_selected() -> None:
    verdict = not_selected(np.array([True, False]), {"rank": [1, 2], "score": [0.5, None]})
    assert verdict["drop_reason"].to_list() == [None, "not_selected"]
    assert verdict["evidence"].to_list() == [None, '{"rank":2,"score":null}']
    assert not_selected(np.zeros(0, bool), {"rank": np.zeros(0, np.int64)}).height == 0


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 500))
def test_fill_is_within_the_budget_and_leaves_nothing_that_fits(
    costs: list[int], budget: int
) -> None:
    selected = fill(np.array(costs, np.int64), range(len(costs)), budget)
    spent = sum(cost for cost, kept in zip(costs, selected, strict=True) if kept)
    assert spent <= budget
    assert all(c > budget - spent for c, kept in zip(costs, selected, strict=True) if not kept)


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


@pytest.mark.parametrize("name", ["cluster", "group", "order", "user", "top", "größe"])
def test_a_name_is_a_column_whatever_sql_takes_it_for(name: str) -> None:
    rows = pl.DataFrame({name: [3, 1]})
    assert expression_columns(name) == [name]
    assert scores(rows, name).tolist() == [3.0, 1.0]
    assert scores(rows, f'"{name}" * 2').tolist() == [6.0, 2.0]


def test_a_score_that_is_no_number_is_reported_in_a_line() -> None:
    rows = pl.DataFrame({"language": ["en", "zh"]})
    with pytest.raises(UserError, match="must be a number, which 'language' is not") as caught:
        scores(rows, "language")
    assert "\n" not in (caught.value.why or "")


@pytest.mark.parametrize("by", ["ifd *", "", "nosuch(ifd)", "1 + 1", "a, b"])
def test_no_expression(by: str) -> None:
    with pytest.raises(UserError):
        expression(by)


def test_scores_and_costs_must_be_numbers() -> None:
    rows = pl.DataFrame({"name": ["a", "b"], "tokens": [1, None], "length": [1.5, 2.0]})
    with pytest.raises(UserError, match="must be a number"):
        scores(rows, "name")
    for column in ("tokens", "length", "name"):
        with pytest.raises(UserError, match=column):
            row_costs(rows, 9, "tokens", column)
    assert row_costs(rows, 9, "rows", "tokens").tolist() == [1, 1]
