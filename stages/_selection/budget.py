"""Budgets, quotas of groups, and the verdict on rows that are not selected.

A budget counts rows, or the tokens of a column, or both (`{rows: 1000, tokens: 1000000}`),
and is never exceeded. With both, a row is selected if it fits what remains of either: rows
that have too many tokens are passed over, and nothing more is selected once the rows are
spent. Whatever is split among groups, such as quotas, is then split in rows and in tokens,
each by the groups' sizes in that unit, and a group is full when one of its quotas is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import OptionError, UserError
from stages._common.verdicts import evidence_of
from stages._selection.amounts import Amount, Budget, PerGroup, RowsAndTokens

Unit = Literal["rows", "tokens"]
Quota = Literal["proportional", "uniform", "sqrt"]


TOKEN_COLUMN: Final = "tokens"
"""The default of the option `token_column`."""

EXPONENTS: Final = {"uniform": 0.0, "sqrt": 0.5, "proportional": 1.0}
"""A group's part of a budget is proportional to this power of its size."""

DECIMALS: Final = 6
"""Decimals to which remainders of quotas are compared: those of a billion are only so exact."""


def check_unused(options: SimpleNamespace, name: str, default: Any, when: str) -> None:
    """Refuse an option that has no effect, unless it has its default.

    Args:
        options: All options of the stage.
        name: The option.
        default: Its default.
        when: The condition under which it has no effect: "without a score".

    Raises:
        OptionError: The option has another value.
    """
    value = getattr(options, name)
    if value != default:
        shown = getattr(value, "name", value)  # of a group of options its name
        raise OptionError(name, f"must be left out {when}, got {shown!r}")


def check_selection(options: SimpleNamespace) -> None:
    """Refuse `token_column`, `unit` and `descending` where nothing reads them.

    Args:
        options: The options of a selector: `budget`, `unit` and `token_column`; where it
            ranks by a score also `score` and `descending`.

    Raises:
        OptionError: One of them has a value and no effect.
    """
    if isinstance(options.budget, RowsAndTokens):
        check_unused(options, "unit", "rows", "with a budget in rows and tokens")
    elif options.unit == "rows":
        check_unused(options, "token_column", TOKEN_COLUMN, "with unit: rows")
    if options.budget is None and getattr(options, "fraction", None) is None:
        check_unused(options, "unit", "rows", "without a budget")
    if getattr(options, "score", "") is None:
        check_unused(options, "descending", True, "without a score")


def check_same_units(options: SimpleNamespace, name: str) -> None:
    """Refuse an amount in other units than the budget's.

    Args:
        options: All options of the stage.
        name: The option that holds the amount; null and 0 are of any unit.

    Raises:
        OptionError: The budget is in both units and the amount in one, or the other way round.
    """
    value = getattr(options, name)
    both = isinstance(options.budget, RowsAndTokens)
    if value and isinstance(value, RowsAndTokens) != both:
        what = "in rows and tokens as the budget is" if both else "a number as the budget is"
        hint = f"write {name}: " + ("{rows: 10, tokens: 10000}" if both else "10")
        written = value._asdict() if isinstance(value, RowsAndTokens) else value
        raise OptionError(name, f"must be {what}, got {written}", hint=hint)


def cost_columns(options: SimpleNamespace) -> list[str]:
    """The columns that `row_costs` reads."""
    both = isinstance(options.budget, RowsAndTokens)
    return [options.token_column] if both or options.unit == "tokens" else []


def row_costs(
    rows: pl.DataFrame, budget: Budget | None, unit: Unit, token_column: str
) -> NDArray[np.int64]:
    """How much of a budget each row uses.

    Args:
        rows: The rows.
        budget: The budget; one in both units counts tokens here.
        unit: What the budget counts.
        token_column: The column of token counts, read where tokens are counted.

    Returns:
        1 for each row, or its number of tokens; shape (rows,).

    Raises:
        UserError: The column does not hold a number of tokens for every row.
    """
    if unit == "rows" and not isinstance(budget, RowsAndTokens):
        return np.ones(len(rows), np.int64)
    column = rows[token_column]
    if not column.dtype.is_integer() or column.has_nulls() or (column < 0).any():
        raise UserError(
            f"the column {token_column!r} must hold the number of tokens of every row",
            why=f"its type is {column.dtype}, and {column.null_count()} rows have no value",
            hint="name a column of whole numbers, such as `tokens` of tag.tokens or score.loss",
        )
    return column.cast(pl.Int64).to_numpy()


def group_sizes(
    costs: NDArray[np.int64], groups: NDArray[np.integer], count: int, budget: Budget | None
) -> PerGroup:
    """The sizes of groups in the units of a budget.

    Args:
        costs: What each row uses of the budget, shape (rows,).
        groups: The number of each row's group, shape (rows,).
        count: The number of groups.
        budget: The budget.
    """
    total = np.bincount(groups, costs, count).astype(np.int64)
    both = isinstance(budget, RowsAndTokens)
    return PerGroup(total, np.bincount(groups, minlength=count) if both else None)


