"""A sample of every stratum: rows grouped by what they are, and a quota for each group.

Proportional quotas give the mean of a stratified sample less variance than that of a
simple random one (Neyman 1934). Uniform and square-root quotas, or weights by name, keep
rare strata in the sample.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._selection.amounts import Budget, PerGroup, amount_of
from stages._selection.budget import (
    EXPONENTS,
    TOKEN_COLUMN,
    Quota,
    Unit,
    check_same_units,
    check_selection,
    check_unused,
    cost_columns,
    divide_amount,
    fill_quotas,
    group_sizes,
    not_selected,
    row_costs,
)
from stages._selection.groups import GroupWeights, group_columns, groups_of
from stages._selection.held import held_rows
from stages._selection.scores import Expression, expression_columns, ranks_within, sort_keys


def _reads(options: SimpleNamespace) -> list[str]:
    columns = [*group_columns(options.group), *expression_columns(options.score)]
    return list(dict.fromkeys([*columns, *cost_columns(options)]))


def _check(options: SimpleNamespace) -> None:
    check_selection(options)
    check_same_units(options, "min_quota")
    if options.weights is not None:
        check_unused(options, "quota", "proportional", "with weights")
    if options.score is not None:
        check_unused(options, "seed", 0, "with a score, because no row is drawn")


@stage(
    version=4,
    scope="set",
    reads=_reads,
    adds={"stratum": pl.String, "stratum_rank": pl.Int32},
    check=_check,
    later=("held",),
)
def stratified(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    group: Expression,
    budget: Budget,
    unit: Unit = "rows",
    quota: Quota = "proportional",
    weights: GroupWeights | None = None,
    min_quota: Budget = 0,
    score: Expression | None = None,
    descending: bool = True,
    seed: int = 0,
    token_column: str = TOKEN_COLUMN,
) -> pl.DataFrame:
    """Split the budget among the strata and keep rows of each, at random or the best.

    Adds `stratum` and `stratum_rank`, the row's rank in it from 1. Dropped: `not_selected`,
    or `missing_score` where the row has none, with both and the stratum's quota.

    Args:
        rows: The rows to choose from.
        held: Rows that were chosen before: those that are among the rows are kept first, and
            count in the quotas of their strata.
        group: What the strata are: `source`, a column or an SQL expression; of lists such
            as tags, a row belongs to the rarest (see `stages/_selection/groups.py`).
        budget: How much to keep in all, in rows or tokens; never exceeded, and in rows met
            exactly where there are enough.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        quota: A stratum's part of the budget: proportional to its size (in the budget's
            unit), to the root of the size, or uniform. What a small stratum cannot take goes
            to the others in the same proportion, fractions to the largest remainders.
        weights: The strata's parts by name, in place of `quota`: `{math: 2, code: 1}`. A
            stratum that is not named gets nothing; a name without rows is an error.
        min_quota: What each stratum gets at least, in the budget's unit, or all that it has.
            A budget that is too small for that is split evenly.
        score: Keep the rows with the best scores of a stratum: a column, or an SQL
            expression. Missing scores rank last, equal ones by id. null: at random.
        descending: Whether large scores are the best ones.
        seed: Of the random order, without a score.
        token_column: The column of each row's number of tokens, where tokens are counted. A row
            that no longer fits its stratum's quota is passed over; what then remains is
            spent on the other rows, those of the best rank first.

    Example:
        ```yaml
        sample:
          uses: select.stratified
          needs: tagged
          with: {group: language, budget: 1000, quota: sqrt}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "kind": ["x", "y", "y"]})
        >>> rows = rows.with_columns(ifd=pl.Series([0.5, 0.1, 0.9]))
        >>> result = stratified(ctx, rows, group="kind", budget=2, score="ifd")
        >>> rows["id"].filter(result["drop_reason"].is_null()).to_list()
        ['a', 'c']
    """
    strata = groups_of(rows, group, weights or ())
    costs = row_costs(rows, budget, unit, token_column)
    sizes = group_sizes(costs, strata.codes, len(strata.names), budget)
    group_weights = sizes.map(lambda size: size.astype(np.float64) ** EXPONENTS[quota])
    if weights is not None:
        named = strata.weights(weights)
        group_weights = PerGroup(named, named)
    quotas = divide_amount(amount_of(budget), sizes, group_weights, amount_of(min_quota))
    keys = sort_keys(rows, score, descending, f"select.stratified:{seed}")
    ranks = ranks_within(strata.codes, keys)
    selected = fill_quotas(
        costs, strata.codes, ranks, quotas, quotas.positive(), amount_of(budget),
        held_rows(rows, held),
    )  # fmt: skip
    rank = pl.Series("stratum_rank", ranks, pl.Int32)
    names = strata.labels().alias("stratum")
    facts = {"stratum": names, "rank": rank, "quota": quotas.column(strata.codes)}
    return not_selected(selected, facts, score, keys).with_columns(names, rank)
