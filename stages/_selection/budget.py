"""Budgets, quotas and rankings: what every selector shares.

A budget counts rows, or the tokens of a column, and is never exceeded. Scores
come from a column or an SQL expression over columns (`ifd * 2 - ppl`); missing
ones rank last, and equal ones rank by id, because rows come in id order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError

Unit = Literal["rows", "tokens"]
Quota = Literal["proportional", "uniform", "sqrt"]

EXPONENTS: Final = {"uniform": 0.0, "sqrt": 0.5, "proportional": 1.0}
"""A group's share of a budget is proportional to this power of its size."""

FRACTION: Final = 6
"""Decimals to which remainders of shares are equal: those of a billion are only so exact."""


def check_budget(options: SimpleNamespace) -> None:
    """Raise UserError for a budget below zero."""
    if options.budget is not None and options.budget < 0:
        raise UserError(f"budget: {options.budget} is negative", hint="give 0 or more")


def expression(by: str) -> pl.Expr:
    """A column by its name, or an SQL expression. Raises UserError if it is neither.

    Names come first because SQL takes some for itself, `cluster` and `group` among them.
    """
    if by.isidentifier():
        return pl.col(by)
    try:
        parsed = pl.sql_expr(by)
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{by!r} is no expression over columns",
            why=str(error),
            hint="name a column or write arithmetic such as: ifd * 2 - ppl (in it, names "
            'that SQL knows stand in quotes: "cluster")',
        ) from None
    if not parsed.meta.root_names():
        raise UserError(f"{by!r} names no column", hint="write for example: by: ifd")
    return parsed


def expression_columns(by: str | None) -> list[str]:
    """The columns that an expression reads; none for None."""
    return [] if by is None else list(dict.fromkeys(expression(by).meta.root_names()))


def cost_columns(unit: Unit, tokens: str) -> list[str]:
    """The columns that `costs` reads."""
    return [tokens] if unit == "tokens" else []


def scores(rows: pl.DataFrame, by: str) -> NDArray[np.float64]:
    """One number per row, NaN where it is missing. Raises UserError for what is no number."""
    try:
        values = rows.with_columns(expression(by).cast(pl.Float64).alias(by))[by]
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]  # what follows is about the expression's insides
        raise UserError(f"{by!r} gives no number", why=why) from None
    return values.to_numpy()


def ranking(values: NDArray[np.float64], descending: bool) -> NDArray[np.int64]:
    """Row numbers, best first; missing values last, equal ones in the order of the rows."""
    return np.argsort(-values if descending else values, kind="stable")