def divide_amount(
    amount: Amount, capacities: PerGroup, weights: PerGroup, minimum: Amount = Amount(0)
) -> PerGroup:
    """`divide` for each unit of an amount.

    Args:
        amount: What is split.
        capacities: The most that each group takes.
        weights: The weight of each group.
        minimum: What each group with a weight gets at least.
    """
    total = divide(amount.total, capacities.total, weights.total, minimum.total)
    if amount.rows is None or capacities.rows is None or weights.rows is None:
        return PerGroup(total)
    return PerGroup(total, divide(amount.rows, capacities.rows, weights.rows, minimum.rows or 0))


def divide(
    budget: int,
    capacities: NDArray[np.int64],
    weights: NDArray[np.float64],
    minimum: int = 0,
) -> NDArray[np.int64]:
    """Split a budget among groups in proportion to their weights.

    No group gets more than its capacity: what a full group cannot take goes to the others
    in the same proportion. Fractions go to the largest remainders, of equal ones to the
    first group. A group of weight 0 gets nothing. The same as `by_fractions` in
    tests/stages/_selection/test_budget.py, which counts in exact fractions.

    Args:
        budget: What is split, 0 or more.
        capacities: The most that each group takes, shape (groups,).
        weights: The weight of each group, 0 or more, shape (groups,).
        minimum: What each group with a weight gets at least, or its capacity where that is
            less. A budget that is too small for that is split evenly.

    Returns:
        The quotas, shape (groups,); their sum is the budget, or all capacities if less.

    Example:
        >>> divide(50, np.array([100, 100, 5]), np.array([8.0, 1.0, 1.0]), 10).tolist()
        [35, 10, 5]
    """
    floors = np.minimum(np.where(weights > 0, minimum, 0), capacities)
    if floors.sum() >= budget:
        return _proportional(budget, floors, np.ones(len(floors)))
    raised = np.zeros(len(floors), np.bool_)
    while True:
        quotas = np.where(raised, floors, 0)
        remaining = budget - int(quotas.sum())
        quotas[~raised] = _proportional(remaining, capacities[~raised], weights[~raised])
        below = quotas < floors
        if not below.any():
            return quotas
        raised |= below


