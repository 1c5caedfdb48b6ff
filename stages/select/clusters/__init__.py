"""The best rows of every cluster, so that no region of the data goes unseen.

Rows are clustered by their vectors. Under `rule: quota` the budget is split among the
clusters, and each quota is filled with the cluster's best rows. What a small cluster
cannot take goes to the others in the same proportion, fractions to the largest remainders.
In tokens, sizes are token counts, a row that no longer fits its cluster's quota is passed
over, and what remains is spent by rank.

- CaR (Ge et al. 2024, arXiv:2402.18191): `rule: car` with a score of quality. The union of
  the best rows of all and the best of each cluster, clustered in the principal components
  that hold 0.95 of the variance. Its code selects 1000 and 1 of them: so does this stage
  without a budget. A budget limits the union, the clusters' rows first; without `num_best`,
  the best rows of all fill what the clusters' rows leave. Rows without a score are never
  selected.
- kMQ (Yu et al. 2024, arXiv:2409.11378): a score of quality and
  `rule: {name: quota, sample: true}`: quotas by size, rows drawn with probabilities in
  proportion to their quality. The paper draws with replacement; here no row is drawn twice.
- Its iterative selection, "Diversify and Conquer":
  `rule: {name: quota, quota: uniform, round_weight: <gap>, rounds: 3}`. The budget is split
  evenly among rounds. Before each but the first, a cluster's weight is multiplied by
  s / sum(s), s being the mean score of the rows selected from it so far: the reward of the
  gold answer less that of the model's own. Within one stage the scores are those measured
  before it. With training in between, each round is a stage of its own over the same
  pool: rows selected before, with their newest scores, come in on the edge `held`, and
  their `cluster_round` is the round of weights that they belong to. A cluster without a
  score takes the mean of the others' s; the paper does not say.
- PASER (He et al. 2025, arXiv:2502.12594): `rule: {name: paser, degradation: <column>}` with its
  efficiency score: quotas in proportion to a cluster's mean degradation, and no row that
  contradicts those before it (see `paser.py`).
- Adapt-∞ (Maharana et al. 2024, arXiv:2410.10636): `rule: {name: adapt_infinity, scorers: [...]}`
  with gradients as vectors: each cluster by the scorer of the highest entropy (see
  `adapt_infinity.py`).
"""

from __future__ import annotations

from math import isqrt
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, option_group
from stages._selection.amounts import Budget, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    cost_columns,
    not_selected,
    row_costs,
)
from stages._selection.held import KEEP_CHOSEN, held_rows, still_held
from stages._selection.random_draws import uniform
from stages._selection.scores import Expression, expression_columns, ranks_within, scores
from stages._vectors.arrays import as_matrix, principal_components, to_device
from stages._vectors.kmeans import kmeans
from stages.select.clusters.adapt_infinity import AdaptInfinity, by_adapt_infinity
from stages.select.clusters.car import CAR_VARIANCE, Car, by_car
from stages.select.clusters.paser import Paser, by_paser
from stages.select.clusters.quotas import (
    Members,
    Outcome,
    QuotaRule,
    RoundScores,
    by_quota,
    cluster_weights,
    previous_rounds,
    round_scores,
)
from stages.select.clusters.spectral import spectral


@option_group
class KMeans:
    """k-means under the Euclidean distance."""

    name: Literal["kmeans"] = "kmeans"


@option_group
class Spectral:
    """Spectral clusters of the nearest-neighbor graph (Ng, Jordan and Weiss 2001).

    Attributes:
        n_neighbors: The neighbors that each row is joined to.
    """

    name: Literal["spectral"] = "spectral"
    n_neighbors: Count = 10


Method = Annotated[KMeans | Spectral, Field(discriminator="name")]
Rule = Annotated[QuotaRule | Car | Paser | AdaptInfinity, Field(discriminator="name")]


def _round_weight(rule: Rule) -> str | None:
    return rule.round_weight if isinstance(rule, QuotaRule) else None


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    rule = options.rule
    columns = [options.vector, *expression_columns(options.score)]
    gaps = expression_columns(_round_weight(rule))
    if isinstance(rule, QuotaRule):
        columns += expression_columns(rule.quota_weight)
        columns += gaps if rule.rounds > 1 else []
    if isinstance(rule, Paser):
        columns += ["messages", *expression_columns(rule.degradation)]
    if isinstance(rule, AdaptInfinity):
        columns += [name for scorer in rule.scorers for name in expression_columns(scorer)]
    columns += cost_columns(options)
    held = ["cluster_round", *gaps] if gaps and not options.keep_chosen else []
    return {"rows": list(dict.fromkeys(columns)), "held": list(dict.fromkeys(held))}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    selected_by = {"chosen_by": pl.String} if isinstance(options.rule, Car) else {}
    if isinstance(options.rule, AdaptInfinity):
        selected_by = {"cluster_scorer": pl.String}
    in_round = {} if _round_weight(options.rule) is None else {"cluster_round": pl.Int32}
    return {"cluster": pl.Int32, "cluster_rank": pl.Int32, **selected_by, **in_round}


