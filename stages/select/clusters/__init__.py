"""The best rows of every cluster, so that no region of the data goes unseen.

Rows are clustered by their vectors. Under `rule: quota` the budget is split among
the clusters, and each is filled with its best rows. What a small cluster cannot
take goes to the others in the same proportion, fractions to the largest
remainders. In tokens, sizes are token counts, a row that no longer fits its
cluster's quota is passed over, and what remains is spent by rank.

- CaR (Ge et al. 2024, arXiv:2402.18191): `rule: car, by: <quality>`. The union of
  the best rows of all and the best of each cluster, clustered in the principal
  components that hold 0.95 of the variance. Its code takes 1000 and 1 of them: so
  does this stage without a budget. A budget caps the union, the clusters' rows
  first; without `best`, the best rows of all fill what the clusters' rows leave.
  Rows without a score are never chosen.
- kMQ (Yu et al. 2024, arXiv:2409.11378): `by: <quality>, draw: true`: quotas by
  size, rows drawn with probabilities in proportion to their quality. The paper
  draws with replacement; here no row is drawn twice.
- Its iterative selection, "Diversify and Conquer": `quota: uniform, reweigh_by:
  <gap>, rounds: 3`. The budget is split evenly among rounds. Before each but the
  first, a cluster's weight is multiplied by s / sum(s), s being the mean score of
  the rows chosen from it so far: the reward of the gold answer less that of the
  model's own. Within one stage the scores are those measured before it. With
  training in between, each round is a stage of its own over the whole pool: rows
  chosen before, with their newest scores, come in on the edge `held`, and their
  `cluster_round` tells which round of weights they belong to. A cluster without a
  score takes the mean of the others' s; the paper is silent here.
- PASER (arXiv:2502.12594): `quota: uniform, quota_by: <degradation>`: shares in
  proportion to a cluster's mean.
"""

from __future__ import annotations

from math import isqrt
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Edges, Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    EXPONENTS,
    Quota,
    Unit,
    check_budget,
    cost_columns,
    costs,
    expression_columns,
    not_selected,
    ranking,
    ranks,
    ranks_within,
    scores,
    uniform,
)
from stages._vectors.arrays import as_matrix, principal, to_device
from stages._vectors.kmeans import kmeans
from stages.select._quotas import Members, Scores, Update, cluster_means, in_rounds, union
from stages.select._spectral import spectral

CAR_VARIANCE: Final = 0.95
CAR_BEST: Final = 1000


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    gaps = expression_columns(options.reweigh_by)
    columns = [options.vector]
    columns += [*expression_columns(options.by), *expression_columns(options.quota_by)]
    columns += [*(gaps if options.rounds > 1 else []), *cost_columns(options.unit, options.tokens)]
    held = ["cluster_round", *gaps] if gaps else []
    return {"rows": list(dict.fromkeys(columns)), "held": list(dict.fromkeys(held))}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    chosen_by = {"chosen_by": pl.String} if options.rule == "car" else {}
    in_round = {"cluster_round": pl.Int32} if options.reweigh_by is not None else {}
    return {"cluster": pl.Int32, "cluster_rank": pl.Int32, **chosen_by, **in_round}


