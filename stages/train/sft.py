"""Supervised fine-tuning of a causal language model on exported shards.

The shards are read as they are; TRL's SFTTrainer trains. Loss is on every assistant
turn and its end token, unless `loss_on` says otherwise. What is cut because it is too long is
counted, not hidden. The losses are in `stages/_training/losses`, noise, indicators, schedules and
half fine-tuning in modules of their names beside it, each with its paper.

IFS early stopping: Becoming self-instruct: introducing early stopping criteria for minimal
instruct tuning (AlShikh et al. 2023, arXiv:2307.03692).

As in the paper: a training ends once what it is trained for no longer gets better. Ours: the
measure is the loss on the split `validation`, by transformers' EarlyStoppingCallback, in place of
the share of answers that a classifier takes for answers.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Files, InputFiles, stage
from pipeline.types import Count, NonEmpty, NonNegativeFloat, PositiveFloat
from stages._common.option_types import Distinct
from stages._training.arrangement import (
    Arrangement,
    Reader,
    ordered_blocks,
    replayed,
)
from stages._training.dataset import check_template, dataset, tokenizer_for
from stages._training.encoding import (
    ANSWER_PARTS,
    LossPart,
    name_refused_rows,
    nothing_left,
)
from stages._training.epochs import KeptEpochs
from stages._training.hyperparameters import (
    Adapter,
    Full,
    Hyperparameters,
    MaxLength,
    Method,
    SchedulerType,
    WarmupRatio,
)
from stages._training.indicators import Indicator
from stages._training.losses import SFTLoss
from stages._training.losses.base import NLL
from stages._training.losses.mixup import Mixup
from stages._training.noise import NEFTune, Noise
from stages._training.objective import EarlyStopping, Objective
from stages._training.processes import check_devices, join, refuse_devices
from stages._training.processes import processes as processes
from stages._training.trainer import load_model, quiet, write_json
from stages.train._run import check_length, num_rows_of, run_training

LossOn = Annotated[tuple[LossPart, ...], NonEmpty, Distinct]
ReplayFraction = Annotated[float, Field(ge=0, lt=1)]

LATER = (
    "checkpoints", "loss", "noise", "weight_column", "indicator", "early_stopping",
    "replay", "replay_fraction", "order", "response_only",
)  # fmt: skip
"""What the stage got after it had results."""


def _check(options: SimpleNamespace) -> None:
    check_length(options)
    _check_checkpoints(options)
    _check_rows(options)
    _check_devices(options)
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


def _check_rows(options: SimpleNamespace) -> None:
    """What orders, noise and losses need of how rows are laid out."""
    if options.order is not None and options.packing:
        raise OptionError(
            "packing",
            "must be false with an order, got true",
            why="rows are packed where they fit, whatever their order",
        )
    if isinstance(options.noise, NEFTune) and options.packing:
        raise OptionError(
            "packing",
            "must be false with noise: neftune, got true",
            why="the library scales the noise by the length of a block, the paper by a row's",
        )
    if isinstance(options.loss, Mixup):
        even = options.per_device_train_batch_size % 2 == 0
        if options.packing or not even or options.order is not None:
            raise OptionError(
                "loss",
                "must not be mixup with packing, an odd batch size or an order",
                why="each pass mixes pairs of rows",
                hint="write packing: false, per_device_train_batch_size: 2",
            )
    if options.response_only and (
        options.reverse or options.indicator or "instruction" in options.loss_on
    ):
        raise OptionError(
            "response_only",
            "must be false with reverse, an indicator or loss on the instruction, got true",
            why="there is no instruction then",
        )
    if options.early_stopping and options.checkpoints:
        raise OptionError(
            "checkpoints",
            f"must be left out with early_stopping, got {list(options.checkpoints)}",
            why="the training may end before these epochs",
        )


def _check_devices(options: SimpleNamespace) -> None:
    check_devices(options)
    if isinstance(options.noise, NEFTune):
        why = "the library draws it from a generator of each process's own"
        refuse_devices(options, "noise", "not be neftune", why)
    if options.checkpoints and options.model.accelerate is not None:
        raise OptionError(
            "checkpoints",
            f"must be left out with accelerate's settings, got {list(options.checkpoints)}",
            why="each process holds a part of the weights, and they are gathered at the end alone",
        )


@stage(version=3, scope="set", check=_check, later=LATER)
def sft(
    ctx: Context,
    shards: Files,
    replay: Files | None = None,
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
    response_only: bool = False,
    loss_on: LossOn = ANSWER_PARTS,
    loss: SFTLoss = NLL(),
    noise: Noise | None = None,
    weight_column: str | None = None,
    indicator: Indicator | None = None,
    early_stopping: EarlyStopping | None = None,
    replay_fraction: ReplayFraction = 0.1,
    checkpoints: Annotated[tuple[Count, ...], Distinct] = (),
    order: str | None = None,
    seed: int = 0,
) -> None:
    """Train a model on the `messages` of `shards/data/train-*.parquet`.

    Options have TRL's and peft's names and meanings; the defaults are ours. Rows are taken
    in shuffled passes that depend on the seed and on the rows alone, or in an `order`. A killed
    training goes on from its last checkpoint and gives the same weights. The `devices` of the model
    share the forward passes of a step: its rows are the same on any number of them.

    Writes `model/` (weights in the model's dtype, and tokenizer), with the method `lora`
    `adapter/` too, the kept `checkpoints/`, and `metrics.json`: `rows`, `tokens` and
    `answer_tokens` of the training split, `rows_cut` and `tokens_cut` by max_length,
    `rows_without_answer` and `rows_refused` (left out; what the chat template cannot show is
    named in `refused.jsonl`, by id),
    `rows_reasoning_hidden` and `characters_reasoning_hidden` (reasoning that the chat template
    leaves out, as those of reasoning models do in earlier turns, and that is not trained on),
    `steps`, `trained_tokens`, `epochs`, `losses` (per step: nats per answer token, and what the
    loss notes, such as `kl`) and, where there are `validation-*.parquet`, their mean `loss`
    before and after.

    Args:
        shards: What `export.parquet` wrote.
        replay: Shards of an earlier training, of which rows are trained on again.
        model: The model to start from.
        max_steps: Optimizer steps. Either this or num_train_epochs is given.
        num_train_epochs: Passes over all rows.
        method: `full` trains every weight, `half` half of them; `lora` and `dora` an adapter,
            which is saved beside the weights that it is merged into.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up: one of the library's schedules,
            or one for a training that is gone on with at each refresh.
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
        response_only: Take away what others than the assistant say, in training alone: response
            tuning (see `stages/_training/responses.py`).
        loss_on: What loss is on: the parts of an answer, `content`, `calls`, `reasoning`, by
            default; `instruction`, what the other turns say; `template`, all that no turn says.
            The end token belongs to the calls of a turn that has some, else to its content. A
            turn whose `train` is false has no loss.
        loss: What is minimised.
        noise: Noise on what the model reads.
        weight_column: A column of the shards with the weights of rows, from 0 on; the loss is
            divided by their sum over the tokens of a step.
        indicator: Words in what users say that tell what kind of row it is.
        early_stopping: Ends the training where the loss on the split `validation` no longer
            falls.
        replay_fraction: The fraction of the rows that is from `replay`, drawn by the seed.
        checkpoints: Epochs after which the weights are kept too, in `checkpoints/epoch-1/`
            and so on: `models: {early: {from: trained, checkpoint: epoch-1}}` is such a model.
            An epoch ends with the step that sees the last of its rows.
        order: A column of the shards, such as the `positions` of `mix.curriculum`: each row is
            read at its positions, and a pass is all positions in order. null: shuffled passes.
        seed: Of the order of the rows, and of all that is drawn.

    Raises:
        UserError: There are no shards, no row has an answer, the chat template marks no
            answers, the shards lack the column of the order, or the loss diverges.

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
        join(model, gradient_accumulation_steps)
        tokenizer, marked = tokenizer_for(model, chat_template)
        reader = Reader(
            tokenizer, marked, max_length, loss, loss_on, reverse, response_only, indicator,
            weight_column, order, seed,
        )  # fmt: skip
        rows, counts = reader.training(shards)
        if rows.is_empty():
            why = "no row has an answer to train on"
            raise nothing_left(why, counts, reader.refused, ctx.work)
        if replay is not None:
            old, _ = reader.training(replay)
            counts["rows_replayed"] = -len(rows)
            rows = replayed(rows, old, replay_fraction, seed)
            counts["rows_replayed"] += len(rows)
        arrangement = Arrangement(packing, max_length, None if order else seed)
        blocks = arrangement.blocks(rows)
        num_rows = num_rows_of(max_steps, num_train_epochs, settings, len(blocks))
        ordered = ordered_blocks(arrangement, reader, shards, rows, blocks, num_rows)
        weights, validation = load_model(model, method, max_length), reader.validation(shards)
        objective = _objective(loss, noise, early_stopping, validation, settings, model, max_length)
        kept = KeptEpochs(checkpoints, len(blocks), settings, model, tokenizer, ctx.work)
        metrics = counts | run_training(ctx, weights, ordered, validation, kept, objective)
    name_refused_rows(reader.refused, ctx.files)
    write_json(ctx.files / "metrics.json", {**metrics, "epochs": num_rows / len(blocks)})


def _objective(
    loss: SFTLoss,
    noise: Noise | None,
    early_stopping: EarlyStopping | None,
    validation: pl.DataFrame,
    settings: Hyperparameters,
    model: LanguageModel,
    max_length: int,
) -> Objective:
    """What is minimised, with the model before the training where the loss compares with it.

    Raises:
        OptionError: There is no split to stop by.
    """
    objective = Objective(loss, noise, early_stopping=early_stopping)
    if loss.needs_reference and not isinstance(settings.method, Adapter):
        objective = replace(
            objective, reference=load_model(model, settings.method, max_length).eval()
        )
    if early_stopping is None:
        return objective
    if validation.is_empty():
        raise OptionError(
            "early_stopping",
            "must be left out where the shards have no split validation",
            hint="give export.parquet a validation_fraction, or rows a split by select.split",
        )
    return replace(objective, validation=dataset(validation.select("input_ids", "labels")))