def _check(options: SimpleNamespace) -> None:
    check_selection(options)
    if isinstance(options.rule, Car):
        if options.score is None:
            raise OptionError("score", "must be given with rule: car, got null")
    elif isinstance(options.rule, Paser):
        _check_paser(options)
    elif isinstance(options.rule, AdaptInfinity):
        _check_adapt_infinity(options)
    elif options.keep_chosen and options.rule.round_weight is not None:
        hint = "rounds read on `held` in which round a row was selected"
        raise OptionError(KEEP_CHOSEN, "must be left out with round_weight, got true", hint=hint)
    elif options.budget is None:
        raise OptionError("budget", "must be given with rule: quota, got null")
    elif options.rule.sample and not options.descending:
        raise OptionError("descending", "must be left out with sample: true, got false")


def _check_paser(options: SimpleNamespace) -> None:
    if options.score is None:
        raise OptionError("score", "must be given with rule: paser, got null")
    if options.budget is None or amount_of(options.budget).rows is not None:
        what = f"must be one number with rule: paser, got {options.budget}"
        raise OptionError("budget", what, why="it is split among the clusters and rounded down")
    if options.keep_chosen:
        raise OptionError(KEEP_CHOSEN, "must be left out with rule: paser, got true")


def _check_adapt_infinity(options: SimpleNamespace) -> None:
    if options.score is not None:
        raise OptionError("score", "must be left out with rule: adapt_infinity, which has scorers")
    if options.unit != "rows" or not isinstance(options.budget, int):
        what = f"must be a number of rows with rule: adapt_infinity, got {options.budget}"
        raise OptionError("budget", what, why="rows are drawn from bins of equal parts")
    if options.keep_chosen:
        raise OptionError(KEEP_CHOSEN, "must be left out with rule: adapt_infinity, got true")


