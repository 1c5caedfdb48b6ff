"""The best rows by a score: a threshold, a number, a share or a percentile band.

What papers keep, in these options:

- Humpback (Li et al. 2023, arXiv:2308.06259): `by: score, minimum: 5`;
- AlpaGasus (Chen et al. 2023, arXiv:2307.08701): `by: score, minimum: 4.5`;
- Cherry LLM (Li et al. 2023, arXiv:2308.12032): `by: ifd, maximum: 1, share: 0.05,
  share_of: fitting`; the rows it learns from first lie within `percentiles: [25, 75]`
  of the perplexity, `group: cluster`;
- Superfiltering (Li et al. 2024, arXiv:2402.00530): the same with `share_of: all`;
- SelectIT (Liu et al. 2024, arXiv:2402.16705): `share: 0.2`; LESS (Xia et al. 2024,
  arXiv:2402.04333): `share: 0.05`; Nuggets (Li et al. 2023, arXiv:2312.10302): `share: 0.01`;
- Active instruction tuning (Kung et al. 2023, arXiv:2311.00288): a budget per task,
  `group: source`;
- Long is more (Zhao et al. 2024, arXiv:2402.04833): `preset: long-is-more`, the 1,000
  answers with the most words as NLTK counts them (see `_nltk_words.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Columns, Edges, Records, stage
from schemas.records import response
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    expression_columns,
    fill_groups,
    ranks_within,
    scores,
)
from stages._selection.groups import Groups, group_columns, groups_of
from stages.select._nltk_words import nltk_words

Preset = Literal["long-is-more"]
Band = tuple[float, float]

LONGEST: Final = 1000
"""How many rows `long-is-more` keeps where nothing else limits them."""

EVIDENCE: Final = {
    "missing_score": ["by"],
    "below_threshold": ["score", "minimum"],
    "above_threshold": ["score", "maximum"],
    "outside_percentiles": ["score", "lowest", "highest"],
    "not_selected": ["score", "rank", "cutoff"],
}
"""What each reason rests on."""


def _reads(options: SimpleNamespace) -> list[str]:
    scored = ["messages"] if options.preset else expression_columns(options.by)
    columns = [*scored, *group_columns(options.group)]
    return list(dict.fromkeys([*columns, *cost_columns(options.unit, options.tokens)]))


def _added(limits: Iterable[Any], group: str | None) -> Columns:
    """Nothing where only fixed thresholds decide: then no rank tells why a row is kept."""
    if all(limit is None for limit in limits):
        return {}
    grouped = {} if group is None else {"top_group": pl.String}
    return {"top_score": pl.Float64, "top_rank": pl.Int32, **grouped}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    limits = (options.preset, options.budget, options.share, options.percentiles)
    return _added(limits, options.group)


def _check(options: SimpleNamespace) -> None:
    if (options.by is None) == (options.preset is None):
        raise UserError("select.top ranks by `by` or by `preset`", hint="give one of the two")
    expression_columns(options.by)
    group_columns(options.group)
    check_budget(options)
    if not _adds(options, {}) and options.minimum is None and options.maximum is None:
        raise UserError(
            "select.top has nothing to decide by",
            hint="give a budget, a share, a minimum, a maximum or percentiles",
        )
    if options.budget is not None and options.share is not None:
        raise UserError("both a budget and a share are given", hint="give one of the two")
    if options.share is not None and not 0 <= options.share <= 1:
        raise UserError(f"share: {options.share} is none", hint="give 0 to 1, such as 0.05")
    if None not in (options.minimum, options.maximum) and options.minimum > options.maximum:
        raise UserError(
            f"minimum: {options.minimum} is above maximum: {options.maximum}",
            hint="no score lies between them; exchange the two",
        )
    low, high = options.percentiles or (0, 100)
    if not 0 <= low <= high <= 100:
        raise UserError(f"percentiles: {low}, {high} are no band", hint="such as [25, 75]")
    limited = options.budget is not None or options.share is not None
    refuse_idle(
        *(top, options),
        (limited, "a budget or a share", "unit"),
        (options.share is not None, "a share", "share_of"),
        (bool(_adds(options, {})), "a rank, which thresholds alone do not make", "descending"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(version=2, scope="set", reads=_reads, adds=_adds, check=_check)
def top(
    ctx: Context,
    rows: Records,
    *,
    by: str | None = None,
    preset: Preset | None = None,
    budget: int | None = None,
    share: float | None = None,
    share_of: Literal["all", "fitting"] = "all",
    unit: Unit = "rows",
    minimum: float | None = None,
    maximum: float | None = None,
    percentiles: Band | None = None,
    descending: bool = True,
    group: str | None = None,
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Keep the rows with the best scores.

    by: a column, or an SQL expression over columns (`ifd * 2 - ppl`). Booleans
        count as 0 and 1. A null or NaN is a missing score, which 0 is not; so
        `CASE WHEN ifd < 1 THEN ifd END` leaves out all that is not below 1.
    preset: `long-is-more`, in place of `by`.
    budget: how much to keep at most, in rows or tokens; equal scores rank by id.
        In tokens, a row that no longer fits is passed over for the next ones.
    share: a budget as int(share * N), where N counts the rows (or tokens) of the
        pool, or of those that pass the limits below (`share_of: fitting`).
    minimum, maximum: the scores to keep, ends included, before the budget.
    percentiles: keep the scores between these two, ends included. The p-th of n
        finite scores in ascending order lies at place (n - 1) * p / 100, counted
        from 0; between two places it is interpolated linearly.
    descending: whether large scores are the best ones.
    group: rank within groups, named by source, column or expression (`_strata.py`);
        budget, share and percentiles then hold in every group.
    tokens: the column that counts a row's tokens, where `unit` is tokens.

    Adds `top_score`, `top_rank` (among the rows that pass the limits, 1 being the
    best) and, with groups, `top_group`; nothing where `minimum` and `maximum` alone
    decide, as the score says it all. Dropped: `missing_score`, `below_threshold`,
    `above_threshold`, `outside_percentiles`, `not_selected`, each with its grounds.
    """
    values = scores(rows, by) if by is not None else _lengths(rows)
    groups = groups_of(rows, group)
    facts = _limited(values, groups, (minimum, maximum), percentiles)
    fits = facts["reason"].is_null().to_numpy()
    if preset and all(x is None for x in (budget, share, minimum, maximum, percentiles)):
        budget = LONGEST
    keys = np.where(fits, -values if descending else values, np.nan)
    ranks = np.where(fits, ranks_within(groups.codes, keys), 0)
    chosen = fits
    if budget is not None or share is not None:
        prices = costs(rows, unit, tokens)
        budgets = _budgets(
            budget, share, prices * fits if share_of == "fitting" else prices, groups
        )
        order = np.argsort(keys, kind="stable")[: int(fits.sum())]
        chosen = fill_groups(prices, groups.codes, order, budgets)
    facts = facts.with_columns(
        pl.when(pl.Series(fits)).then(pl.Series(ranks, dtype=pl.Int32)).alias("rank"),
        pl.Series(_cutoffs(values, ranks, chosen, groups)).fill_nan(None).alias("cutoff"),
        pl.when(~pl.Series(chosen))
        .then(pl.col("reason").fill_null("not_selected"))
        .alias("reason"),
        pl.lit(by if by is not None else preset).alias("by"),
    )
    added = _added((preset, budget, share, percentiles), group)
    return facts.select(
        *(pl.col(name.removeprefix("top_")).alias(name) for name in added),
        pl.col("reason").alias("drop_reason"),
        _evidence(facts, grouped=group is not None),
    )


