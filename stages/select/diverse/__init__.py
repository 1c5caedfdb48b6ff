"""Rows that differ from one another, or stand for all others: one greedy rule, six objectives.

`threshold`: DEITA's filter (Liu et al. 2023, arXiv:2312.15685). The rows in the order of
a score, each kept unless its cosine with a row kept before is above the threshold. What
is maximised is the sum of the scores.

`k_center`: the row farthest from all rows picked so far (Sener and Savarese 2018,
arXiv:1708.00489), as in DiverseEvol (arXiv:2311.08182), MoDS (arXiv:2311.15653) and
WaveCoder (arXiv:2312.14187). The distance is 1 minus the cosine, or Euclidean.

`facility_location`: QDIT (Bukharin et al. 2023, arXiv:2311.14736). With v over all rows,
f(A) = (1 - weight) * sum_v max_{u in A} s(v, u) + weight * sum_{u in A} q(u).

`graph_cut`: f(A) = sum_v sum_{u in A} s(v, u) - penalty * sum_{u, w in A} s(u, w), both
orders of a pair and each row with itself included (Iyer et al. 2021, arXiv:2006.15412).
SMART (arXiv:2403.08370) takes a penalty of 0.4; up to 0.5 every row adds something.

`mutual_information`: rows that stand for what a target asks for (Iyer et al. 2021; for
fine-tuning DELIFT, arXiv:2411.04425). Over the rows (FLVMI)
sum_v min(max_{u in A} s(v, u), relevance * max_{t in target} s(v, t)); over the target (FLQMI)
sum_t max_{u in A} s(t, u) + relevance * sum_{u in A} max_{t in target} s(t, u).

`conditional_gain`: rows that add to those already held, h (FLCG, from the same papers):
sum_v max(max_{u in A} s(v, u) - relevance * max_h s(v, h), 0).

s is the cosine. Where rows are to be covered, one below 0 counts as 0, so that nothing
covers a row with 0 and gains never grow; graph_cut takes it as it is. With the Euclidean
distance s is minus the distance, and nothing covers a row with minus twice the largest
distance from the mean. Selecting by gain per token is not offered: it prefers short rows.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    expression_columns,
    ranking,
    scores,
    uniform,
)
from stages._vectors.arrays import Matrix, as_matrix, parallel_map, to_device
from stages._vectors.greedy_dedup import greedy_dedup
from stages.select._submodular.greedy import Draw, Picks, every, greedy
from stages.select._submodular.mixed_precision import Floats, Points, Positions, Similarity
from stages.select._submodular.objectives import Goal, Method, Parts, first_only, sampled

WITH_EUCLIDEAN = ("k_center", "facility_location")
COVERING = ("facility_location", "mutual_information", "conditional_gain")
"""The objectives that add a row's score to what it covers."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    columns = [options.vector, *expression_columns(options.by)]
    columns += cost_columns(options.unit, options.tokens)
    own = list(dict.fromkeys(columns))
    return {"rows": own, "target": [options.vector], "held": [options.vector]}


