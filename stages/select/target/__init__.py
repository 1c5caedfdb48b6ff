"""Rows for a target: nearest to it, distributed like it, or where it is and the data is not.

- `nearest`: by the cosine of vectors. `order: max` ranks rows by their nearest
  target row, `mean` by the mean over target rows; with `turns` the target rows take
  turns and each takes the row left that is nearest to it: RDS+ (Ivison et al. 2025,
  arXiv:2503.01807; its vectors are position-weighted means of hidden states). With
  features of a sparse autoencoder as vectors, monosemantic activations.
- `distribution`: DSIR (Xie et al. 2023, arXiv:2302.03169): rows are drawn with
  importance weights over hashed words and pairs of words, so that they are
  distributed like the target. See `_dsir.py`.
- `gaps`: AITP (Liang et al. 2025, arXiv:2501.09368): rows where `held`, the data one
  has, is thin. Vectors are projected on the first principal components; densities
  are Gaussian kernel densities there. Without a target, rows rank by -log f_held:
  the paper's difference set (f_held below a threshold), its threshold set by the
  budget. With a target, by log f_target - log f_held: where the target lies
  and `held` does not, but not where neither is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Columns, Edges, Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    fill,
    not_selected,
    ranking,
    ranks,
    uniform,
)
from stages._text.tokens import Field, field_reads, field_text
from stages._vectors.arrays import Matrix, as_matrix, to_device
from stages.select._dsir import bags, log_weights
from stages.select._target_similarity import (
    log_density,
    mean_cosine,
    nearest,
    principal,
    project,
    take_turns,
)

Mode = Literal["nearest", "distribution", "gaps"]
Order = Literal["max", "mean", "turns"]

NEEDED: Final = {"nearest": "target", "distribution": "target", "gaps": "held"}
"""The edge that each mode cannot do without."""


class Found(NamedTuple):
    """scores: of each row, NaN for none. order: the rows that may be kept, the best first.

    added: columns beside score and rank. words: where rows can be too short, their words.
    """

    scores: NDArray[np.float64]
    order: NDArray[np.int64]
    added: Mapping[str, pl.Series]
    words: NDArray[np.int64] | None = None


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    read = field_reads(options.field) if options.mode == "distribution" else [options.vector]
    priced = [*read, *cost_columns(options.unit, options.tokens)]
    return {"rows": list(dict.fromkeys(priced)), "target": read, "held": read}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    _check_edges(options.mode, {edge for edge, given in edges.items() if given})
    return _added(options.mode)


def _check_edges(mode: Mode, given: Set[str]) -> None:
    if NEEDED[mode] not in given:
        raise UserError(
            f"select.target needs {NEEDED[mode]!r} for mode: {mode}",
            hint=f"needs: {{rows: ..., {NEEDED[mode]}: ...}}",
        )
    if "held" in given and mode != "gaps":
        raise UserError(f"mode: {mode} has no use for 'held'", hint="use mode: gaps")


def _added(mode: Mode) -> Columns:
    common = {"target_score": pl.Float64, "target_rank": pl.Int32}
    if mode == "nearest":
        return {**common, "target_id": pl.String}
    return {**common, "held_density": pl.Float64} if mode == "gaps" else common


def _check(options: SimpleNamespace) -> None:
    check_budget(options)
    if options.dimensions < 1:
        raise UserError(f"dimensions: {options.dimensions}", hint="give 1 or more")
    if options.min_words < 0:
        raise UserError(f"min_words: {options.min_words} is negative", hint="give 0 or more")
    mode = options.mode
    refuse_idle(
        *(target, options),
        (mode == "distribution" and options.sample, "mode: distribution, sample: true", "seed"),
        (mode == "nearest", "mode: nearest", "order"),
        (mode == "distribution", "mode: distribution", "field min_words sample"),
        (mode == "gaps", "mode: gaps", "dimensions"),
        (mode != "distribution", "the modes nearest and gaps", "vector"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(version=2, scope="set", reads=_reads, adds=_adds, check=_check)
def target(
    ctx: Context,
    rows: Records,
    target: Records | None = None,
    held: Records | None = None,
    *,
    mode: Mode,
    budget: int,
    unit: Unit = "rows",
    order: Order = "max",
    field: Field = "conversation",
    min_words: int = 0,
    sample: bool = True,
    dimensions: int = 2,
    seed: int = 0,
    vector: str = "vector",
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Keep the rows that serve a target best.

    target: the rows to be like. held: for `gaps`, the data that one has.
    budget: how much to keep in all, in rows or tokens; a row that no longer fits
        is passed over. Equal scores rank by id.
    order: for `nearest`: max, mean or turns.
    field, min_words, sample, seed: for `distribution`: the text that is compared;
        rows with fewer words than `min_words`, or with none, are dropped as
        `too_short` (the authors' code takes 100); draw by the weights (Gumbel noise
        from seed and id), or keep the largest weights.
    dimensions: for `gaps`, how many principal components of `held` and `target` (or
        the rows, without one).
    vector: the column of vectors, on all edges. A zero vector resembles nothing:
        with `nearest` such a row has no score and comes last.
    tokens: the column that counts a row's tokens, where `unit` is tokens.

    Adds `target_score` (a cosine, a log-weight, a log-density ratio), `target_rank`
    (1 being the best; with turns, the chosen rows in the order of choice) and, for
    `nearest`, `target_id`, the nearest target row (with turns, the one that took
    it); for `gaps`, `held_density`, the logarithm. Dropped: `not_selected`,
    `missing_score` (a zero vector's), `too_short`.
    """
    connected = {"target": target, "held": held}
    _check_edges(mode, {name for name, frame in connected.items() if frame is not None})
    if rows.is_empty():
        return pl.DataFrame(
            schema={**_added(mode), "drop_reason": pl.String, "evidence": pl.String}
        )
    if target is not None and target.is_empty():
        raise UserError("the target has no rows", hint="connect `target` to rows to be like")
    prices = costs(rows, unit, tokens)
    if mode == "nearest":
        assert target is not None
        found = _nearest(rows, target, vector, order, prices, budget)
    elif mode == "distribution":
        assert target is not None
        found = _distribution(rows, target, field, min_words, seed if sample else None)
    else:
        assert held is not None
        found = _gaps(rows, target, held, vector, dimensions)
    return _verdict(found, fill(prices, found.order.tolist(), budget), min_words)


