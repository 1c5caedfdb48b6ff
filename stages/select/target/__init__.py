"""Rows for a target: nearest to it, distributed like it, or where it is and the data is not.

- `nearest`: by the cosine of vectors. With `order: turns` RDS+'s round robin (Ivison et al.
  2025, arXiv:2503.01807; its vectors are those of `embed.activations`), over tasks too.
- `jaccard`: monosemantic activations (Ma et al. 2025, arXiv:2503.15573): features of a sparse
  autoencoder, by the generalized Jaccard similarity with the mean of the target's.
- `distribution`: DSIR (Xie et al. 2023, arXiv:2302.03169): rows are drawn with importance
  weights over hashed words and pairs of words, so that they are distributed like the
  target.
- `gaps`: AITP (Liang et al. 2025, arXiv:2501.09368): rows where `held`, the data that one
  has, is thin. Without a target, rows rank by -log f_held: the paper's difference set
  (f_held below a threshold), with the threshold set by the budget. With a target, by
  log f_target - log f_held: where the target is dense and `held` is not. The rows may be
  documents, as in the paper, where they are texts of the pre-training corpus: those that are
  kept are then rewritten by `generate.from_documents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Documents, Edges, Records, stage
from stages._common.edges import require_input
from stages._common.verdicts import evidence_of
from stages._selection.amounts import Amount, Budget, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    cost_columns,
    fill,
    left_of,
    not_selected,
    row_costs,
)
from stages._selection.held import KEEP_CHOSEN, held_first, held_rows, still_held
from stages._selection.random_draws import uniform
from stages._selection.scores import ranking, ranks
from stages._text.tokens import field_reads, field_text
from stages._vectors.arrays import Matrix, as_matrix, to_device
from stages.select.target.dsir import Distribution, bags, log_weights
from stages.select.target.gaps import Gaps, log_density, principal_components, project
from stages.select.target.jaccard import Jaccard, jaccard
from stages.select.target.nearest import (
    Nearest,
    Turns,
    mean_cosine,
    nearest,
    take_task_turns,
    take_turns,
)

Method = Annotated[Nearest | Jaccard | Distribution | Gaps, Field(discriminator="name")]

REQUIRED_EDGES: Final = {
    "nearest": "target",
    "jaccard": "target",
    "distribution": "target",
    "gaps": "held",
}
"""The edge that each method requires."""


class Ranked(NamedTuple):
    """The rows as a method ranks them.

    Attributes:
        scores: Of each row, NaN for none.
        order: The rows that may be kept, the best first.
        added: Columns beside score and rank.
        words: Where rows can be too short, their numbers of words.
    """

    scores: NDArray[np.float64]
    order: NDArray[np.int64]
    added: Mapping[str, pl.Series]
    words: NDArray[np.int64] | None = None


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    method = options.method
    columns = (
        field_reads(method.field, method.view) if method.name == "distribution" else [method.vector]
    )
    with_costs = [*columns, *cost_columns(options)]
    held = [] if options.keep_chosen else columns
    task = [method.task] if isinstance(method, Nearest) and method.task else []
    return {"rows": list(dict.fromkeys(with_costs)), "target": [*columns, *task], "held": held}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    _check_inputs(options.method, edges, options.keep_chosen)
    columns = edges["rows"][0]
    if isinstance(options.method, Distribution) and "text" in columns and "messages" not in columns:
        what = "distribution must have conversations on 'rows', got documents"
        raise OptionError("method", what, hint="nearest or gaps, behind embed.text")
    return _added(options.method)


def _check_inputs(method: Method, edges: Mapping[str, Any], keep_chosen: bool) -> None:
    require_input(edges, REQUIRED_EDGES[method.name], method.name)
    if keep_chosen:
        require_input(edges, "held", KEEP_CHOSEN)
    elif method.name != "gaps":
        require_input(edges, "held", method.name, connected=False)


def _added(method: Method) -> Columns:
    common = {"target_score": pl.Float64, "target_rank": pl.Int32}
    match method:
        case Nearest():
            return {**common, "target_id": pl.String}
        case Gaps():
            return {**common, "held_density": pl.Float64}
    return common


@stage(
    version=3,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=check_selection,
    later=(KEEP_CHOSEN,),
)
def target(
    ctx: Context,
    rows: Records | Documents,
    target: Records | None = None,
    held: Records | None = None,
    *,
    method: Method,
    budget: Budget,
    unit: Unit = "rows",
    token_column: str = TOKEN_COLUMN,
    keep_chosen: bool = False,
) -> pl.DataFrame:
    """Keep the rows that serve a target best.

    Adds `target_score` (a cosine, a log-weight, a log-density ratio), `target_rank` (1 for
    the best; with `order: turns`, the selected rows in the order of selection) and, for
    `nearest`, `target_id`, the nearest target row (with turns, the one that selected it);
    for `gaps`, `held_density`, the logarithm. Dropped: `not_selected`, `missing_score` (a
    zero vector's, which is similar to nothing), `too_short`.

    Args:
        rows: The rows to choose from; for `nearest` and `gaps` they may be documents.
        target: The rows to be like; required for all methods but `gaps`.
        held: For `gaps`, the data that one has; for all methods with `keep_chosen`, rows that
            were chosen before.
        method: `nearest`, `jaccard`, `distribution` or `gaps`.
        budget: How much to keep in all, in rows or tokens; a row that no longer fits is
            passed over. Equal scores rank by id.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        token_column: The column of each row's number of tokens, where tokens are counted.
        keep_chosen: Whether the rows of `held` that are among the rows, and have a score, are
            kept first. For `gaps` they are then the data that one has.

    Example:
        ```yaml
        relevant:
          uses: select.target
          needs: {rows: vectors, target: examples}
          with: {method: nearest, budget: 1000}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame(
        ...     {"id": ["a", "b"], "vector": [[1.0, 0.0], [0.0, 1.0]]},
        ...     schema_overrides={"vector": pl.List(pl.Float32)},
        ... )
        >>> target(ctx, rows, rows.tail(1), method=Nearest(), budget=1)["target_rank"].to_list()
        [2, 1]
    """
    _check_inputs(method, {"target": target, "held": held}, keep_chosen)
    if rows.is_empty():
        return pl.DataFrame(
            schema={**_added(method), "drop_reason": pl.String, "evidence": pl.String}
        )
    if target is not None and target.is_empty():
        raise UserError(
            "the edge 'target' must have rows, got none", hint="see what drops them before"
        )
    costs, amount = row_costs(rows, budget, unit, token_column), amount_of(budget)
    chosen = still_held(rows, held) if keep_chosen else rows.head(0)
    is_held = held_rows(rows, chosen)
    held = chosen if keep_chosen else held
    min_words = 0
    match method:
        case Nearest():
            assert target is not None
            ranked = _by_nearest(rows, target, method, costs, amount, is_held)
        case Jaccard():
            assert target is not None
            similarities = jaccard(*_matrices([rows, target], method.vector))
            ranked = Ranked(similarities, ranking(similarities, descending=True), {})
        case Distribution():
            assert target is not None
            ranked, min_words = _by_distribution(rows, target, method), method.min_words
        case Gaps():
            assert held is not None
            ranked = _by_gaps(rows, target, held, method)
    order = held_first(ranked.order, is_held & ~np.isnan(ranked.scores))
    return _verdict(ranked, fill(costs, order.tolist(), *amount), min_words)


def _by_nearest(
    rows: pl.DataFrame,
    target: pl.DataFrame,
    method: Nearest,
    costs: NDArray[np.int64],
    amount: Amount,
    is_held: NDArray[np.bool_],
) -> Ranked:
    """Rank rows by their cosines with the target rows.

    Args:
        rows: The rows to choose from.
        target: The rows to be like.
        method: The order, and the column of vectors.
        costs: What each row uses of the budget.
        amount: How much is kept, which `order: turns` must know.
        is_held: Rows that are kept first, and have no turn.
    """
    vectors, targets = _on_device(*_matrices([rows, target], method.vector))
    scores, positions = nearest(vectors, targets)
    if (positions < 0).all():
        raise UserError(
            f"the vectors in {method.vector!r} must not all be zero, got only zeros in the rows "
            "or in the target"
        )
    if method.order == "mean":
        scores = mean_cosine(vectors, targets)
    order = ranking(scores, descending=True)
    if method.order == "turns":
        kept = fill(costs, order[is_held[order]].tolist(), *amount)
        left = left_of(amount, costs[kept])
        others = np.where(is_held, left.total + 1, costs)  # a held row fits into no turn
        turns = _turns(vectors, targets, target, method, others, left)
        scores[turns.rows], positions[turns.rows] = turns.similarities, turns.targets
        selected = np.array(turns.rows, np.int64)
        order = np.concatenate([selected, order[~np.isin(order, selected)]])
    ids = pl.when(pl.Series(positions >= 0)).then(target["id"].gather(positions.clip(0)))
    return Ranked(scores, order, {"target_id": pl.select(ids).to_series()})


def _turns(
    vectors: Any,
    targets: Any,
    target: pl.DataFrame,
    method: Nearest,
    costs: NDArray[np.int64],
    left: Amount,
) -> Turns:
    """The turns of target rows, or of their tasks.

    Args:
        vectors: The vectors of the rows.
        targets: Those of the target.
        target: The target.
        method: Whether there are tasks.
        costs: What each row uses of the budget.
        left: What is left of the budget.
    """
    if method.task is None:
        return take_turns(vectors, targets, costs, *left)
    names = target[method.task].cast(pl.String).fill_null("").to_numpy()
    members = [np.flatnonzero(names == name) for name in sorted(set(names.tolist()))]
    return take_task_turns(vectors, targets, members, costs, *left)


def _by_distribution(rows: pl.DataFrame, target: pl.DataFrame, method: Distribution) -> Ranked:
    """Rank rows by their importance weights, with Gumbel noise where they are drawn."""
    text = field_text(method.field, method.view)
    pool, aim = (bags(frame.select(text).to_series()) for frame in (rows, target))
    if not aim.words.any():
        raise UserError(
            f"the target must have texts, got no row with a {method.field}",
            hint="name another field",
        )
    scores = log_weights(pool, aim)
    noise = np.zeros(len(rows))
    if method.sample:  # half a step of `uniform` keeps the logarithms finite
        uniforms = uniform(rows["id"], f"select.target:{method.seed}") + 2.0**-54
        noise = -np.log(-np.log(uniforms))
    order = ranking(scores + noise, descending=True)
    long_enough = pool.words[order] >= max(1, method.min_words)
    return Ranked(scores, order[long_enough], {}, pool.words)


def _by_gaps(
    rows: pl.DataFrame, target: pl.DataFrame | None, held: pl.DataFrame, method: Gaps
) -> Ranked:
    """Rank rows by their log-density under the target less that under `held`.

    Args:
        rows: The rows to choose from.
        target: The rows to be like; None for no target.
        held: The data that one has.
        method: The principal components, and the column of vectors.
    """
    frames = [rows, held] if target is None else [rows, held, target]
    matrices = _matrices(frames, method.vector)
    references = [matrices[1], matrices[0] if target is None else matrices[2]]
    mean, basis = principal_components(np.concatenate(references), method.n_components)
    points, *centers = _on_device(*(project(m, mean, basis) for m in matrices))
    held_density = log_density(points, centers[0])
    scores = -np.nan_to_num(held_density)  # without held rows all are equally thin
    if target is not None:
        scores += log_density(points, centers[1])
    column = pl.Series(held_density).fill_nan(None)
    return Ranked(scores, ranking(scores, descending=True), {"held_density": column})


def _on_device(first: NDArray[Any], *others: NDArray[Any]) -> list[Any]:
    """Arrays where kernels run fastest, all on one device."""
    moved = to_device(first)
    xp = array_namespace(moved)
    return [moved, *(xp.asarray(other.copy(), device=device(moved)) for other in others)]


def _matrices(frames: Sequence[pl.DataFrame], vector: str) -> list[Matrix]:
    """The vectors of each frame. Raises UserError where their lengths differ."""
    matrices = [as_matrix(frame[vector]) for frame in frames]
    widths = {matrix.shape[1] for matrix in matrices if len(matrix)}
    if len(widths) > 1:
        raise UserError(
            f"the vectors in {vector!r} must have one length on all edges, got {sorted(widths)}",
            hint="use one embedder for all edges",
        )
    return [m if len(m) else np.zeros((0, max(widths)), np.float32) for m in matrices]


def _verdict(ranked: Ranked, selected: NDArray[np.bool_], min_words: int) -> pl.DataFrame:
    """The added columns, and the verdict on each row.

    Args:
        ranked: The rows as the method ranks them.
        selected: The rows that are kept.
        min_words: Rows with fewer words are too short.
    """
    position = pl.Series(ranks(ranked.order, len(selected)), dtype=pl.Int32)
    score = pl.Series(ranked.scores).fill_nan(None)
    rank = pl.select(pl.when(position > 0).then(position)).to_series()
    facts = {"score": score, "rank": rank, **ranked.added}
    verdict = not_selected(selected, facts, "target_score", ranked.scores)
    if ranked.words is not None:
        short = pl.Series(ranked.words < max(1, min_words))
        words = pl.lit(pl.Series("words", ranked.words))
        too_few = evidence_of(words, pl.lit(max(1, min_words)).alias("minimum"))
        evidence = pl.when(short).then(too_few).otherwise("evidence")
        verdict = verdict.select(
            pl.when(short).then(pl.lit("too_short")).otherwise("drop_reason").alias("drop_reason"),
            evidence.alias("evidence"),
        )
    added = [column.alias(name) for name, column in ranked.added.items()]
    return verdict.with_columns(score.alias("target_score"), rank.alias("target_rank"), *added)