def ranks(order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The place of each of `count` rows in an order of rows, 1 being the first; 0 outside it."""
    found = np.zeros(count, np.int64)
    found[order] = np.arange(1, len(order) + 1)
    return found


def costs(rows: pl.DataFrame, unit: Unit, tokens: str) -> NDArray[np.int64]:
    """What each row takes from a budget: 1, or its value in the column `tokens`."""
    if unit == "rows":
        return np.ones(len(rows), np.int64)
    column = rows[tokens]
    if not column.dtype.is_integer() or column.has_nulls() or (column < 0).any():
        raise UserError(
            f"the column {tokens!r} does not count the tokens of every row",
            why=f"its type is {column.dtype}, and {column.null_count()} rows have no value",
            hint="name a column of whole numbers, such as `tokens` of score.loss",
        )
    return column.cast(pl.Int64).to_numpy()


def divide(
    budget: int,
    capacities: NDArray[np.int64],
    weights: NDArray[np.float64],
    minimum: int = 0,
) -> NDArray[np.int64]:
    """Split a budget among groups in proportion to their weights, to none more than its capacity.

    What a full group cannot take goes to the others in the same proportion; fractions
    go to the largest remainders, the first group first among equal ones. The shares
    sum to min(budget, sum of the capacities). A group of weight 0 gets nothing. No
    other group gets less than `minimum`, or than its capacity where that is less; a
    budget that cannot give so much to all is shared out evenly.
    """
    floors = np.minimum(np.where(weights > 0, minimum, 0), capacities)
    if floors.sum() >= budget:
        return _proportional(budget, floors, np.ones(len(floors)))
    raised = np.zeros(len(floors), np.bool_)
    while True:
        shares = np.where(raised, floors, 0)
        left = budget - int(shares.sum())
        shares[~raised] = _proportional(left, capacities[~raised], weights[~raised])
        below = shares < floors
        if not below.any():
            return shares
        raised |= below


def _proportional(
    budget: int, capacities: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    shares = np.zeros_like(capacities)
    open_groups = (capacities > 0) & (weights > 0)
    while open_groups.any():
        left = budget - int(shares.sum())
        exact = left * weights[open_groups] / weights[open_groups].sum()
        index = np.flatnonzero(open_groups)
        full = exact >= capacities[index]
        if not full.any():
            whole = np.floor(exact).astype(np.int64)
            remainders = np.round(exact - whole, FRACTION)
            largest = np.argsort(-remainders, kind="stable")[: left - int(whole.sum())]
            whole[largest] += 1
            shares[index] = whole
            break
        shares[index[full]] = capacities[index[full]]
        open_groups[index[full]] = False
    return shares


def fill(prices: NDArray[np.int64], order: Iterable[int], budget: int) -> NDArray[np.bool_]:
    """Mark rows in the given order, passing over those that no longer fit.

    prices: one per row. Returns a mask over all rows. No unmarked row of the
    order would still fit. Each decision depends on those before it, so this is a loop.
    """
    chosen = np.zeros(len(prices), np.bool_)
    listed = prices.tolist()
    for row in order:
        if listed[row] <= budget:
            chosen[row] = True
            budget -= listed[row]
    return chosen


def fill_groups(
    prices: NDArray[np.int64],
    groups: NDArray[np.integer],
    order: NDArray[np.int64],
    budgets: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """`fill` with a budget for each group: groups[i] is the number of row i's group."""
    chosen = np.zeros(len(prices), np.bool_)
    left = budgets.tolist()
    listed = zip(order.tolist(), groups[order].tolist(), prices[order].tolist(), strict=True)
    for row, group, price in listed:
        if price <= left[group]:
            chosen[row] = True
            left[group] -= price
    return chosen


def ranks_within(groups: NDArray[np.integer], keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each row in its group by ascending key, 1 being the first.

    Rows without a key (NaN) come last, equal ones stay in the order of the rows.
    """
    sizes = np.bincount(groups)
    before: NDArray[np.int64] = (np.cumsum(sizes) - sizes)[groups]
    return ranks(np.lexsort((keys, groups)), len(groups)) - before


def not_selected(
    chosen: NDArray[np.bool_],
    facts: Mapping[str, Any],
    by: str | None = None,
    keys: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """`drop_reason` and `evidence` where rows that are not chosen are dropped.

    facts: columns that tell of each row why; they become the evidence's JSON.
    by, keys: the score that decides, and what it came to: a row that is dropped and has
    none (NaN) is told apart as `missing_score`, and its evidence names the score.
    """
    left = pl.when(~pl.Series(chosen))
    missing = pl.lit(False) if by is None or keys is None else pl.Series(np.isnan(keys))
    reason = pl.when(missing).then(pl.lit("missing_score")).otherwise(pl.lit("not_selected"))
    told = pl.when(missing).then(pl.struct(pl.lit(by).alias("by"), pl.all()).struct.json_encode())
    return pl.DataFrame(facts).select(
        left.then(reason).alias("drop_reason"),
        left.then(told.otherwise(pl.struct(pl.all()).struct.json_encode())).alias("evidence"),
    )


def uniform(ids: pl.Series, purpose: str) -> NDArray[np.float64]:
    """One number in [0, 1) per id, from a digest of purpose and id alone.

    It depends on no other row and on no library's generator, so it stays the same
    when rows are added. A loop: hashes of the table libraries change with their
    versions.
    """
    key = purpose.encode()
    digests = b"".join(
        hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids.to_list()
    )
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)) / 2.0**53


def spread(
    prices: NDArray[np.int64],
    groups: NDArray[np.integer],
    ranks: NDArray[np.int64],
    quotas: NDArray[np.int64],
    budget: int,
) -> NDArray[np.bool_]:
    """Mark the first rows of every group up to its quota, then spend what is left of the budget.

    ranks: each row's place in its group. A quota of tokens is seldom met exactly: the
    rest goes to the rows left over that still fit, those of the lowest rank first. A
    group whose quota is 0 gets nothing.
    """
    order = np.lexsort((groups, ranks))
    order = order[quotas[groups[order]] > 0]
    chosen = fill_groups(prices, groups, order, quotas)
    rest = order[~chosen[order]]
    return chosen | fill(prices, rest.tolist(), budget - int(prices[chosen].sum()))
