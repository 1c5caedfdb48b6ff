"""A random sample, the baseline that every selection has to beat.

Each row's place is a hash of the seed and its id. So the sample does not depend
on the order of the rows, a larger budget only adds to a smaller one, and adding
rows to the pool moves no other row.
"""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    fill,
    not_selected,
    ranking,
    ranks,
    uniform,
)


def _check(options: SimpleNamespace) -> None:
    check_budget(options)
    refuse_idle(random, options, (options.unit == "tokens", "unit: tokens", "tokens"))


@stage(
    version=2,
    scope="set",
    reads=lambda options: cost_columns(options.unit, options.tokens),
    adds={"random_rank": pl.Int32},
    check=_check,
)
def random(
    ctx: Context,
    rows: Records,
    *,
    budget: int,
    unit: Unit = "rows",
    seed: int = 0,
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Keep rows at random, each with the same chance.

    budget: how much to keep at most, in rows or tokens. In tokens, a row that no
        longer fits is passed over for the next ones in the random order.
    tokens: the column that counts a row's tokens, where `unit` is tokens.

    Adds `random_rank`, the row's place in the random order, 1 being the first.
    Dropped: `not_selected`, with it.
    """
    order = ranking(uniform(rows["id"], f"select.random:{seed}"), descending=False)
    chosen = fill(costs(rows, unit, tokens), order.tolist(), budget)
    column = pl.Series("random_rank", ranks(order, len(rows)), pl.Int32)
    return not_selected(chosen, {"rank": column}).with_columns(column)
