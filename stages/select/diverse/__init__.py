"""Rows that differ from one another, or stand for all others: one greedy rule, six methods.

`threshold`: DEITA's filter (Liu et al. 2023, arXiv:2312.15685). The rows in the order of a
score, each kept unless its cosine with a row kept before is above the threshold. What is
maximized is the sum of the scores.

`k_center`: the row farthest from all rows picked so far (Sener and Savarese 2018,
arXiv:1708.00489), as in DiverseEvol (arXiv:2311.08182), MoDS (arXiv:2311.15653), WaveCoder
(arXiv:2312.14187) and Maybe only 0.5% (arXiv:2305.09246). The distance is 1 minus the cosine, or
Euclidean.

`facility_location`: QDIT (Bukharin et al. 2023, arXiv:2311.14736). With v over all rows,
f(A) = (1 - weight) * sum_v max_{u in A} s(v, u) + weight * sum_{u in A} q(u).

`graph_cut`: f(A) = sum_v sum_{u in A} s(v, u) - penalty * sum_{u, w in A} s(u, w), both
orders of a pair and each row with itself included (Iyer et al. 2021, arXiv:2006.15412).
SMART (arXiv:2403.08370) has a penalty of 0.4; up to 0.5 every row adds something.

`mutual_information`: rows that stand for a target (Iyer et al. 2021; for fine-tuning
DELIFT, arXiv:2411.04425). Over the rows (FLVMI)
sum_v min(max_{u in A} s(v, u), relevance * max_{t in target} s(v, t)); over the target (FLQMI)
sum_t max_{u in A} s(t, u) + relevance * sum_{u in A} max_{t in target} s(t, u).

`conditional_gain`: rows that add to those already held, h (FLCG, from the same papers):
sum_v max(max_{u in A} s(v, u) - relevance * max_h s(v, h), 0).

s is the cosine. Where rows are to be covered, one below 0 counts as 0, so that nothing
covers a row with 0 and gains never grow; graph_cut uses it as it is. With the Euclidean
distance s is minus the distance, and nothing covers a row with minus twice the largest
distance from the mean. Selecting by gain per token is not offered: it prefers short rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Edges, Records, stage
from stages._common.edges import require_input
from stages._selection.amounts import Amount, Budget, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    check_unused,
    cost_columns,
    left_of,
    row_costs,
)
from stages._selection.held import KEEP_CHOSEN, held_rows, still_held
from stages._selection.random_draws import uniform
from stages._selection.scores import Expression, expression_columns, scores
from stages._vectors.arrays import Matrix, as_matrix, parallel_map
from stages.select.diverse.draws import first_only, sampled
from stages.select.diverse.lazy_greedy import Draw, Objective, Picks, all_rows, greedy
from stages.select.diverse.listed import Listed
from stages.select.diverse.methods import (
    ConditionalGain,
    Covering,
    FacilityLocation,
    GraphCut,
    KCenter,
    Lazy,
    Method,
    MutualInformation,
    Optimizer,
    Parts,
    Stochastic,
    Threshold,
    listed_objective_of,
    objective_of,
)
from stages.select.diverse.mixed_precision import Floats, VectorSet
from stages.select.diverse.threshold import select_by_threshold
from stages.select.diverse.verdicts import Facts, Place, Selection, verdicts


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    similar = options.similarities or options.vector
    columns = [similar, *expression_columns(options.score)]
    columns += cost_columns(options)
    target = [] if options.similarities else [similar]
    held = [] if options.keep_chosen else [similar]
    return {"rows": list(dict.fromkeys(columns)), "target": target, "held": held}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    _check_inputs(options.method, edges)
    return {"gain": pl.Float64, "gain_rank": pl.Int32}


def _check_inputs(method: Method, edges: Mapping[str, Any]) -> None:
    require_input(edges, "target", method.name, connected=isinstance(method, MutualInformation))
    if isinstance(method, ConditionalGain):
        require_input(edges, "held", method.name)


def _check(options: SimpleNamespace) -> None:
    method, stochastic = options.method, isinstance(options.optimizer, Stochastic)
    name = f"method: {method.name}"
    check_selection(options)
    if not isinstance(method, Threshold) and options.budget is None:
        raise OptionError("budget", f"must be given with {name}, got null")
    if isinstance(method, Threshold):
        check_unused(options, "optimizer", Lazy(), f"with {name}")
    if isinstance(method, GraphCut):
        check_unused(options, "score", None, f"with {name}")
    init = method.init if isinstance(method, KCenter) else None
    if options.score is None and (isinstance(method, Threshold) or init == "score"):
        raise OptionError("score", f"must be given with {name}, got null")
    if options.score is None and isinstance(method, Covering) and method.weight != 0.5:
        what = f"must be left out without a score, got {method.weight}"
        raise OptionError("method.weight", what)
    if options.similarities is not None:
        _check_listed(options)
    if not stochastic and init != "random":
        check_unused(options, "seed", 0, "where nothing is random")


def _check_listed(options: SimpleNamespace) -> None:
    """Refuse what does not go with similarities that a column lists."""
    when = "with similarities"
    check_unused(options, "vector", "vector", when)
    if not isinstance(options.method, Covering):
        names = "facility_location, mutual_information or conditional_gain"
        what = f"must be {names} {when}, got {options.method.name}"
        raise OptionError("method", what, why="the others compare vectors")
    if isinstance(options.method, FacilityLocation) and options.method.metric != "cosine":
        what = f"must be left out {when}, got {options.method.metric}"
        raise OptionError("method.metric", what)


@stage(
    version=3,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    later=(KEEP_CHOSEN, "similarities"),
)
def diverse(
    ctx: Context,
    rows: Records,
    target: Records | None = None,
    held: Records | None = None,
    *,
    method: Method,
    budget: Budget | None = None,
    unit: Unit = "rows",
    score: Expression | None = None,
    descending: bool = True,
    optimizer: Optimizer = Lazy(),
    seed: int = 0,
    vector: str = "vector",
    token_column: str = TOKEN_COLUMN,
    keep_chosen: bool = False,
    similarities: str | None = None,
) -> pl.DataFrame:
    """Pick the row that gains most, again and again, until the budget is spent.

    A zero vector has cosine 0 with all others and 1 with other zero vectors; under
    `threshold` it is similar to nothing, not even to another one.

    Adds for picked rows `gain_rank`, 1 for the first, and `gain`, what the row added to the
    objective (k_center: the distance to the nearest pick, null where there is none;
    threshold: the score, with its sign changed where the lower is the better). Dropped:
    `too_similar` (with `nearest`, a row kept, and `similarity`), `missing_score`, `held` (a
    row that is held as well), or `not_selected` (with the budget and the most similar row
    that was picked or is held, where that is known).

    Args:
        rows: The rows to choose from.
        target: The rows that mutual_information is measured against.
        held: Rows that exist already and count as picked; required for conditional_gain,
            optional for the other methods.
        method: `threshold`, `k_center`, `facility_location`, `graph_cut`,
            `mutual_information` or `conditional_gain`.
        budget: How much to pick, in rows or tokens; required except for threshold. Rows that
            no longer fit are passed over; it is spent even where gains are 0 or negative.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        score: A column, or an SQL expression over columns: the order of threshold, or the
            quality q of the methods that cover (on their scale: it is not normalized). Rows
            without a score are not picked, but are to be covered.
        descending: Whether large scores are the best ones.
        optimizer: `lazy` finds the plain greedy choice; `stochastic` the best of a random part
            of the rows. Both break ties by id.
        seed: Of `optimizer: stochastic` and of k_center's `init: random`.
        vector: The column of vectors, on all edges.
        token_column: The column of each row's number of tokens, where tokens are counted.
        keep_chosen: Whether the rows of `held` that are among the rows, and have a score, are
            kept: they are picked first, without a gain, and what is left of the budget is spent
            given them. Others of `held` do not count. Where the budget is less than they
            cost, they alone are picked from.
        similarities: A column of lists of `id` and `value`, in place of vectors: to which rows, on
            any edge, a row is worth how much (`one_shot_utilities`). It is read on `rows` and
            `held`; a row that is not listed, or with a value below 0, is not covered.

    Example:
        ```yaml
        best:
          uses: select.diverse
          needs: vectors
          with: {method: {name: facility_location}, budget: 1000}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame(
        ...     {"id": ["a", "b", "c"], "vector": [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]},
        ...     schema_overrides={"vector": pl.List(pl.Float32)},
        ... )
        >>> diverse(ctx, rows, method=KCenter(), budget=2)["gain_rank"].to_list()
        [None, 1, 2]
    """
    _check_inputs(method, {"target": target, "held": held})
    if target is not None and not len(target):
        hint = "see what drops them before"
        raise UserError("the edge 'target' must have rows, got none", hint=hint)
    costs = row_costs(rows, budget, unit, token_column)
    amount = None if budget is None else amount_of(budget)
    chosen = still_held(rows, held) if keep_chosen else rows.head(0)
    held = None if keep_chosen else held
    is_held = held_rows(rows, held)
    quality = _quality(rows, score, descending, is_held)
    edges = [rows, *(rows.head(0) if edge is None else edge for edge in (held, target))]
    parts = _parts(edges)
    ids = pl.concat([rows["id"], *([] if held is None else [held["id"]])])
    facts = Facts(ids, quality, is_held, score, amount, None)
    if rows.is_empty():
        return verdicts(_nothing(0), facts, "similarity")
    place = _kept_first(held_rows(rows, chosen), quality, costs, amount)
    parts = parts._replace(held=np.concatenate([place.first, parts.held]))
    draw = _draw(optimizer, rows["id"], seed, _expected(place, costs))
    if similarities is not None:
        assert isinstance(method, Covering)
        listed = Listed.of(similarities, edges)
        worth = listed_objective_of(method, listed, parts, quality, score is not None)
        selection = _greedy(worth, listed, parts, place, costs, draw, ctx)
        return verdicts(place.before(selection), facts, "similarity")
    vectors = _matrix(vector, edges)
    if isinstance(method, Threshold):
        facts = facts._replace(threshold=method.threshold)
        selection = select_by_threshold(vectors, parts, facts, costs, place, ctx.progress)
        return verdicts(place.before(selection), facts, "similarity")
    metric = method.metric if isinstance(method, KCenter | FacilityLocation) else "cosine"
    with parallel_map() as each:
        vector_set = VectorSet.of(each, vectors, metric)
        if isinstance(method, KCenter) and not len(parts.held):
            preferences = _preferences(method, vector_set, parts, quality, rows["id"], seed)
            draw = first_only(preferences, draw)
        objective = objective_of(method, vector_set, parts, quality, score is not None)
        selection = _greedy(objective, vector_set, parts, place, costs, draw, ctx)
    return verdicts(
        place.before(selection), facts, "similarity" if metric == "cosine" else "distance"
    )


def _kept_first(
    is_held: NDArray[np.bool_],
    quality: Floats,
    costs: NDArray[np.int64],
    amount: Amount | None,
) -> Place:
    """The rows that keep their place, and what is left for the others.

    Args:
        is_held: The rows that were chosen before.
        quality: Each row's score, NaN for a row that cannot be picked.
        costs: What each row uses of the budget, shape (rows,).
        amount: The budget; None for no limit.
    """
    can_be_picked = ~np.isnan(quality)
    kept = is_held & can_be_picked
    if amount is None:
        return Place(np.flatnonzero(kept), can_be_picked & ~kept, None)
    left = left_of(amount, costs[kept])
    if left.total < 0 or (left.rows is not None and left.rows < 0):
        return Place(np.zeros(0, np.int64), kept, amount)
    return Place(np.flatnonzero(kept), can_be_picked & ~kept, left)


def _quality(
    rows: Records, score: str | None, descending: bool, is_held: NDArray[np.bool_]
) -> Floats:
    """Each row's score, larger for better; NaN for a row that cannot be picked.

    Args:
        rows: The rows.
        score: A column or an SQL expression; None for a score of 0.
        descending: Whether large scores are the best ones.
        is_held: The rows that are held as well.
    """
    values = np.zeros(len(rows)) if score is None else scores(rows, score)
    return np.where(is_held, np.nan, values if descending else -values)


def _parts(edges: Sequence[pl.DataFrame]) -> Parts:
    """Where the rows of each edge are among those of all edges, in this order."""
    ends = np.cumsum([len(edge) for edge in edges])
    return Parts(*(np.arange(e - len(edge), e) for e, edge in zip(ends, edges, strict=True)))


def _matrix(vector: str, edges: Sequence[pl.DataFrame]) -> Matrix:
    """The vectors of all edges in one matrix.

    Args:
        vector: The column of vectors.
        edges: The rows to choose from, those that exist already, and those to be like.
    """
    matrices = [as_matrix(edge[vector]) for edge in edges]
    filled = [matrix for matrix in matrices if len(matrix)]
    widths = {matrix.shape[1] for matrix in filled}
    if len(widths) > 1:
        raise UserError(
            f"the vectors in {vector!r} must have one length on all edges, got {sorted(widths)}",
            hint="use the vectors of one embedder for rows, held and target",
        )
    return np.concatenate(filled) if len(filled) > 1 else (filled or matrices)[0]


def _expected(place: Place, costs: NDArray[np.int64]) -> float:
    """About how many rows will be picked."""
    if place.amount is None:
        return float(len(costs))
    return float(min(place.amount.total / max(1.0, costs.mean()), place.amount.rows or np.inf))


def _draw(optimizer: Optimizer, ids: pl.Series, seed: int, num_picks: float) -> Draw:
    """Among which rows each pick is searched for."""
    if isinstance(optimizer, Stochastic):
        return sampled(ids, seed, num_picks, optimizer.epsilon)
    return all_rows


def _preferences(
    method: KCenter,
    vectors: VectorSet,
    parts: Parts,
    quality: Floats,
    ids: pl.Series,
    seed: int,
) -> Floats:
    """What k_center's first row is to have the largest value of, shape (rows,)."""
    if method.init == "mean":
        return vectors.centrality(parts.rows)
    return quality if method.init == "score" else uniform(ids, f"select.diverse:{seed}")


def _nothing(count: int) -> Selection:
    """No row is picked, and none has a known nearest row."""
    picks = Picks(np.zeros(0, np.int64), np.zeros(0))
    return Selection(picks, np.full(count, -1), np.full(count, np.nan), np.zeros(count, np.bool_))


def _greedy(
    objective: Objective,
    similar: VectorSet | Listed,
    parts: Parts,
    place: Place,
    costs: NDArray[np.int64],
    draw: Draw,
    ctx: Context,
) -> Selection:
    """The picks, and for each other row the most similar row that is picked or held."""
    assert place.amount is not None
    picks = greedy(objective, place.eligible, costs, place.amount, draw, ctx.progress)
    selection = _nothing(len(parts.rows))._replace(picks=picks)
    others = np.concatenate([np.sort(picks.rows), parts.held])
    rest = np.setdiff1d(parts.rows, picks.rows)
    if len(others):
        index, selection.similarity[rest] = similar.nearest(rest, others)
        selection.nearest[rest] = np.where(index >= 0, others[index], -1)
    return selection
