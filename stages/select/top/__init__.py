"""The best rows by a score: a threshold, a number, a fraction or a percentile band.

What papers keep, in these options:

- Humpback (Li et al. 2023, arXiv:2308.06259): `score: judge_humback, min_score: 5`;
- AlpaGasus (Chen et al. 2023, arXiv:2307.08701): `score: judge_accuracy, min_score: 4.5`;
- Cherry LLM (Li et al. 2023, arXiv:2308.12032): `score: ifd, max_score: 1, fraction: 0.05,
  fraction_of: fitting`; the rows it learns from first lie within `percentiles: [25, 75]`
  of the perplexity, `group: cluster`;
- Superfiltering (Li et al. 2024, arXiv:2402.00530): the same with `fraction_of: all`;
- SelectIT (Liu et al. 2024, arXiv:2402.16705): `fraction: 0.2`; LESS (Xia et al. 2024,
  arXiv:2402.04333): `fraction: 0.05`; Nuggets (Li et al. 2023, arXiv:2312.10302):
  `fraction: 0.01`;
- Active instruction tuning (Kung et al. 2023, arXiv:2311.00288): a budget per task,
  `group: source`;
- Long is more (Zhao et al. 2024, arXiv:2402.04833): `method: long-is-more`, the 1,000
  answers with the most words as NLTK counts them (see `long_is_more.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import Fraction, PercentileRange
from schemas.records import response
from stages._common.verdicts import evidence_of
from stages._selection.amounts import Budget, PerGroup, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    check_unused,
    cost_columns,
    fill_groups,
    row_costs,
)
from stages._selection.groups import Groups, group_columns, groups_of
from stages._selection.held import held_first, held_rows
from stages._selection.scores import Expression, expression_columns, ranks_within, scores
from stages.select.top.long_is_more import nltk_words

Method = Literal["score", "long-is-more"]

LONGEST: Final = 1000
"""How many rows `long-is-more` keeps where nothing else limits them."""

EVIDENCE: Final = {
    "missing_score": ["by"],
    "below_threshold": ["score", "minimum"],
    "above_threshold": ["score", "maximum"],
    "outside_percentiles": ["score", "lowest", "highest"],
    "not_selected": ["score", "rank", "cutoff"],
}
"""The evidence of each drop reason."""


def _reads(options: SimpleNamespace) -> list[str]:
    scored = expression_columns(options.score) if options.method == "score" else ["messages"]
    columns = [*scored, *group_columns(options.group)]
    return list(dict.fromkeys([*columns, *cost_columns(options)]))


def _added(method: Method, limits: Iterable[Any], group: str | None) -> Columns:
    """The added columns: none where fixed thresholds alone decide, because no rank explains
    then why a row is kept."""
    if method == "score" and all(limit is None for limit in limits):
        return {}
    grouped = {} if group is None else {"top_group": pl.String}
    return {"top_score": pl.Float64, "top_rank": pl.Int32, **grouped}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    limits = (options.budget, options.fraction, options.percentiles)
    return _added(options.method, limits, options.group)


def _check(options: SimpleNamespace) -> None:
    by_score = options.method == "score"
    if by_score and options.score is None:
        hint = "write score: COLUMN, or method: long-is-more"
        raise OptionError("score", "must be given with method: score, got null", hint=hint)
    if not by_score:
        check_unused(options, "score", None, f"with method: {options.method}")
    limits = (options.budget, options.fraction, options.percentiles)
    bounds = (options.min_score, options.max_score)
    if by_score and all(limit is None for limit in (*limits, *bounds)):
        hint = "give budget, fraction, min_score, max_score or percentiles"
        raise OptionError("budget", "must be given where nothing else decides", hint=hint)
    if None not in limits[:2]:
        raise OptionError("fraction", f"must be left out with a budget, got {options.fraction}")
    if None not in bounds and options.min_score > options.max_score:
        what = f"must be at most max_score ({options.max_score}), got {options.min_score}"
        raise OptionError("min_score", what)
    if options.fraction is None:
        check_unused(options, "fraction_of", "all", "without a fraction")
    if not _adds(options, {}):
        check_unused(options, "descending", True, "where thresholds alone decide")
    # `descending` has an effect on the number of words, too.
    check_selection(SimpleNamespace(**{**vars(options), "score": options.score or options.method}))


@stage(version=3, scope="set", reads=_reads, adds=_adds, check=_check, later=("held",))
def top(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    method: Method = "score",
    score: Expression | None = None,
    budget: Budget | None = None,
    fraction: Fraction | None = None,
    fraction_of: Literal["all", "fitting"] = "all",
    unit: Unit = "rows",
    min_score: float | None = None,
    max_score: float | None = None,
    percentiles: PercentileRange | None = None,
    descending: bool = True,
    group: Expression | None = None,
    token_column: str = TOKEN_COLUMN,
) -> pl.DataFrame:
    """Keep the rows with the best scores.

    Adds `top_score`, `top_rank` (among the rows within the limits, 1 for the best) and, with
    groups, `top_group`; nothing where `min_score` and `max_score` alone decide, because the
    score then says all. Dropped: `missing_score`, `below_threshold`, `above_threshold`,
    `outside_percentiles`, `not_selected`, each with the numbers that decided.

    Args:
        rows: The rows to choose from.
        held: Rows that were chosen before: those within the limits are kept first, as far as
            the budget of their group goes.
        method: `score` ranks by the option `score`, `long-is-more` by the number of words of
            the answer.
        score: A column, or an SQL expression over columns (`ifd * 2 - ppl`). Booleans count
            as 0 and 1. A null, NaN or infinity (a division by 0) is a missing score, which 0
            is not; so `CASE WHEN ifd < 1 THEN ifd END` leaves out all that is not below 1.
        budget: How much to keep at most, in rows or tokens; equal scores rank by id. In
            tokens, a row that no longer fits is passed over for the next ones.
        fraction: A budget of int(fraction * N), where N counts the rows (or tokens) of the
            pool, or of those within the limits below (`fraction_of: fitting`).
        fraction_of: Of which rows the fraction is taken.
        unit: What the budget and the fraction count, where they are numbers. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        min_score: The smallest score to keep, before the budget.
        max_score: The largest score to keep, before the budget.
        percentiles: Keep the scores between these two, ends included. The p-th of n
            scores in ascending order is the one at index (n - 1) * p / 100 from 0, linearly
            interpolated between two indices.
        descending: Whether large scores are the best ones.
        group: Rank within groups, named by `source`, column or expression (see
            `stages/_selection/groups.py`); budget, fraction and percentiles then hold in
            every group.
        token_column: The column of each row's number of tokens, where tokens are counted.

    Example:
        ```yaml
        hard:
          uses: select.top
          needs: scored
          with: {score: ifd, max_score: 1.0, fraction: 0.1}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "ifd": [0.2, None, 0.9]})
        >>> top(ctx, rows, score="ifd", budget=1)["drop_reason"].to_list()
        ['not_selected', 'missing_score', None]
    """
    values = _answer_lengths(rows) if score is None else scores(rows, score)
    groups = groups_of(rows, group)
    facts = _limited(values, groups, (min_score, max_score), percentiles)
    within = facts["reason"].is_null().to_numpy()
    limits = (budget, fraction, percentiles)
    if method == "long-is-more" and all(x is None for x in (*limits, min_score, max_score)):
        budget = LONGEST
    keys = np.where(within, -values if descending else values, np.nan)
    ranks = np.where(within, ranks_within(groups.codes, keys), 0)
    selected, is_held = within, held_rows(rows, held)
    if budget is not None or fraction is not None:
        costs = row_costs(rows, budget, unit, token_column)
        counted = costs * within if fraction_of == "fitting" else costs
        budgets = _budgets(budget, fraction, counted, groups)
        order = np.argsort(keys, kind="stable")[: int(within.sum())]
        selected = fill_groups(costs, groups.codes, held_first(order, is_held), budgets)
    cutoffs = _cutoffs(values, ranks, selected & ~is_held, groups)
    facts = facts.with_columns(
        pl.when(pl.Series(within)).then(pl.Series(ranks, dtype=pl.Int32)).alias("rank"),
        pl.Series(cutoffs).fill_nan(None).alias("cutoff"),
        pl.lit(score or method).alias("by"),
    )
    return _verdict(facts, selected, _added(method, limits, group), group is not None)


def _verdict(
    facts: pl.DataFrame, selected: NDArray[np.bool_], added: Columns, grouped: bool
) -> pl.DataFrame:
    """The added columns, and the verdict on each row.

    Args:
        facts: What decided on each row.
        selected: The rows that are kept.
        added: The columns that the stage adds.
        grouped: Whether the evidence names the row's group.
    """
    reason = pl.when(~pl.Series(selected)).then(pl.col("reason").fill_null("not_selected"))
    facts = facts.with_columns(reason.alias("reason"))
    return facts.select(
        *(pl.col(name.removeprefix("top_")).alias(name) for name in added),
        pl.col("reason").alias("drop_reason"),
        _evidence(facts, grouped),
    )


def _answer_lengths(rows: pl.DataFrame) -> NDArray[np.float64]:
    """The words of each row's last answer; NaN for a row without one."""
    return nltk_words(rows.select(response()).to_series()).cast(pl.Float64).to_numpy()


def _limited(
    values: NDArray[np.float64],
    groups: Groups,
    thresholds: tuple[float | None, float | None],
    percentiles: PercentileRange | None,
) -> pl.DataFrame:
    """Compare the scores with the limits before the budget.

    Args:
        values: The score of each row, NaN where missing.
        groups: The groups in which percentiles hold.
        thresholds: The smallest and the largest score to keep.
        percentiles: The two percentiles to keep between.

    Returns:
        `score`, `group`, the limits of each row, and `reason` where it is outside them.
    """
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
    values: NDArray[np.float64], groups: Groups, percentiles: PercentileRange | None
) -> NDArray[np.float64]:
    """The two percentiles of each group's scores, shape (groups, 2); NaN for none."""
    bands = np.full((len(groups.names), 2), np.nan)
    if percentiles is not None:
        order = np.argsort(groups.codes, kind="stable")
        sizes = np.bincount(groups.codes, minlength=len(bands))
        for code, members in enumerate(np.split(values[order], np.cumsum(sizes))[: len(bands)]):
            known = members[~np.isnan(members)]
            if len(known):
                bands[code] = np.percentile(known, percentiles)
    return bands


def _budgets(
    budget: Budget | None, fraction: float | None, costs: NDArray[np.int64], groups: Groups
) -> PerGroup:
    """The budget of each group.

    Args:
        budget: The same for every group, where there is no fraction.
        fraction: Of the costs of a group's rows.
        costs: What each row uses of the budget, 0 where it does not count.
        groups: The groups of the rows.
    """
    count = len(groups.names)
    if fraction is not None:
        return PerGroup((fraction * np.bincount(groups.codes, costs, count)).astype(np.int64))
    total, most = amount_of(budget or 0)
    rows = None if most is None else np.full(count, most, np.int64)
    return PerGroup(np.full(count, total, np.int64), rows)


def _cutoffs(
    values: NDArray[np.float64],
    ranks: NDArray[np.int64],
    selected: NDArray[np.bool_],
    groups: Groups,
) -> NDArray[np.float64]:
    """For each row the score of the last selected row of its group; NaN without one."""
    rows = np.flatnonzero(selected)
    rows = rows[np.argsort(ranks[rows])]  # of a group's scores, the one written last stays
    last = np.full(len(groups.names), np.nan)
    last[groups.codes[rows]] = values[rows]
    return last[groups.codes]


def _evidence(facts: pl.DataFrame, grouped: bool) -> pl.Series:
    """The evidence of the reasons as JSON objects; null where there is no reason."""
    group = ["group"] if grouped else []
    by_reason = [
        pl.when(pl.col("reason") == reason).then(evidence_of(*names, *group))
        for reason, names in EVIDENCE.items()
    ]
    # Only for dropped rows: a when-then over all rows takes half of the stage's time.
    dropped = facts["reason"].is_not_null().arg_true()
    nothing = pl.repeat(None, len(facts), dtype=pl.String, eager=True).alias("evidence")
    return nothing.scatter(dropped, facts[dropped].select(pl.coalesce(by_reason)).to_series())
