"""A sample of every stratum: rows grouped by what they are, and a quota for each group.

Proportional quotas give the mean of a stratified sample less variance than a
simple random one has (Neyman 1934); uniform and square-root quotas, or fixed
shares, see that rare strata are not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    EXPONENTS,
    Quota,
    Unit,
    check_budget,
    cost_columns,
    costs,
    divide,
    expression_columns,
    not_selected,
    ranks_within,
    scores,
    spread,
    uniform,
)
from stages._selection.groups import check_shares, group_columns, groups_of


def _reads(options: SimpleNamespace) -> list[str]:
    columns = [*group_columns(options.group), *expression_columns(options.by)]
    return list(dict.fromkeys([*columns, *cost_columns(options.unit, options.tokens)]))


def _check(options: SimpleNamespace) -> None:
    group_columns(options.group)
    expression_columns(options.by)
    check_budget(options)
    if options.shares is not None:
        check_shares(options.shares)
    if options.minimum < 0:
        raise UserError(f"minimum: {options.minimum} is negative", hint="give 0 or more")
    refuse_idle(
        *(stratified, options),
        (options.shares is None, "quotas by size, without shares", "quota"),
        (options.by is not None, "a score: by", "descending"),
        (options.by is None, "rows that are drawn, without by", "seed"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(
    version=3,
    scope="set",
    reads=_reads,
    adds={"stratum": pl.String, "stratum_rank": pl.Int32},
    check=_check,
)
def stratified(
    ctx: Context,
    rows: Records,
    *,
    group: str,
    budget: int,
    unit: Unit = "rows",
    quota: Quota = "proportional",
    shares: Mapping[str, float] | None = None,
    minimum: int = 0,
    by: str | None = None,
    descending: bool = True,
    seed: int = 0,
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Split the budget among the strata and keep rows of each, at random or the best.

    group: what the strata are: `source`, a column or an SQL expression; of lists
        such as tags, a row stands under the rarest (see `_strata.py`).
    budget: how much to keep in all, in rows or tokens; never exceeded, and in rows
        met exactly where there are enough.
    quota: a stratum's part: proportional to its size (in rows or tokens), to its
        root, or uniform. What a small stratum cannot take goes to the others in
        the same proportion, and fractions to the largest remainders.
    shares: parts by name in place of `quota`: `{math: 2, code: 1}`; a stratum that
        is not named gets nothing. Raises UserError for a name that no row has.
    minimum: what each stratum gets at least, in rows or tokens, or all that it has;
        a budget that is too small for that is shared out evenly.
    by: keep the rows with the best scores of a stratum: a column, or an SQL
        expression; missing scores rank last, equal ones by id. null: at random.
    descending: whether large scores are the best ones.
    tokens: the column that counts a row's tokens, where `unit` is tokens. A row
        that no longer fits its stratum's quota is passed over, and what then
        remains is spent on the rows left over, those of the best rank first.

    Adds `stratum` and `stratum_rank`, the row's place in it, 1 being the first.
    Dropped: `not_selected`, and `missing_score` where there is none and others were better,
    with both and the stratum's quota.
    """
    strata = groups_of(rows, group, shares or ())
    prices = costs(rows, unit, tokens)
    sizes = np.bincount(strata.codes, prices, len(strata.names)).astype(np.int64)
    weights = sizes.astype(np.float64) ** EXPONENTS[quota]
    if shares is not None:
        weights = strata.weights(shares)
    quotas = divide(budget, sizes, weights, minimum)
    if by is None:
        keys = uniform(rows["id"], f"select.stratified:{seed}")
    else:
        keys = -scores(rows, by) if descending else scores(rows, by)
    ranks = ranks_within(strata.codes, keys)
    chosen = spread(prices, strata.codes, ranks, quotas, budget)
    rank = pl.Series("stratum_rank", ranks, pl.Int32)
    names = strata.labels().alias("stratum")
    facts = {"stratum": names, "rank": rank, "quota": quotas[strata.codes]}
    return not_selected(chosen, facts, by, keys).with_columns(names, rank)
