"""A random sample, the baseline that every selection has to beat.

Rows are ordered by a hash of the seed and their ids. So the sample does not depend on
the order of the rows, a larger budget only adds to a smaller one, and rows that are added
to the pool do not change the order of the others.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Pairs, Records, stage
from stages._selection.amounts import Budget, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    cost_columns,
    fill,
    not_selected,
    row_costs,
)
from stages._selection.held import held_first, held_rows
from stages._selection.random_draws import uniform
from stages._selection.scores import ranking, ranks


@stage(
    version=2,
    scope="set",
    reads=cost_columns,
    adds={"random_rank": pl.Int32},
    check=check_selection,
    later=("held",),
)
def random(
    ctx: Context,
    rows: Records | Pairs,
    held: Records | Pairs | None = None,
    *,
    budget: Budget,
    unit: Unit = "rows",
    seed: int = 0,
    token_column: str = TOKEN_COLUMN,
) -> pl.DataFrame:
    """Keep rows at random, each with the same chance.

    Adds `random_rank`, the row's rank in the random order from 1. Dropped: `not_selected`,
    with the rank.

    Args:
        rows: The rows to choose from.
        held: Rows that were chosen before: those that are among the rows are kept first.
        budget: How much to keep at most, in rows or tokens. In tokens, a row that no longer
            fits is passed over for the next ones in the random order.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        seed: Another seed gives another order.
        token_column: The column of each row's number of tokens, where tokens are counted.

    Example:
        ```yaml
        sample:
          uses: select.random
          needs: pool
          with: {budget: 1000, seed: 1}
        ```

        >>> from pathlib import Path
        >>> ctx, rows = Context(Path(), Path(), Path()), pl.DataFrame({"id": ["a", "b", "c"]})
        >>> random(ctx, rows, budget=1)["drop_reason"].to_list()
        [None, 'not_selected', 'not_selected']
    """
    order = ranking(uniform(rows["id"], f"select.random:{seed}"), descending=False)
    places = held_first(order, held_rows(rows, held)).tolist()
    selected = fill(row_costs(rows, budget, unit, token_column), places, *amount_of(budget))
    column = pl.Series("random_rank", ranks(order, len(rows)), pl.Int32)
    return not_selected(selected, {"rank": column}).with_columns(column)
