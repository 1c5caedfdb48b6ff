"""The best rows by a score: above a threshold, within a budget, or both."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    expression,
    expression_columns,
    fill,
    places,
    ranking,
    scores,
)


def _reads(options: SimpleNamespace) -> list[str]:
    columns = expression_columns(options.by)
    columns += cost_columns(options.unit, options.tokens)
    return list(dict.fromkeys(columns))


def _check(options: SimpleNamespace) -> None:
    expression(options.by)
    if options.budget is None and options.minimum is None and options.maximum is None:
        raise UserError(
            "select.top has nothing to decide by",
            hint="give a budget, a minimum or a maximum",
        )
    check_budget(options)


@stage(version=1, scope="set", reads=_reads, check=_check)
def top(
    ctx: Context,
    rows: Records,
    *,
    by: str,
    budget: int | None = None,
    unit: Unit = "rows",
    minimum: float | None = None,
    maximum: float | None = None,
    descending: bool = True,
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Keep the rows with the best scores.

    by: a column, or an SQL expression over columns (`ifd * 2 - ppl`). Booleans
        count as 0 and 1. A null or NaN is a missing score.
    budget: how much to keep at most, in rows or tokens; equal scores rank by id.
        In tokens, a row that no longer fits is passed over for the next ones.
    minimum, maximum: the scores to keep, ends included, before the budget.
    descending: whether large scores are the best ones.
    tokens: the column that counts a row's tokens, where `unit` is tokens.

    Dropped: `missing_score`, `below_threshold`, `above_threshold`, `not_selected`
    (with the row's rank, 1 being the best, and the score of the last row chosen).
    """
    values = scores(rows, by)
    low = values < (-np.inf if minimum is None else minimum)
    high = values > (np.inf if maximum is None else maximum)
    fits = ~(np.isnan(values) | low | high)
    order = ranking(values, descending)
    order = order[fits[order]]
    chosen = fits if budget is None else fill(costs(rows, unit, tokens), order.tolist(), budget)
    picked = values[order[chosen[order]]]
    facts = {"score": values, "rank": places(order, len(rows)), "chosen": chosen}
    told = {"minimum": minimum, "maximum": maximum, "cutoff": picked[-1] if len(picked) else None}
    return (
        pl.DataFrame({**facts, "low": low, "high": high})
        .with_columns(pl.lit(value, pl.Float64).alias(name) for name, value in told.items())
        .with_columns(pl.col("score").fill_nan(None), by=pl.lit(by))
        .select(_reason(), _evidence())
    )


def _reason() -> pl.Expr:
    return (
        pl.when("chosen")
        .then(None)
        .when(pl.col("score").is_null())
        .then(pl.lit("missing_score"))
        .when("low")
        .then(pl.lit("below_threshold"))
        .when("high")
        .then(pl.lit("above_threshold"))
        .otherwise(pl.lit("not_selected"))
        .alias("drop_reason")
    )


def _evidence() -> pl.Expr:
    """What the reason rests on, as a JSON object."""
    facts = {
        "missing_score": ["by"],
        "below_threshold": ["score", "minimum"],
        "above_threshold": ["score", "maximum"],
        "not_selected": ["score", "rank", "cutoff"],
    }
    texts = [
        pl.when(_reason() == reason).then(pl.struct(names).struct.json_encode())
        for reason, names in facts.items()
    ]
    return pl.coalesce(texts).alias("evidence")
