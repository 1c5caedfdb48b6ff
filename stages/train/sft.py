"""Supervised fine-tuning of a causal language model on exported shards.

The shards are read as they are; TRL's SFTTrainer trains. Loss is on every assistant
turn and its end token. What is cut because it is too long is counted, not hidden.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Files, InputFiles, stage
from pipeline.store.parquet import read_frame
from stages._common.unused_options import refuse_idle
from stages._training.dataset import (
    answer_losses,
    check_template,
    cut,
    dataset,
    encode,
    pack,
    passes,
    reversed_pairs,
    tokenizer_for,
)
from stages._training.trainer import (
    Hyperparameters,
    Method,
    Schedule,
    check_hyperparameters,
    fit,
    load_model,
    quiet,
    write_json,
)


def _check(options: Any) -> None:
    if (options.steps is None) == (options.epochs is None):
        given = "neither" if options.steps is None else "both"
        raise UserError(
            f"{given} of `steps` and `epochs` given",
            why="each says how long to train",
            hint="give exactly one: `steps: 100`, or `epochs: 1`",
        )
    if (options.epochs if options.steps is None else options.steps) <= 0:
        raise UserError("`steps` or `epochs` is not above 0", hint="train for at least one step")
    check_hyperparameters(options)
    check_template(options.model, options.chat_template)
    method = options.method
    refuse_idle(
        *(sft, options),
        (method == "lora", "method: lora", "lora_rank"),
    )


@stage(version=1, scope="set", check=_check)
def sft(
    ctx: Context,
    shards: Files,
    *,
    model: LanguageModel,
    steps: int | None = None,
    epochs: float | None = None,
    method: Method = "full",
    lora_rank: int = 16,
    lr: float = 2e-5,
    schedule: Schedule = "cosine",
    warmup: float = 0.03,
    weight_decay: float = 0.0,
    batch_size: int = 1,
    gradient_accumulation: int = 8,
    max_tokens: int = 2048,
    packing: bool = True,
    chat_template: InputFiles = (),
    reverse: bool = False,
    seed: int = 0,
) -> None:
    """Train a model on the `messages` of `shards/data/train-*.parquet`.

    steps, epochs: how long; exactly one is given. An epoch is one pass over all rows.
    method: "full" trains every weight; "lora" an adapter of rank lora_rank, which is
        saved beside the weights that it is merged into.
    warmup: the share of the steps over which the learning rate rises to lr.
    batch_size, gradient_accumulation: a step sees their product of blocks (with
        packing) or rows (without); see `_trainer.py` for which one to raise.
    max_tokens: rows are cut here, and blocks are no longer. What is cut is counted.
    packing: several rows share a block, without seeing each other. Losses are the same.
    chat_template: a file to render with, in place of the model's template. It must mark
        what the assistant says with {% generation %}.

    reverse: train on the first user's turn given its answer, for a model that writes the
        instruction to a text (`generate.backtranslate`, prompting: trained).

    Rows are taken in shuffled passes that depend on seed and on the rows alone. A killed
    training goes on from its last checkpoint and gives the same weights.

    Writes `model/` (weights in the model's dtype, and tokenizer), with method "lora"
    `adapter/`, and `metrics.json`: `rows`, `tokens` and `answer_tokens` of the training
    split, `rows_cut` and `tokens_cut` by max_tokens, `rows_without_answer` (left out),
    `steps`, `trained_tokens`, `epochs`, `losses` (per step: nats per answer token) and,
    where there are `validation-*.parquet`, their mean `loss` before and after.
    """
    settings = Hyperparameters(
        method=method,
        lora_rank=lora_rank,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        seed=seed,
    )
    with quiet():
        tokenizer, marked = tokenizer_for(model, chat_template)
        read = partial(_rows, tokenizer, marked, shards, max_tokens, reverse)
        rows, counts = read("train")
        if rows.is_empty():
            raise UserError("no row is left to train on", where=str(shards), why=f"{counts}")
        blocks = pack(rows, max_tokens) if packing else dataset(rows)
        one_pass = len(blocks)
        wanted = (steps or 0) * settings.per_step or max(1, round((epochs or 0) * one_pass))
        ordered = blocks.select(passes(one_pass, wanted, seed))
        heldout, _ = read("validation")
        weights = load_model(model, method, max_tokens)
        metrics = counts | _train(ctx, model, weights, tokenizer, ordered, heldout, settings)
    metrics["epochs"] = wanted / one_pass
    write_json(ctx.files / "metrics.json", metrics)


def _rows(
    tokenizer: Any, template: str, shards: Path, max_tokens: int, reverse: bool, split: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A split's rows, encoded and cut, in id order: sharding is no part of the result."""
    files = sorted((shards / "data").glob(f"{split}-*.parquet"))
    if not files and split == "train":
        raise UserError("there are no data/train-*.parquet", where=str(shards))
    if not files:
        return pl.DataFrame(), {}
    rows = read_frame(files, ["id", "messages"]).sort("id")
    messages = reversed_pairs(rows["messages"]) if reverse else rows["messages"]
    return cut(encode(tokenizer, template, messages), max_tokens)


def _train(
    ctx: Context,
    model: LanguageModel,
    weights: Any,
    tokenizer: Any,
    ordered: Any,
    heldout: pl.DataFrame,
    settings: Hyperparameters,
) -> dict[str, Any]:
    """Train and save; gives the metrics of the training."""
    before = _mean_loss(weights, heldout)
    lengths = np.asarray([len(ids) for ids in ordered["input_ids"]])
    steps = math.ceil(len(ordered) / settings.per_step)

    def step_done(step: int) -> None:
        first = (step - 1) * settings.per_step
        ctx.count(tokens=int(lengths[first : first + settings.per_step].sum()))
        ctx.progress(step, steps)

    trained, losses = fit(
        weights,
        tokenizer,
        ordered,
        model=model,
        settings=settings,
        folder=ctx.work / "checkpoints",
        step_done=step_done,
    )
    metrics = {"steps": steps, "trained_tokens": int(lengths.sum()), "losses": losses}
    if not heldout.is_empty():
        metrics["validation"] = {"before": before, "after": _mean_loss(trained, heldout)}
    _save(trained, tokenizer, model, ctx.files, settings.method)
    return metrics


def _mean_loss(weights: Any, rows: pl.DataFrame) -> float | None:
    """Nats per answer token over all rows; None without rows."""
    if rows.is_empty():
        return None
    losses = answer_losses(weights, rows)
    return float(losses["loss"].sum()) / int(losses["tokens"].sum())


def _save(trained: Any, tokenizer: Any, model: LanguageModel, files: Path, method: Method) -> None:
    """Weights that `AutoModelForCausalLM.from_pretrained` reads, in the model's dtype."""
    import torch

    if method == "lora":
        trained.save_pretrained(files / "adapter")
        trained = trained.merge_and_unload()
    trained.to(getattr(torch, model.dtype)).save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")