def _lengths(rows: pl.DataFrame) -> NDArray[np.float64]:
    """The words of each row's last answer; NaN for a row without one."""
    return nltk_words(rows.select(response()).to_series()).cast(pl.Float64).to_numpy()


def _limited(
    values: NDArray[np.float64],
    groups: Groups,
    thresholds: tuple[float | None, float | None],
    percentiles: Band | None,
) -> pl.DataFrame:
    """`score`, `group`, the limits of each row, and the `reason` where it does not keep them."""
    minimum, maximum = thresholds
    lowest, highest = _bands(values, groups, percentiles)[groups.codes].T
    score = pl.col("score")
    return (
        pl.DataFrame(
            {
                "score": values,
                "group": groups.labels(),
                "minimum": np.full(len(values), np.nan if minimum is None else minimum),
                "maximum": np.full(len(values), np.nan if maximum is None else maximum),
                "lowest": lowest,
                "highest": highest,
            }
        )
        .with_columns(pl.col(pl.Float64).fill_nan(None))
        .with_columns(
            pl.when(score.is_null())
            .then(pl.lit("missing_score"))
            .when(score < pl.col("minimum"))
            .then(pl.lit("below_threshold"))
            .when(score > pl.col("maximum"))
            .then(pl.lit("above_threshold"))
            .when((score < pl.col("lowest")) | (score > pl.col("highest")))
            .then(pl.lit("outside_percentiles"))
            .alias("reason")
        )
    )


def _bands(
    values: NDArray[np.float64], groups: Groups, percentiles: Band | None
) -> NDArray[np.float64]:
    """The two percentiles of each group's finite scores, shape (groups, 2); NaN for none."""
    bands = np.full((len(groups.names), 2), np.nan)
    if percentiles is not None:
        order = np.argsort(groups.codes, kind="stable")
        sizes = np.bincount(groups.codes, minlength=len(bands))
        for code, members in enumerate(np.split(values[order], np.cumsum(sizes))[: len(bands)]):
            finite = members[np.isfinite(members)]
            if len(finite):
                bands[code] = np.percentile(finite, percentiles)
    return bands


def _budgets(
    budget: int | None, share: float | None, prices: NDArray[np.int64], groups: Groups
) -> NDArray[np.int64]:
    """What each group may take."""
    if share is None:
        return np.full(len(groups.names), budget, np.int64)
    totals = np.bincount(groups.codes, prices, len(groups.names))
    return (share * totals).astype(np.int64)


def _cutoffs(
    values: NDArray[np.float64],
    ranks: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    groups: Groups,
) -> NDArray[np.float64]:
    """For each row the score of the last row that was chosen in its group; NaN without one."""
    taken = np.flatnonzero(chosen)
    taken = taken[np.argsort(ranks[taken])]  # of a group's scores, the one written last stays
    last = np.full(len(groups.names), np.nan)
    last[groups.codes[taken]] = values[taken]
    return last[groups.codes]


def _evidence(facts: pl.DataFrame, grouped: bool) -> pl.Series:
    """What the reasons rest on, as JSON objects; null where there is no reason."""
    group = ["group"] if grouped else []
    told = [
        pl.when(pl.col("reason") == reason).then(pl.struct(*names, *group).struct.json_encode())
        for reason, names in EVIDENCE.items()
    ]
    # Of the dropped rows alone: a when-then would write that of all, for half of the stage's time.
    dropped = facts["reason"].is_not_null().arg_true()
    nothing = pl.repeat(None, len(facts), dtype=pl.String, eager=True).alias("evidence")
    return nothing.scatter(dropped, facts[dropped].select(pl.coalesce(told)).to_series())
