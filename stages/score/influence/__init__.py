"""What training on a row does for a target: five estimates, all above 0 where it helps.

- `less`: cosines of gradients over checkpoints (Xia et al. 2024, arXiv:2402.04333); see `less.py`.
- `tagcos`: without a target, rows whose gradients add up to those of their cluster (Zhang et al.
  2024, arXiv:2407.15235); see `tagcos.py`.
- `datainf`: influence functions in closed form (Kwon et al. 2023, arXiv:2310.00902); see
  `data_inf.py`.
- `got_d`: the gradient of the transport from the rows to the target (Kang et al. 2024,
  arXiv:2405.02774); see `got_d.py`.
- `dsdm`: a linear model over trainings on random subsets (Engstrom et al. 2024,
  arXiv:2401.12926); see `dsdm.py`.

Gradients come from `embed.gradients`, one column for each checkpoint; vectors for `got_d` from any
embedder. Scores of two methods cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from stages._common.edges import require_input, required
from stages._training.dataset import check_template
from stages._vectors.arrays import Matrix, as_matrix
from stages.score.influence.data_inf import DataInf, data_inf
from stages.score.influence.dsdm import DsDm, dsdm
from stages.score.influence.got_d import GotD, got_d
from stages.score.influence.less import Less, less, task_numbers
from stages.score.influence.tagcos import Tagcos, tagcos

Method = Annotated[Less | Tagcos | DataInf | GotD | DsDm, Field(discriminator="name")]
Floats = NDArray[np.float64]


def _columns(method: Method) -> list[str]:
    match method:
        case DsDm():
            return ["messages", "tools"]
        case GotD():
            return [method.vector]
    return list(method.vectors)


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    columns, method = _columns(options.method), options.method
    task = [method.task] if isinstance(method, Less) and method.task else []
    return {"rows": columns, "target": [*columns, *task], "unwanted": columns}


def _adds(options: SimpleNamespace, edges: Edges) -> Mapping[str, Any]:
    _check_inputs(options.method, edges)
    return _added(options.method)


def _added(method: Method) -> dict[str, Any]:
    cluster = {"influence_cluster": pl.Int32} if isinstance(method, Tagcos) else {}
    return {"influence": pl.Float64, **cluster}


def _check_inputs(method: Method, edges: Mapping[str, Any]) -> None:
    require_input(edges, "target", method.name, connected=not isinstance(method, Tagcos))
    if not isinstance(method, GotD):
        require_input(edges, "unwanted", method.name, connected=False)


def _check(options: SimpleNamespace) -> None:
    with_model = isinstance(options.method, DsDm)
    name = f"method: {options.method.name}"
    if with_model and options.model is None:
        return  # it may be an output of an earlier stage
    if with_model:
        check_template(options.model)
    elif options.model is not None:
        raise OptionError("model", f"must be left out with {name}, which reads vectors")


@stage(version=2, scope="set", reads=_reads, adds=_adds, check=_check)
def influence(
    ctx: Context,
    rows: Records,
    target: Records | None = None,
    unwanted: Records | None = None,
    *,
    method: Method,
    model: LanguageModel | None = None,
) -> pl.DataFrame:
    """Add `influence` (Float64): how much each row helps, above 0 where it does.

    With `tagcos` it is the weight of a row, 0 for one that is not taken, and `influence_cluster`
    (Int32) its cluster. Null: a gradient of zeros, or no answer to train on.

    Args:
        rows: The rows.
        target: The rows whose losses are to fall, or whose distribution is wanted; not for
            `tagcos`.
        unwanted: For `got_d`, rows to move away from.
        method: `less`, `tagcos`, `datainf`, `got_d` or `dsdm`.
        model: The model that `dsdm` trains; for no other method.

    Example:
        ```yaml
        scored:
          uses: score.influence
          needs: {rows: vectors, target: examples}
          with: {method: got_d}
        chosen: {uses: select.top, needs: scored, with: {score: influence, budget: 1000}}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame(
        ...     {"id": ["a", "b", "c"], "vector": [[0.0], [0.1], [5.0]]},
        ...     schema_overrides={"vector": pl.List(pl.Float32)},
        ... )
        >>> scores = influence(ctx, rows, rows.tail(1), method=GotD())["influence"]
        >>> scores.arg_max()
        2
    """
    _check_inputs(method, {"target": target, "unwanted": unwanted})
    if rows.is_empty():
        return pl.DataFrame(schema=_added(method))
    if target is not None and target.is_empty():
        raise UserError(
            "the edge 'target' must have rows, got none", hint="see what drops them before"
        )
    clusters = {}
    match method:
        case Tagcos():
            mean = np.mean([as_matrix(rows[name]) for name in method.vectors], axis=0)
            scores, labels = tagcos(mean.astype(np.float32), method)
            clusters = {"influence_cluster": pl.Series(labels, dtype=pl.Int32)}
        case Less():
            aim = required(target, "target", method.name)
            tasks = task_numbers(aim[method.task] if method.task else None, len(aim))
            sides = _matrices(rows, method.vectors), _matrices(aim, method.vectors)
            _check_widths(*sides)
            scores = less(*sides, method.weights, tasks)
        case DataInf():
            scores = _by_data_inf(rows, required(target, "target", method.name), method)
        case GotD():
            scores = _by_got_d(rows, required(target, "target", method.name), unwanted, method)
        case DsDm():
            scores = _by_dsdm(ctx, rows, required(target, "target", method.name), model, method)
    return pl.DataFrame({"influence": pl.Series(scores).fill_nan(None), **clusters})


def _by_dsdm(
    ctx: Context,
    rows: pl.DataFrame,
    target: pl.DataFrame,
    model: LanguageModel | None,
    method: DsDm,
) -> Floats:
    """The coefficients, as influence."""
    if model is None:
        raise OptionError("model", "must be given with method: dsdm, got null")
    if ctx.open(model).weights is None:  # requests are counted, and there are none
        return np.zeros(len(rows))
    return dsdm(ctx, rows, target, model, method)


def _matrices(rows: pl.DataFrame, names: Sequence[str]) -> list[Matrix]:
    return [as_matrix(rows[name]) for name in names]


def _check_widths(rows: Sequence[Matrix], target: Sequence[Matrix]) -> None:
    for left, right in zip(rows, target, strict=True):
        if left.shape[1] != right.shape[1]:
            raise UserError(
                f"vectors must have one length on all edges, got {left.shape[1]} and "
                f"{right.shape[1]}",
                hint="use the same stage, with the same options, for all edges",
            )


def _by_data_inf(rows: pl.DataFrame, target: pl.DataFrame, method: DataInf) -> Floats:
    """The sum over layers."""
    sides = _matrices(rows, method.vectors), _matrices(target, method.vectors)
    _check_widths(*sides)
    total = np.zeros(len(rows))
    for layer, aim in zip(*sides, strict=True):
        total += data_inf(layer.astype(np.float64), aim.astype(np.float64), method.damping)
    return total


def _by_got_d(
    rows: pl.DataFrame, target: pl.DataFrame, unwanted: pl.DataFrame | None, method: GotD
) -> Floats:
    """The gain of nearness to the target, and of distance from what is unwanted."""
    others = [target] if unwanted is None or unwanted.is_empty() else [target, unwanted]
    matrices = [as_matrix(frame[method.vector]) for frame in (rows, *others)]
    _check_widths([matrices[0]] * len(others), matrices[1:])
    left, *right = (matrix.astype(np.float64) for matrix in matrices)
    scores = [got_d(left, one, method) for one in right]
    return scores[0] - sum(scores[1:], np.zeros(len(rows)))