def _proportional(
    budget: int, capacities: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    quotas = np.zeros_like(capacities)
    open_groups = (capacities > 0) & (weights > 0)
    while open_groups.any():
        remaining = budget - int(quotas.sum())
        exact = remaining * weights[open_groups] / weights[open_groups].sum()
        index = np.flatnonzero(open_groups)
        full = exact >= capacities[index]
        if not full.any():
            integers = np.floor(exact).astype(np.int64)
            remainders = np.round(exact - integers, DECIMALS)
            largest = np.argsort(-remainders, kind="stable")[: remaining - int(integers.sum())]
            integers[largest] += 1
            quotas[index] = integers
            break
        quotas[index[full]] = capacities[index[full]]
        open_groups[index[full]] = False
    return quotas


def fill(
    costs: NDArray[np.int64], order: Iterable[int], budget: int, max_rows: int | None = None
) -> NDArray[np.bool_]:
    """Select rows in an order, and pass over those that no longer fit the budget.

    Each decision depends on those before it, so this is a loop over rows.

    Args:
        costs: What each row uses of the budget, shape (rows,).
        order: Row numbers, the best first; other rows are not selected.
        budget: What the selected rows may cost in all.
        max_rows: The most rows; None for no limit.

    Returns:
        A mask of shape (rows,). No other row of the order would still fit.

    Example:
        >>> fill(np.array([3, 9, 2]), [0, 1, 2], 6).tolist()
        [True, False, True]
    """
    selected = np.zeros(len(costs), np.bool_)
    rows_left = len(costs) if max_rows is None else max_rows
    if rows_left:
        costs_listed = costs.tolist()
        for row in order:
            if costs_listed[row] <= budget:
                selected[row] = True
                budget -= costs_listed[row]
                rows_left -= 1
                if not rows_left:
                    break
    return selected


def fill_groups(
    costs: NDArray[np.int64],
    groups: NDArray[np.integer],
    order: NDArray[np.int64],
    quotas: PerGroup,
) -> NDArray[np.bool_]:
    """`fill` with a budget for each group.

    Args:
        costs: What each row uses of its group's budget, shape (rows,).
        groups: The number of each row's group, shape (rows,).
        order: Row numbers, the best first; other rows are not selected.
        quotas: The budget of each group.

    Returns:
        A mask of shape (rows,).

    Example:
        >>> quotas = PerGroup(np.array([1, 2]))
        >>> fill_groups(np.ones(4, int), np.array([0, 1, 0, 1]), np.arange(4), quotas)
        array([ True,  True, False,  True])
    """
    selected = np.zeros(len(costs), np.bool_)
    remaining = quotas.total.tolist()
    rows_left = [len(costs)] * len(remaining) if quotas.rows is None else quotas.rows.tolist()
    rows = zip(order.tolist(), groups[order].tolist(), costs[order].tolist(), strict=True)
    for row, group, cost in rows:
        if cost <= remaining[group] and rows_left[group]:
            selected[row] = True
            remaining[group] -= cost
            rows_left[group] -= 1
    return selected


def fill_quotas(
    costs: NDArray[np.int64],
    groups: NDArray[np.integer],
    ranks: NDArray[np.int64],
    quotas: PerGroup,
    eligible: NDArray[np.bool_],
    amount: Amount,
    is_held: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Fill the quota of every group, then spend what remains of the budget.

    A quota of tokens is seldom met exactly, because rows that no longer fit are passed
    over. What remains goes to rows that still fit, those of the lowest rank first, of
    equal ranks those of the first group.

    Args:
        costs: What each row uses of the budget, shape (rows,).
        groups: The number of each row's group, shape (rows,).
        ranks: The rank of each row in its group from 1, shape (rows,).
        quotas: The quota of each group.
        eligible: The groups that may get anything, shape (groups,).
        amount: What may be spent in all.
        is_held: Rows that are selected before all others, whatever the quotas, and count in
            the quotas of their groups; shape (rows,).

    Returns:
        A mask of shape (rows,).

    Example:
        >>> costs, groups, ranks = np.array([2, 2, 1]), np.array([0, 0, 1]), np.array([1, 2, 1])
        >>> quotas = PerGroup(np.array([3, 0]))
        >>> fill_quotas(costs, groups, ranks, quotas, np.array([True, True]), Amount(3))
        array([ True, False,  True])
    """
    order = np.lexsort((groups, ranks))
    kept = np.zeros(len(costs), np.bool_)
    if is_held is not None and is_held.any():
        kept = fill(costs, order[is_held[order]].tolist(), *amount)
        order, amount = order[~is_held[order]], left_of(amount, costs[kept])
        quotas = _quotas_left(quotas, costs[kept], groups[kept], amount)
    order = order[eligible[groups[order]]]
    selected = fill_groups(costs, groups, order, quotas)
    rest = order[~selected[order]]
    remaining = amount.total - int(costs[selected].sum())
    rows_left = None if amount.rows is None else amount.rows - int(selected.sum())
    return kept | selected | fill(costs, rest.tolist(), remaining, rows_left)


def left_of(amount: Amount, costs: NDArray[np.int64]) -> Amount:
    """What is left of an amount after rows of these costs.

    Example:
        >>> left_of(Amount(10, 3), np.array([4, 1]))
        Amount(total=5, rows=1)
    """
    rows = None if amount.rows is None else amount.rows - len(costs)
    return Amount(amount.total - int(costs.sum()), rows)


def _quotas_left(
    quotas: PerGroup, costs: NDArray[np.int64], groups: NDArray[np.integer], left: Amount
) -> PerGroup:
    """What is left of quotas after rows of these costs and groups.

    Where groups had more than their quotas, the others get less, in the same proportion.
    """
    count = len(quotas.total)
    used = np.bincount(groups, costs, count).astype(np.int64)
    open_ = PerGroup(
        np.maximum(quotas.total - used, 0),
        None if quotas.rows is None
        else np.maximum(quotas.rows - np.bincount(groups, minlength=count), 0),
    )  # fmt: skip
    return divide_amount(left, open_, open_)


def not_selected(
    selected: NDArray[np.bool_],
    facts: Mapping[str, Any],
    score: str | None = None,
    keys: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """The verdict on each row: rows that are not selected are dropped.

    Args:
        selected: The rows that are kept, shape (rows,).
        facts: Columns that explain a row's verdict; they become its evidence.
        score: The score that decides, None where no score does.
        keys: The score's values, shape (rows,). A dropped row whose key is NaN has the
            reason `missing_score`, and its evidence names the score as `by`.

    Returns:
        `drop_reason` and `evidence` (JSON), null for rows that are kept.

    Example:
        >>> not_selected(np.array([True, False]), {"rank": [1, 2]}).rows()
        [(None, None), ('not_selected', '{"rank":2}')]
    """
    dropped = pl.when(~pl.Series(selected))
    missing = pl.lit(False) if score is None or keys is None else pl.Series(np.isnan(keys))
    reason = pl.when(missing).then(pl.lit("missing_score")).otherwise(pl.lit("not_selected"))
    named = evidence_of(pl.lit(score).alias("by"), pl.all())
    evidence = pl.when(missing).then(named).otherwise(evidence_of(pl.all()))
    return pl.DataFrame(facts).select(
        dropped.then(reason).alias("drop_reason"), dropped.then(evidence).alias("evidence")
    )