@stage(version=5, scope="set", reads=_reads, adds=_adds, check=_check, later=(KEEP_CHOSEN,))
def clusters(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    budget: Budget | None = None,
    unit: Unit = "rows",
    score: Expression | None = None,
    descending: bool = True,
    method: Method = KMeans(),
    n_clusters: Count | None = None,
    pca: Annotated[float, Field(gt=0, le=1)] | None = None,
    rule: Rule = QuotaRule(),
    seed: int = 0,
    vector: str = "vector",
    token_column: str = TOKEN_COLUMN,
    keep_chosen: bool = False,
) -> pl.DataFrame:
    """Cluster the rows and keep the best of every cluster.

    Adds `cluster` and `cluster_rank` (1 for the best of its cluster), `cluster_scorer` under
    `rule: adapt_infinity`; for selected rows also `chosen_by` (score, cluster or both) under
    `rule: car`, and `cluster_round` with `round_weight`. Dropped: `not_selected`,
    `missing_score`, `held`.

    Args:
        rows: The rows to choose from.
        held: Rows that were selected before. They must be of this pool and are dropped as
            `held`; with `keep_chosen` those that are of it are kept.
        budget: How much to keep in all, in rows or tokens; never exceeded, and in rows met
            exactly where clusters of a weight above 0 have enough. Required for
            `rule: quota`.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        score: What is best: a column, or an SQL expression over columns. Missing scores rank
            last, equal ones by id. null: the rows nearest to the cluster's center.
        descending: Whether large scores are the best ones.
        method: How rows are clustered: `kmeans` or `spectral`.
        n_clusters: The number of clusters, at most that of the rows; null for the root of
            half the rows, rounded down (CaR's rule).
        pca: Cluster in the fewest principal components that hold this fraction of the
            variance; null for 0.95 under `rule: car`, for the vectors themselves else.
        rule: How the budget is spent: `quota`, `car`, `paser` or `adapt_infinity`.
        seed: Of the clustering and of random draws.
        vector: The column of vectors.
        token_column: The column of each row's number of tokens, where tokens are counted.
        keep_chosen: Whether held rows are kept first, and count in the quotas of their
            clusters; under `rule: car` their `chosen_by` is held.

    Example:
        ```yaml
        best:
          uses: select.clusters
          needs: vectors
          with: {method: kmeans, budget: 1000, score: ifd}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame(
        ...     {"id": ["a", "b", "c"], "vector": [[0.0], [0.1], [9.0]], "ifd": [0.2, 0.9, 0.4]},
        ...     schema_overrides={"vector": pl.List(pl.Float32)},
        ... )
        >>> result = clusters(ctx, rows, budget=2, score="ifd", n_clusters=2)
        >>> rows["id"].filter(result["drop_reason"].is_null()).to_list()
        ['b', 'c']
    """
    count = min(len(rows), n_clusters or max(1, isqrt(len(rows) // 2)))
    variance = CAR_VARIANCE if pca is None and isinstance(rule, Car) else pca
    labels, distances = _cluster(rows[vector], method, count, variance, seed)
    sample = isinstance(rule, QuotaRule) and rule.sample
    keys = _keys(rows, distances, score, descending, seed if sample else None)
    costs = row_costs(rows, budget, unit, token_column)
    members = Members(costs, labels, ranks_within(labels, keys), budget)
    amount = None if budget is None else amount_of(budget)
    is_held = np.zeros(len(rows), np.bool_)
    if keep_chosen:
        is_held = held_rows(rows, still_held(rows, held)) & ~np.isnan(keys)
        held = None
    previous = previous_rounds(rows, held, _round_weight(rule))
    match rule:
        case Car():
            outcome = by_car(members, keys, previous, rule, amount, is_held)
        case QuotaRule():
            weights = cluster_weights(rows, members, rule, count)
            measured = RoundScores(round_scores(rows, held, rule, previous), previous)
            assert amount is not None
            outcome = by_quota(members, weights, amount, measured, rule, is_held)
        case Paser():
            assert amount is not None
            free = np.where(previous > 0, np.nan, keys)
            outcome = by_paser(rows, members, free, amount, rule)
        case AdaptInfinity():
            assert amount is not None
            outcome = by_adapt_infinity(rows, labels, previous == 0, amount.total, rule, seed)
    return _verdict(members, keys, previous, outcome, score)


def _cluster(
    column: pl.Series, method: Method, count: int, variance: float | None, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Each row's cluster and its squared distance to the cluster's center.

    Args:
        column: The vectors.
        method: How they are clustered.
        count: The number of clusters.
        variance: The fraction of the variance that is kept; None for the vectors themselves.
        seed: Of the clustering.
    """
    vectors = as_matrix(column)
    if not len(vectors):
        return np.zeros(0, np.int32), np.zeros(0)
    on_device = to_device(vectors if variance is None else principal_components(vectors, variance))
    if isinstance(method, Spectral):
        result = spectral(on_device, count, seed, method.n_neighbors)
    else:
        result = kmeans(on_device, count, seed)
    return result.labels, result.distances.astype(np.float64)


def _keys(
    rows: pl.DataFrame,
    distances: NDArray[np.float64],
    score: str | None,
    descending: bool,
    seed: int | None,
) -> NDArray[np.float64]:
    """What rows are ordered by, the smallest first; NaN for rows without a score.

    With a seed they are drawn: an exponential variable over the weight, so that the first of
    the order are a sample without replacement (Efraimidis and Spirakis 2006).

    Args:
        rows: The rows.
        distances: Their distances to the cluster's center, the keys without a score.
        score: A column or an SQL expression.
        descending: Whether large scores are the best ones.
        seed: Of the draw; None for the best rows.
    """
    if seed is None:
        if score is None:
            return distances
        return -scores(rows, score) if descending else scores(rows, score)
    weights = np.ones(len(rows)) if score is None else scores(rows, score)
    if (weights < 0).any():
        raise UserError(
            f"the score must be 0 or more with sample: true, got {np.nanmin(weights):g}",
            why=f"{score!r} is the weight of a row in the draw",
        )
    exponential = -np.log1p(-uniform(rows["id"], f"select.clusters {seed}"))
    keys: NDArray[np.float64] = np.full(len(rows), np.inf)
    return np.divide(exponential, weights, keys, where=weights != 0)


def _verdict(
    members: Members,
    keys: NDArray[np.float64],
    previous: NDArray[np.int64],
    outcome: Outcome,
    score: str | None,
) -> pl.DataFrame:
    """The columns of the stage: cluster and rank, those of the rule, and the verdict.

    Args:
        members: The rows.
        keys: What rows are ordered by, NaN for rows without a score.
        previous: The rounds in which rows were selected before this stage, 0 for none.
        outcome: What the rule selects.
        score: The score, named in the evidence of rows without one.
    """
    common = {"cluster": members.labels, "rank": members.ranks}
    held = pl.when(pl.Series(previous > 0)).then(pl.lit("held"))
    facts = {**common, **outcome.facts}
    verdict = not_selected(outcome.selected, facts, score, keys).with_columns(
        held.otherwise("drop_reason").alias("drop_reason")
    )
    columns = pl.DataFrame(common).cast(pl.Int32).rename({"rank": "cluster_rank"})
    return pl.concat([columns, outcome.added, verdict], how="horizontal")