def _check(options: SimpleNamespace) -> None:
    for by in (options.by, options.quota_by, options.reweigh_by):
        expression_columns(by)
    check_budget(options)
    for name, least in {"k": 1, "rounds": 1, "nearest": 1, "per_cluster": 1, "best": 0}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"{name}: {value} is too small", hint=f"give {least} or more")
    car = options.rule == "car"
    of_quotas = options.draw or options.rounds > 1 or options.quota_by or options.reweigh_by
    wrong = {
        "needs a budget": options.budget is None and not car,
        "rule: car needs a score, so give `by`": car and options.by is None,
        "rule: car knows no draw, rounds, quota_by or reweigh_by": car and of_quotas,
        "best and per_cluster belong to rule: car": not car
        and (options.best is not None or options.per_cluster != 1),
        "rounds need `reweigh_by`": options.rounds > 1 and options.reweigh_by is None,
        "draw has no use for `descending: false`": options.draw and not options.descending,
        "pca is a share, above 0 and up to 1": options.pca is not None and not 0 < options.pca <= 1,
    }
    for problem in (problem for problem, found in wrong.items() if found):
        raise UserError(f"select.clusters: {problem}")
    method = options.method
    refuse_idle(
        *(clusters, options),
        (options.by is not None, "a score: by", "descending"),
        (method == "spectral", "method: spectral", "nearest"),
        (not car, "rule: quota", "quota"),
        (options.reweigh_by is not None, "reweigh_by", "update"),
        (options.budget is not None, "a budget", "unit"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(version=4, scope="set", reads=_reads, adds=_adds, check=_check)
def clusters(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    budget: int | None = None,
    unit: Unit = "rows",
    by: str | None = None,
    descending: bool = True,
    draw: bool = False,
    method: Literal["kmeans", "spectral"] = "kmeans",
    k: int | None = None,
    nearest: int = 10,
    pca: float | None = None,
    rule: Literal["quota", "car"] = "quota",
    quota: Quota = "proportional",
    quota_by: str | None = None,
    reweigh_by: str | None = None,
    update: Update = "share",
    rounds: int = 1,
    best: int | None = None,
    per_cluster: int = 1,
    seed: int = 0,
    vector: str = "vector",
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Cluster the rows and keep the best of every cluster.

    held: rows of this pool that were chosen before. They are dropped as `held`.
    budget: how much to keep in all, in rows or tokens; never exceeded, and in rows
        met exactly where clusters of a weight above 0 have enough.
    by: what is best: a column, or an SQL expression over columns; missing scores
        rank last, equal ones by id. null: the rows nearest to the cluster's centre
        (with `draw`, all alike). descending: whether large scores are the best ones.
    draw: draw the rows of a cluster, by weights of 0 or more, instead of the best.
    method: k-means, or spectral clusters of the graph of `nearest` neighbours.
    k: the number of clusters, at most that of the rows; null for the root of half
        the rows, rounded down (CaR's rule).
    pca: cluster in the fewest principal components that hold this share of the
        variance; null for 0.95 under `rule: car`, for the vectors themselves else.
    quota: split the budget by the clusters' sizes, by their roots, or evenly.
    quota_by: multiplies the quotas by the mean of this expression over a cluster's
        rows; missing values are left out, a cluster without any takes the mean of
        the others. 0 gives a cluster nothing.
    update: `share` weighs as the paper does; `softmax` sets the weights to
        exp(s) / sum(exp(s)), as its code does, and allows scores below 0.
    best, per_cluster: for `rule: car`, rows of all and of each cluster.
    vector, tokens: the columns of vectors, and of tokens where `unit` is tokens.

    Adds `cluster` and `cluster_rank` (1 being the best of its cluster); for rows
    chosen also `chosen_by` (score, cluster or both) under `rule: car`, and
    `cluster_round` with `reweigh_by`. Dropped: `not_selected`, `missing_score`, `held`.
    """
    count = min(len(rows), max(1, isqrt(len(rows) // 2)) if k is None else k)
    share = CAR_VARIANCE if pca is None and rule == "car" else pca
    labels, gaps = _cluster(rows[vector], method, count, share, nearest, seed)
    keys = _keys(rows, gaps, by, descending, seed if draw else None)
    members = Members(costs(rows, unit, tokens), labels, ranks_within(labels, keys))
    earlier = _earlier(rows, held, reweigh_by)
    if rule == "car":
        limit = CAR_BEST if best is None and budget is None else best
        return _car(members, keys, earlier, limit, per_cluster, budget, by)
    weights = _weights(rows, members, quota, quota_by, count)
    measured = Scores(_values(rows, held, reweigh_by, earlier, rounds), earlier)
    told = in_rounds(members, weights, budget or 0, measured, rounds, update)
    return _quota(members, keys, earlier, *told, by, with_round=reweigh_by is not None)


def _cluster(
    column: pl.Series,
    method: Literal["kmeans", "spectral"],
    count: int,
    share: float | None,
    nearest: int,
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Each row's cluster and its squared distance to the cluster's centre."""
    vectors = as_matrix(column)
    if not len(vectors):
        return np.zeros(0, np.int32), np.zeros(0)
    placed = to_device(vectors if share is None else principal(vectors, share))
    if method == "kmeans":
        found = kmeans(placed, count, seed)
    else:
        found = spectral(placed, count, seed, nearest)
    return found.labels, found.distances.astype(np.float64)


def _keys(
    rows: pl.DataFrame,
    gaps: NDArray[np.float64],
    by: str | None,
    descending: bool,
    seed: int | None,
) -> NDArray[np.float64]:
    """What rows are ordered by, the smallest first; NaN for rows without a score.

    With a seed they are drawn: an exponential variable over the weight, so that the
    first of the order are a sample without replacement (Efraimidis and Spirakis 2006).
    """
    if seed is None:
        if by is None:
            return gaps
        return -scores(rows, by) if descending else scores(rows, by)
    weights = np.ones(len(rows)) if by is None else scores(rows, by)
    if (weights < 0).any():
        raise UserError(f"draw: {by!r} is below zero for some rows, so it is no weight")
    waited = -np.log1p(-uniform(rows["id"], f"select.clusters {seed}"))
    keys: NDArray[np.float64] = np.full(len(rows), np.inf)
    return np.divide(waited, weights, keys, where=weights != 0)


def _weights(
    rows: pl.DataFrame, members: Members, quota: Quota, quota_by: str | None, count: int
) -> NDArray[np.float64]:
    """What the clusters' quotas are in proportion to."""
    sizes = np.bincount(members.labels, members.prices, count)
    weights = np.asarray(sizes ** EXPONENTS[quota], np.float64)
    if quota_by is None or rows.is_empty():
        return weights
    means = cluster_means(members.labels, scores(rows, quota_by), count)
    if np.isnan(means).any():
        raise UserError(f"quota_by: no row has a value of {quota_by!r}")
    if means.min() < 0 or not means.any():
        raise UserError(
            f"quota_by: the means of {quota_by!r} are no shares",
            why=f"that of a cluster is {means.min():g}, and the largest is {means.max():g}",
            hint="give an expression that is 0 or more, and not 0 everywhere",
        )
    return weights * means


def _positions(rows: pl.DataFrame, held: pl.DataFrame) -> NDArray[np.int64]:
    """Where the held rows stand in the pool. Raises UserError for rows that it lacks."""
    index = rows.select("id", position=pl.int_range(pl.len()))
    found = held.select("id").join(index, on="id", how="left", maintain_order="left")["position"]
    if found.has_nulls():
        raise UserError(
            f"{found.null_count()} of the rows in `held` are not in the pool",
            hint="connect `rows` to the whole pool: rows chosen before are passed over",
        )
    return found.to_numpy()


def _earlier(
    rows: pl.DataFrame, held: pl.DataFrame | None, reweigh_by: str | None
) -> NDArray[np.int64]:
    """The round in which each row was chosen before this stage, 0 where it was not."""
    rounds = np.zeros(len(rows), np.int64)
    if held is not None:
        named = pl.lit(1) if reweigh_by is None else pl.col("cluster_round").fill_null(1)
        rounds[_positions(rows, held)] = held.select(named.alias("round"))["round"]
    return rounds


def _values(
    rows: pl.DataFrame,
    held: pl.DataFrame | None,
    reweigh_by: str | None,
    earlier: NDArray[np.int64],
    rounds: int,
) -> NDArray[np.float64]:
    """The scores that weigh clusters anew: those of held rows are theirs, not the pool's."""
    values = np.full(len(rows), np.nan)
    if reweigh_by is not None and rounds > 1:
        values = np.where(earlier > 0, np.nan, scores(rows, reweigh_by))
    if reweigh_by is not None and held is not None:
        values[_positions(rows, held)] = scores(held, reweigh_by)
    return values


def _car(
    members: Members,
    keys: NDArray[np.float64],
    earlier: NDArray[np.int64],
    best: int | None,
    per_cluster: int,
    budget: int | None,
    by: str | None,
) -> pl.DataFrame:
    order = ranking(keys, descending=False)
    order = order[~np.isnan(keys[order])]
    found = union(members, order[earlier[order] == 0], best, per_cluster, budget)
    added = pl.DataFrame(found._asdict()).select(
        pl.when(~pl.col("chosen"))
        .then(None)
        .when(pl.col("of_cluster") & pl.col("of_all"))
        .then(pl.lit("both"))
        .when("of_cluster")
        .then(pl.lit("cluster"))
        .otherwise(pl.lit("score"))
        .alias("chosen_by")
    )
    facts = {"place": ranks(order, len(keys)), "per_cluster": [per_cluster] * len(keys)}
    return _told(members, keys, found.chosen, earlier, facts, added, by)


def _quota(
    members: Members,
    keys: NDArray[np.float64],
    earlier: NDArray[np.int64],
    rounds: NDArray[np.int64],
    quotas: NDArray[np.int64],
    by: str | None,
    with_round: bool,
) -> pl.DataFrame:
    chosen = rounds > 0
    added = pl.DataFrame({"cluster_round": rounds}).select(
        pl.when(pl.Series(chosen)).then("cluster_round").cast(pl.Int32)
    )
    facts = {"quota": quotas[members.labels]}
    added = added if with_round else pl.DataFrame()
    return _told(members, keys, chosen, earlier, facts, added, by)


def _told(
    members: Members,
    keys: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    earlier: NDArray[np.int64],
    facts: dict[str, Any],
    added: pl.DataFrame,
    by: str | None,
) -> pl.DataFrame:
    """The columns of the stage: cluster and rank, those of the rule, and the verdict."""
    own = {"cluster": members.labels, "rank": members.ranks}
    before = pl.when(pl.Series(earlier > 0)).then(pl.lit("held"))
    verdict = not_selected(chosen, {**own, **facts}, by, keys).with_columns(
        before.otherwise("drop_reason").alias("drop_reason")
    )
    columns = pl.DataFrame(own).cast(pl.Int32).rename({"rank": "cluster_rank"})
    return pl.concat([columns, added, verdict], how="horizontal")
