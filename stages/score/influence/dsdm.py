"""DsDm: a linear model of how training on each row moves the target's loss.

DsDm: DsDm: Model-Aware Dataset Selection with Datamodels (Engstrom et al. 2024, arXiv:2401.12926).

As in the paper: models are trained on random subsets, the target's loss is regressed on which rows
were in them, and the rows that lower it most are taken.

Ours: trainings from the model's own weights, of a few steps each; a ridge regression (the paper
estimates the coefficients from gradients, at the size of pre-training). Its code is not public.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.types import Count, NonNegativeFloat, PositiveFloat, option_group
from stages._selection.random_draws import uniform
from stages._training.dataset import answer_losses, cut, dataset, passes, tokenizer_for
from stages._training.encoding import encode
from stages._training.hyperparameters import Hyperparameters
from stages._training.trainer import fit, load_model, quiet, write_json

Floats = NDArray[np.float64]


@option_group
class DsDm:
    """A linear regression of the target's loss on which rows a model was trained on.

    Args:
        num_subsets: Trainings; several for each row that matters.
        fraction: The part of the rows that a subset holds.
        max_steps: Optimizer steps of a training, over shuffled passes.
        batch_size: Rows of a step.
        learning_rate: AdamW's highest learning rate.
        max_length: Tokens at which rows are cut.
        ridge: The penalty on the squared coefficients.
        seed: Of the subsets and the trainings.
    """

    name: Literal["dsdm"] = "dsdm"
    num_subsets: Annotated[int, Field(ge=2)] = 64
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    max_steps: Count = 100
    batch_size: Count = 8
    learning_rate: PositiveFloat = 2e-5
    max_length: Count = 2048
    ridge: NonNegativeFloat = 1.0
    seed: int = 0


def subsets(ids: pl.Series, method: DsDm) -> NDArray[np.bool_]:
    """Which rows each subset holds, shape (subsets, rows); a row's draws come from its id.

    Example:
        >>> subsets(pl.Series(["a", "b", "c", "d"]), DsDm(num_subsets=3)).sum(axis=1).tolist()
        [2, 2, 2]
    """
    size = min(len(ids), max(1, round(method.fraction * len(ids))))
    masks = np.zeros((method.num_subsets, len(ids)), np.bool_)
    for subset in range(method.num_subsets):
        draws = uniform(ids, f"score.influence:{method.seed}:{subset}")
        masks[subset, np.argsort(draws, kind="stable")[:size]] = True
    return masks


def datamodel(masks: NDArray[np.bool_], losses: Floats, ridge: float) -> Floats:
    """How much each row lowers the target's loss, in nats: minus its coefficient.

    Args:
        masks: Which rows each training saw, shape (trainings, rows).
        losses: The target's loss after each, shape (trainings,).
        ridge: The penalty on the squared coefficients.

    Example:
        >>> masks = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
        >>> (datamodel(masks, np.array([1.0, 3.0, 1.0, 3.0]), 0.0).round(6) + 0.0).tolist()
        [2.0, 0.0]
    """
    from sklearn.linear_model import Ridge

    solver = Ridge(alpha=ridge, solver="svd").fit(masks.astype(np.float64), losses)
    influence: Floats = -np.asarray(solver.coef_)
    return influence


def dsdm(
    ctx: Context, rows: pl.DataFrame, target: pl.DataFrame, model: LanguageModel, method: DsDm
) -> Floats:
    """The influence of each row; NaN for rows that have no answer to train on.

    A training that is done is not done again after a kill.

    Args:
        ctx: The context, in whose work folder losses are kept.
        rows: The rows.
        target: The rows whose loss counts.
        model: The model that is trained.
        method: The options.
    """
    with quiet():
        tokenizer, template = tokenizer_for(model)
        encoded = encode(tokenizer, template, rows).with_row_index("position")
        usable, _ = cut(encoded, method.max_length)
        aim, _ = cut(encode(tokenizer, template, target), method.max_length)
        if usable.is_empty() or aim.is_empty():
            raise UserError("there must be rows with an answer on 'rows' and on 'target', got none")
        positions = usable["position"].to_numpy()
        masks = subsets(rows["id"].gather(positions), method)
        kept = list(_kept(ctx))
        for subset in range(len(kept), len(masks)):
            part = usable.filter(pl.Series(masks[subset])).select("input_ids", "labels")
            kept.append(_trained_loss(ctx, tokenizer, part, aim, model, method, subset))
            write_json(ctx.work / "losses.json", kept)
            ctx.progress(subset + 1, len(masks))
    influence = np.full(len(rows), np.nan)
    influence[positions] = datamodel(masks, np.array(kept), method.ridge)
    return influence


def _kept(ctx: Context) -> Iterator[float]:
    file = ctx.work / "losses.json"
    if file.exists():
        yield from json.loads(file.read_text("utf-8"))


def _trained_loss(
    ctx: Context,
    tokenizer: Any,
    rows: pl.DataFrame,
    target: pl.DataFrame,
    model: LanguageModel,
    method: DsDm,
    subset: int,
) -> float:
    """The target's mean loss (nats per token, rows alike) after a training on a subset.

    Args:
        ctx: The context.
        tokenizer: The model's tokenizer.
        rows: The subset, encoded.
        target: The target, encoded.
        model: The model that is trained.
        method: The options.
        subset: The subset's number.
    """
    settings = Hyperparameters(
        learning_rate=method.learning_rate,
        gradient_accumulation_steps=method.batch_size,
        seed=method.seed,
    )
    order = passes(len(rows), method.max_steps * method.batch_size, method.seed)
    folder = ctx.work / f"subset-{subset}"
    trained, _ = fit(
        load_model(model, settings.method, method.max_length),
        tokenizer,
        dataset(rows).select(order),
        model=model,
        settings=settings,
        folder=folder,
        step_done=lambda _: None,
    )
    shutil.rmtree(folder, ignore_errors=True)
    losses = answer_losses(trained, target)
    mean = float((losses["loss"] / losses["tokens"]).mean())  # type: ignore[arg-type]
    if not math.isfinite(mean):
        raise UserError(
            f"the target's loss after training on subset {subset} must be finite, got {mean}",
            hint="lower learning_rate",
            why=f"learning_rate is {method.learning_rate:g}",
        )
    return mean
