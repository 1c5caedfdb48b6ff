"""Supervised fine-tuning of a causal language model on exported shards.

The shards are read as they are; TRL's SFTTrainer trains. Loss is on every assistant
turn and its end token. What is cut because it is too long is counted, not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Files, InputFiles, stage
from pipeline.types import Count, NonEmpty, NonNegativeFloat, PositiveFloat
from stages._common.option_types import Distinct
from stages._training.dataset import (
    HIDDEN,
    answer_losses,
    check_template,
    cut,
    dataset,
    hidden_counts,
    pack,
    passes,
    read_shards,
    reversed_pairs,
    tokenizer_for,
)
from stages._training.encoding import (
    ANSWER_PARTS,
    AnswerPart,
    encode,
    name_refused_rows,
    nothing_left,
    refused_rows,
)
from stages._training.epochs import KeptEpochs
from stages._training.hyperparameters import (
    Full,
    Hyperparameters,
    MaxLength,
    Method,
    SchedulerType,
    WarmupRatio,
)
from stages._training.trainer import fit, load_model, quiet, save, write_json

LossOn = Annotated[tuple[AnswerPart, ...], NonEmpty, Distinct]


def _check(options: SimpleNamespace) -> None:
    if (options.max_steps is None) == (options.num_train_epochs is None):
        raise OptionError(
            "max_steps",
            "and num_train_epochs: exactly one must be given, got "
            + ("neither" if options.max_steps is None else "both"),
            why="each says how long to train",
            hint="write max_steps: 100, or num_train_epochs: 1",
        )
    _check_checkpoints(options)
    check_template(options.model, options.chat_template)


def _check_checkpoints(options: SimpleNamespace) -> None:
    if not options.checkpoints:
        return
    if options.num_train_epochs is None:
        raise OptionError(
            "checkpoints",
            f"must be left out without num_train_epochs, got {list(options.checkpoints)}",
            why="they are numbers of epochs",
        )
    if max(options.checkpoints) > options.num_train_epochs:
        raise OptionError(
            "checkpoints",
            f"must be at most num_train_epochs, {options.num_train_epochs:g}, "
            f"got {max(options.checkpoints)}",
        )


@stage(version=3, scope="set", check=_check, later=("checkpoints",))
def sft(
    ctx: Context,
    shards: Files,
    *,
    model: LanguageModel,
    max_steps: Count | None = None,
    num_train_epochs: PositiveFloat | None = None,
    method: Method = Full(),
    learning_rate: PositiveFloat = 2e-5,
    lr_scheduler_type: SchedulerType = "cosine",
    warmup_ratio: WarmupRatio = 0.03,
    weight_decay: NonNegativeFloat = 0.0,
    per_device_train_batch_size: Count = 1,
    gradient_accumulation_steps: Count = 8,
    max_length: MaxLength = 2048,
    packing: bool = True,
    chat_template: InputFiles = (),
    reverse: bool = False,
    loss_on: LossOn = ANSWER_PARTS,
    checkpoints: Annotated[tuple[Count, ...], Distinct] = (),
    seed: int = 0,
) -> None:
    """Train a model on the `messages` of `shards/data/train-*.parquet`.

    Options have TRL's and peft's names and meanings; the defaults are ours. Rows are taken
    in shuffled passes that depend on the seed and on the rows alone. A killed training goes
    on from its last checkpoint and gives the same weights.

    Writes `model/` (weights in the model's dtype, and tokenizer), with the method `lora`
    `adapter/` too, the kept `checkpoints/`, and `metrics.json`: `rows`, `tokens` and
    `answer_tokens` of the training split, `rows_cut` and `tokens_cut` by max_length,
    `rows_without_answer` and `rows_refused` (left out; what the chat template cannot show is
    named in `refused.jsonl`, by id),
    `rows_reasoning_hidden` and `characters_reasoning_hidden` (reasoning that the chat template
    leaves out, as those of reasoning models do in earlier turns, and that is not trained on),
    `steps`, `trained_tokens`, `epochs`, `losses` (per step: nats per answer token) and,
    where there are `validation-*.parquet`, their mean `loss` before and after.

    Args:
        shards: What `export.parquet` wrote.
        model: The model to start from.
        max_steps: Optimizer steps. Either this or num_train_epochs is given.
        num_train_epochs: Passes over all rows.
        method: `full` trains every weight; `lora` an adapter, which is saved beside the
            weights that it is merged into.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Blocks (with packing) or rows (without) per forward
            pass.
        gradient_accumulation_steps: Forward passes per optimizer step. Rather raise this
            one: the cost of attention grows with the square of the batch size.
        max_length: Tokens at which rows are cut, and of a block at most. What is cut is
            counted.
        packing: Several rows share a block, without seeing each other. Losses are the same.
        chat_template: A file to render with, in place of the model's template. It must mark
            what the assistant says with {% generation %}.
        reverse: Train on the first user's turn given its answer, for a model that writes the
            instruction to a text (see `generate.backtranslate`).
        loss_on: The parts of an answer that loss is on: `content`, `calls`, `reasoning`. The
            end token belongs to the calls of a turn that has some, else to its content. A
            turn whose `train` is false has no loss.
        checkpoints: Epochs after which the weights are kept too, in `checkpoints/epoch-1/`
            and so on: `models: {early: {from: trained, checkpoint: epoch-1}}` is such a model.
            An epoch ends with the step that sees the last of its rows.
        seed: Of the order of the rows.

    Raises:
        UserError: There are no shards, no row has an answer, the chat template marks no
            answers, or the loss diverges.

    Example:
        ```yaml
        shards:  {uses: export.parquet, needs: best, with: {validation_fraction: 0.02}}
        trained: {uses: train.sft, needs: {shards: shards},
                  with: {model: base, num_train_epochs: 2, learning_rate: 1.0e-5,
                         method: {name: lora, lora_r: 32}}}
        ```
    """
    settings = Hyperparameters(
        method=method,
        learning_rate=learning_rate,
        lr_scheduler_type=lr_scheduler_type,
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        seed=seed,
    )
    with quiet():
        tokenizer, marked = tokenizer_for(model, chat_template)
        refused: list[dict[str, Any]] = []
        encoding = partial(encode, tokenizer, marked, loss_on=loss_on)
        read = partial(_rows, encoding, shards, max_length, reverse, refused)
        rows, counts = read("train")
        if rows.is_empty():
            raise nothing_left("no row has an answer to train on", counts, refused, ctx.work)
        blocks = pack(rows, max_length) if packing else dataset(rows)
        num_rows = _num_rows(max_steps, num_train_epochs, settings, len(blocks))
        ordered = blocks.select(passes(len(blocks), num_rows, seed))
        weights, (validation, _) = load_model(model, method, max_length), read("validation")
        kept = KeptEpochs(checkpoints, len(blocks), settings, model, tokenizer, ctx.work)
        metrics = counts | _train(ctx, weights, ordered, validation, kept)
    name_refused_rows(refused, ctx.files)
    write_json(ctx.files / "metrics.json", {**metrics, "epochs": num_rows / len(blocks)})


def _num_rows(
    max_steps: int | None, num_train_epochs: float | None, settings: Hyperparameters, one_pass: int
) -> int:
    """Rows or blocks to train on, repeats included. one_pass: how many there are."""
    if max_steps is None:
        return max(1, round((num_train_epochs or 0) * one_pass))
    return max_steps * settings.rows_per_step


def _rows(
    encoding: Callable[[pl.DataFrame], pl.DataFrame],
    shards: Path,
    max_length: int,
    reverse: bool,
    refused: list[dict[str, Any]],
    split: str,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """A split's rows, encoded and cut, in id order: sharding is no part of the result."""
    files = sorted((shards / "data").glob(f"{split}-*.parquet"))
    if not files and split == "train":
        raise UserError("there are no data/train-*.parquet", where=str(shards))
    if not files:
        return pl.DataFrame(), {}
    rows = read_shards(files)
    if reverse:
        rows = rows.select("id", reversed_pairs(rows["messages"]))
    encoded = encoding(rows)
    refused += ({"split": split, **row} for row in refused_rows(rows["id"], encoded))
    usable, counts = cut(encoded.drop("error", HIDDEN), max_length)
    return usable, counts | (hidden_counts(encoded) if split == "train" else {})


def _train(
    ctx: Context, weights: Any, ordered: Any, validation: pl.DataFrame, kept: KeptEpochs
) -> dict[str, Any]:
    """Train and save; gives the metrics of the training."""
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
    )
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