def _nearest(
    rows: pl.DataFrame,
    target: pl.DataFrame,
    vector: str,
    order: Order,
    prices: NDArray[np.int64],
    budget: int,
) -> Found:
    vectors, wanted = _placed(*_matrices([rows, target], vector))
    scores, nearest_to = nearest(vectors, wanted)
    if (nearest_to < 0).all():
        raise UserError(f"all vectors in {vector!r} of the rows, or of the target, are zero")
    if order == "mean":
        scores = mean_cosine(vectors, wanted)
    best = ranking(scores, descending=True)
    if order == "turns":
        turns = take_turns(vectors, wanted, prices, budget)
        scores[turns.rows], nearest_to[turns.rows] = turns.similarity, turns.targets
        taken = np.array(turns.rows, np.int64)
        best = np.concatenate([taken, best[~np.isin(best, taken)]])
    ids = pl.when(pl.Series(nearest_to >= 0)).then(target["id"].gather(nearest_to.clip(0)))
    return Found(scores, best, {"target_id": pl.select(ids).to_series()})


def _distribution(
    rows: pl.DataFrame, target: pl.DataFrame, field: Field, min_words: int, seed: int | None
) -> Found:
    pool, wanted = (bags(frame.select(field_text(field)).to_series()) for frame in (rows, target))
    if not wanted.words.any():
        raise UserError(f"no row of the target has a {field}", hint="name another field")
    scores = log_weights(pool, wanted)
    noise = np.zeros(len(rows))
    if seed is not None:  # half a step of `uniform` keeps the logarithms finite
        noise = -np.log(-np.log(uniform(rows["id"], f"select.target:{seed}") + 2.0**-54))
    order = ranking(scores + noise, descending=True)
    return Found(scores, order[pool.words[order] >= max(1, min_words)], {}, pool.words)


def _gaps(
    rows: pl.DataFrame,
    target: pl.DataFrame | None,
    held: pl.DataFrame,
    vector: str,
    dimensions: int,
) -> Found:
    frames = [rows, held] if target is None else [rows, held, target]
    matrices = _matrices(frames, vector)
    known = [matrices[1], matrices[0] if target is None else matrices[2]]
    mean, basis = principal(np.concatenate(known), dimensions)
    points, *centres = _placed(*(project(m, mean, basis) for m in matrices))
    held_density = log_density(points, centres[0])
    scores = -np.nan_to_num(held_density)  # no held rows: equally thin everywhere
    if target is not None:
        scores += log_density(points, centres[1])
    column = pl.Series(held_density).fill_nan(None)
    return Found(scores, ranking(scores, descending=True), {"held_density": column})


def _placed(first: NDArray[Any], *others: NDArray[Any]) -> list[Any]:
    """Arrays where kernels run fastest, all on one device."""
    placed = to_device(first)
    xp = array_namespace(placed)
    return [placed, *(xp.asarray(other.copy(), device=device(placed)) for other in others)]


def _matrices(frames: Sequence[pl.DataFrame], vector: str) -> list[Matrix]:
    """The vectors of each frame. Raises UserError where their lengths differ."""
    found = [as_matrix(frame[vector]) for frame in frames]
    widths = {matrix.shape[1] for matrix in found if len(matrix)}
    if len(widths) > 1:
        raise UserError(
            f"the vectors in {vector!r} have different lengths: {sorted(widths)}",
            hint="use one embedder for all edges",
        )
    return [m if len(m) else np.zeros((0, max(widths)), np.float32) for m in found]


def _verdict(found: Found, chosen: NDArray[np.bool_], min_words: int) -> pl.DataFrame:
    """The added columns, and the verdict on each row."""
    position = pl.Series(ranks(found.order, len(chosen)), dtype=pl.Int32)
    score = pl.Series(found.scores).fill_nan(None)
    rank = pl.select(pl.when(position > 0).then(position)).to_series()
    facts = {"score": score, "rank": rank, **found.added}
    told = not_selected(chosen, facts, "target_score", found.scores)
    if found.words is not None:
        short = pl.Series(found.words < max(1, min_words))
        words = pl.struct(words=pl.Series(found.words), minimum=pl.lit(max(1, min_words)))
        told = told.select(
            pl.when(short).then(pl.lit("too_short")).otherwise("drop_reason").alias("drop_reason"),
            pl.when(short).then(words.struct.json_encode()).otherwise("evidence").alias("evidence"),
        )
    added = [column.alias(name) for name, column in found.added.items()]
    return told.with_columns(score.alias("target_score"), rank.alias("target_rank"), *added)
