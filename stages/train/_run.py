"""A training from its rows to its weights and metrics: what the stages of this family share."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from stages._training.dataset import answer_losses
from stages._training.epochs import KeptEpochs
from stages._training.hyperparameters import Hyperparameters
from stages._training.objective import Objective
from stages._training.trainer import fit, save


def check_length(options: SimpleNamespace) -> None:
    """Refuse a training that is given both a number of steps and one of epochs, or neither.

    Args:
        options: The options of a stage that has both.

    Raises:
        OptionError: It is.
    """
    if (options.max_steps is None) == (options.num_train_epochs is None):
        raise OptionError(
            "max_steps",
            "and num_train_epochs: exactly one must be given, got "
            + ("neither" if options.max_steps is None else "both"),
            why="each says how long to train",
            hint="write max_steps: 100, or num_train_epochs: 1",
        )


def num_rows_of(
    max_steps: int | None, num_train_epochs: float | None, settings: Hyperparameters, one_pass: int
) -> int:
    """Rows or blocks to train on, repeats included.

    Args:
        max_steps: Optimizer steps.
        num_train_epochs: Passes, where no steps are given.
        settings: How to train.
        one_pass: How many rows or blocks there are.
    """
    if max_steps is None:
        return max(1, round((num_train_epochs or 0) * one_pass))
    return max_steps * settings.rows_per_step


def run_training(
    ctx: Context,
    weights: Any,
    ordered: Any,
    validation: pl.DataFrame,
    kept: KeptEpochs,
    objective: Objective,
) -> dict[str, Any]:
    """Train and save.

    Args:
        ctx: The stage's context.
        weights: The model to train.
        ordered: What it is trained on, in its order.
        validation: Rows to measure on, before and after; perhaps none.
        kept: The epochs whose weights are kept, and how the training runs.
        objective: What is minimised.

    Returns:
        The metrics of the training.
    """
    settings = kept.settings
    before = _mean_loss(weights, validation)
    lengths = np.asarray([len(ids) for ids in ordered["input_ids"]])
    steps = math.ceil(len(ordered) / settings.rows_per_step)

    def step_done(step: int) -> None:
        first = (step - 1) * settings.rows_per_step
        ctx.count(tokens=int(lengths[first : first + settings.rows_per_step].sum()))
        ctx.progress(step, steps)

    trained, losses = fit(
        weights,
        kept.tokenizer,
        ordered,
        model=kept.model,
        settings=settings,
        folder=ctx.work / "checkpoints",
        step_done=step_done,
        keep=kept.keep,
        objective=objective,
    )
    if len(losses) < steps:  # stopped early
        steps, lengths = len(losses), lengths[: len(losses) * settings.rows_per_step]
    metrics = {"steps": steps, "trained_tokens": int(lengths.sum()), "losses": losses}
    if not validation.is_empty():
        metrics["validation"] = {"before": before, "after": _mean_loss(trained, validation)}
    kept.hand_over(ctx.files)
    save(trained, kept.tokenizer, kept.model, ctx.files, settings.method)
    return metrics


def _mean_loss(weights: Any, rows: pl.DataFrame) -> float | None:
    """Nats per answer token over all rows; None without rows."""
    if rows.is_empty():
        return None
    losses = answer_losses(weights, rows)
    return float(losses["loss"].sum()) / int(losses["tokens"].sum())