def _check(options: SimpleNamespace) -> None:
    check_budget(options)
    expression_columns(options.by)
    name, unscored = options.objective, options.by is None
    mistakes = [
        (name == "threshold" and unscored, "threshold takes the rows in the order of a score: by"),
        (name == "k_center" and unscored and options.first == "score", "first: score needs by"),
        (name == "graph_cut" and not unscored, "graph_cut takes no score: leave out by"),
        (name != "threshold" and options.budget is None, f"{name} needs a budget"),
        (
            options.similarity == "euclidean" and name not in WITH_EUCLIDEAN,
            f"{name} is defined for the cosine alone",
        ),
        (not 0 <= options.weight <= 1, "weight is a share: give 0 to 1"),
        (not 0 < options.epsilon < 1, "epsilon lies between 0 and 1"),
        (min(options.penalty, options.relevance) < 0, "penalty and relevance are 0 or more"),
    ]
    for applies, what in mistakes:
        if applies:
            raise UserError(what)
    scored = options.by is not None and name in COVERING
    at_random = options.search == "stochastic" or options.first == "random"
    refuse_idle(
        *(diverse, options),
        (scored, "a score of an objective that covers: by", "weight"),
        (name in ("mutual_information", "conditional_gain"), "objectives with it", "relevance"),
        (at_random, "search: stochastic, and first: random", "seed"),
        (options.by is not None, "a score: by", "descending"),
        (name == "threshold", "objective: threshold", "threshold"),
        (name == "k_center", "objective: k_center", "first"),
        (name == "graph_cut", "objective: graph_cut", "penalty"),
        (name == "mutual_information", "objective: mutual_information", "represent"),
        (name != "threshold", "the greedy objectives", "search"),
        (options.search == "stochastic", "search: stochastic", "epsilon"),
        (options.budget is not None, "a budget", "unit"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(
    version=2,
    scope="set",
    reads=_reads,
    adds={"gain": pl.Float64, "gain_rank": pl.Int32},
    check=_check,
)
def diverse(
    ctx: Context,
    rows: Records,
    target: Records | None = None,
    held: Records | None = None,
    *,
    objective: Method,
    budget: int | None = None,
    unit: Unit = "rows",
    by: str | None = None,
    descending: bool = True,
    weight: float = 0.5,
    threshold: float = 0.9,
    similarity: Similarity = "cosine",
    first: Literal["mean", "score", "random"] = "mean",
    penalty: float = 0.4,
    represent: Literal["rows", "target"] = "rows",
    relevance: float = 1.0,
    search: Literal["lazy", "stochastic"] = "lazy",
    epsilon: float = 0.01,
    seed: int = 0,
    vector: str = "vector",
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Pick the row that gains most, again and again, until the budget is spent.

    target: what mutual_information is measured against. held: rows that are there already
        and count as picked; conditional_gain needs them, the others take them.
    budget: how much to pick, in rows or tokens. Rows that no longer fit are passed over;
        it is spent even where gains are 0 or negative. threshold also works without.
    by, descending: a score, a column or an SQL expression over columns, and which way is
        better: the order of threshold, or the quality q of the objectives that cover
        (on their scale: it is not normalised). Rows without a score are not chosen, but
        are to be covered.
    weight: the share of the quality. threshold: the cosine above which rows are too similar.
    similarity: euclidean for k_center and facility_location only.
    first: k_center's first row, where none is held: the one nearest to the mean, the one
        with the best score, or a random one.
    penalty, represent, relevance: see the formulas above.
    search: lazy (Minoux 1978) gives the plain greedy choice; stochastic picks the best of
        a random part of the rows, rows / picks * ln(1 / epsilon) of them. Both break ties by id.
    unit, tokens, vector, seed: as in the other selectors.

    A zero vector has cosine 0 with all others and 1 with other zero vectors; under
    threshold it resembles nothing, not even another one.

    Adds for rows chosen `gain_rank`, 1 for the first, and `gain`, what the row added to the
    objective (k_center: the distance to the nearest pick, null where there is none;
    threshold: the score, with its sign turned where the lower is the better). Dropped:
    `too_similar` (with `nearest`, a row kept, and `similarity`), `missing_score`, `held` (a
    row that is held as well), or `not_selected` (with the budget and the most similar row
    that was chosen or is held, where that is known).
    """
    _check_edges(objective, target, held)
    again = _held_already(rows, held)
    quality = _quality(rows, by, descending, objective, again)
    vectors, parts = _together(vector, rows, held, target)
    prices = costs(rows, unit, tokens)
    ids = pl.concat([rows["id"], *([] if held is None else [held["id"]])])
    if objective == "threshold" or not len(rows):
        found = _apart(vectors, parts, quality, threshold, prices, budget, ctx)
        return _verdict(ids, found, quality, again, by, budget, "similarity", threshold)
    goal = Goal(objective, quality, weight if by else 0.0, penalty, represent, relevance)
    draw: Draw = every
    if search == "stochastic":
        draw = sampled(rows["id"], seed, (budget or 0) / max(1.0, prices.mean()), epsilon)
    with parallel_map() as each:
        points = Points.of(each, vectors, similarity)
        if objective == "k_center" and not len(parts.held):
            draw = first_only(_preference(first, points, parts, quality, rows["id"], seed), draw)
        found = _greedy(points, parts, goal, prices, budget or 0, draw, ctx)
    told = "similarity" if similarity == "cosine" else "distance"
    return _verdict(ids, found, quality, again, by, budget, told, None)


class _Found(NamedTuple):
    """picks: the rows chosen. near: for each of the others the most similar row that is
    chosen or held, as a position among all parts, -1 where it is not known. value: how
    similar, a distance below 0. close: whether that is why it was not chosen.
    """

    picks: Picks
    near: Positions
    value: Floats
    close: NDArray[np.bool_]


def _check_edges(objective: Method, target: Records | None, held: Records | None) -> None:
    if (objective == "mutual_information") != (target is not None):
        raise UserError(
            f"{objective} {'needs' if target is None else 'does not read'} the edge target",
            hint="connect the rows that the selection is for with mutual_information alone",
        )
    if target is not None and not len(target):
        raise UserError("the target has no rows", hint="see what drops them before this stage")
    if objective == "conditional_gain" and held is None:
        raise UserError(f"{objective} needs the edge held", hint="connect the rows there are")


def _held_already(rows: Records, held: Records | None) -> NDArray[np.bool_]:
    """The rows that are held as well: they count as picked, and are not picked again."""
    if held is None:
        return np.zeros(len(rows), np.bool_)
    return rows["id"].is_in(held["id"].to_list()).to_numpy()


def _quality(
    rows: Records,
    by: str | None,
    descending: bool,
    objective: Method,
    again: NDArray[np.bool_],
) -> Floats:
    """How good each row is, larger is better; NaN for one that cannot be chosen."""
    values = np.zeros(len(rows)) if by is None else scores(rows, by)
    if objective in COVERING and np.isinf(values).any():
        raise UserError(
            f"{by!r} is infinite for {int(np.isinf(values).sum())} rows",
            why=f"{objective} adds the score to what a row covers",
            hint="drop these rows before, or cap the score: least(ppl, 1000)",
        )
    return np.where(again, np.nan, values if descending else -values)


def _together(
    vector: str, rows: Records, held: Records | None, target: Records | None
) -> tuple[Matrix, Parts]:
    """The vectors of all edges, one behind the other, and where each edge's are."""
    edges = [rows, *(rows.head(0) if edge is None else edge for edge in (held, target))]
    found = [as_matrix(edge[vector]) for edge in edges]
    filled = [matrix for matrix in found if len(matrix)]
    if len({matrix.shape[1] for matrix in filled}) > 1:
        raise UserError(
            f"the vectors in {vector!r} differ in length between rows, held and target",
            hint="use the vectors of one embedder for all of them",
        )
    ends = np.cumsum([len(matrix) for matrix in found])
    spans = [np.arange(end - len(m), end) for end, m in zip(ends, found, strict=True)]
    return (np.concatenate(filled) if len(filled) > 1 else (filled or found)[0]), Parts(*spans)


def _apart(
    vectors: Matrix,
    parts: Parts,
    quality: Floats,
    threshold: float,
    prices: NDArray[np.int64],
    budget: int | None,
    ctx: Context,
) -> _Found:
    """The rows in the order of their scores, each kept if it is far enough from those before."""
    count, given = len(parts.rows), len(parts.held)
    order = ranking(quality, descending=True)
    order = order[~np.isnan(quality[order])]
    places = np.concatenate([parts.held, order])
    found = greedy_dedup(
        to_device(vectors[places]),
        given=given,
        threshold=threshold,
        reach=threshold,
        costs=np.concatenate([np.zeros(given, np.int64), prices[order]]),
        budget=budget,
        progress=ctx.progress,
    )
    near, cosine = np.full(count, -1), np.full(count, np.nan)
    nearest_one = found.nearest[given:]
    near[order] = np.where(nearest_one >= 0, places[nearest_one], -1)
    cosine[order] = found.similarity[given:]
    picks = order[found.kept[given:]]
    close = cosine > threshold
    close[picks] = False
    return _Found(Picks(picks, quality[picks]), near, cosine, close)


def _preference(
    first: str, points: Points, parts: Parts, quality: Floats, ids: pl.Series, seed: int
) -> Floats:
    """What k_center's first row is to be large in."""
    if first == "mean":
        return points.centrality(parts.rows)
    return quality if first == "score" else uniform(ids, f"select.diverse:{seed}")


def _greedy(
    points: Points,
    parts: Parts,
    goal: Goal,
    prices: NDArray[np.int64],
    budget: int,
    draw: Draw,
    ctx: Context,
) -> _Found:
    count, able = len(parts.rows), ~np.isnan(goal.quality)
    near, value = np.full(count, -1), np.full(count, np.nan)
    picks = greedy(goal.of(points, parts), able, prices, budget, draw, ctx.progress)
    others = np.concatenate([np.sort(picks.rows), parts.held])
    rest = np.setdiff1d(parts.rows, picks.rows)
    if len(others):
        place_of, value[rest] = points.nearest(rest, others)
        near[rest] = others[place_of]
    return _Found(picks, near, value, np.zeros(count, np.bool_))


def _verdict(
    ids: pl.Series,
    found: _Found,
    quality: Floats,
    again: NDArray[np.bool_],
    by: str | None,
    budget: int | None,
    told: str,
    threshold: float | None,
) -> pl.DataFrame:
    """The columns. ids: of rows and held. told: what the value is called in the evidence."""
    facts = _facts(ids, found, told).with_columns(
        by=pl.lit(by),
        budget=pl.lit(budget, pl.Int64),
        threshold=pl.lit(threshold, pl.Float64),
    )
    chosen, known = facts["gain_rank"].is_not_null(), facts["nearest"].is_not_null()
    reasons = [
        (pl.Series(again), "held", ["budget"]),
        (pl.Series(np.isnan(quality)), "missing_score", ["by"]),
        (pl.Series(found.close), "too_similar", ["nearest", told, "threshold"]),
        (known, "not_selected", ["budget", "nearest", told]),
        (~known, "not_selected", ["budget"]),
    ]
    reason: Any = pl.when(chosen).then(None)
    evidence: Any = reason
    for applies, name, names in reasons:
        reason = reason.when(applies).then(pl.lit(name))
        evidence = evidence.when(applies).then(pl.struct(names).struct.json_encode())
    return facts.select(
        "gain",
        "gain_rank",
        reason.otherwise(None).alias("drop_reason"),
        evidence.otherwise(None).alias("evidence"),
    )


def _facts(ids: pl.Series, found: _Found, told: str) -> pl.DataFrame:
    """The added columns, and `nearest` and its value where they are known."""
    gain, rank = np.full(len(found.near), np.nan), np.zeros(len(found.near), np.int32)
    gain[found.picks.rows] = found.picks.gains
    rank[found.picks.rows] = np.arange(1, len(found.picks.rows) + 1)
    return pl.DataFrame(
        {
            "gain": np.where(np.isfinite(gain), gain, np.nan),
            "gain_rank": rank,
            "nearest": ids.gather(pl.Series(found.near).replace(-1, None).cast(pl.UInt32)),
            told: np.abs(found.value) if told == "distance" else found.value,
        }
    ).with_columns(pl.col("gain", told).fill_nan(None), pl.col("gain_rank").replace(0, None))
