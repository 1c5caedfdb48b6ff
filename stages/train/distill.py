"""Distillation: a model learns what a teacher would say of each token, not the token alone.

The teacher reads the same rows, beside the student or before it (`top_k`). It must have the
student's vocabulary. What is minimised is in `stages/_training/losses/distill.py`, with the
papers: A Teacher Is Worth A Million Instructions, SALT, Weak-to-Strong Generalization.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Files, InputFiles, stage
from pipeline.types import Count, NonNegativeFloat, PositiveFloat
from stages._training.arrangement import Arrangement, Reader
from stages._training.dataset import check_template, load_tokenizer, tokenizer_for
from stages._training.encoding import ANSWER_PARTS, name_refused_rows, nothing_left
from stages._training.epochs import KeptEpochs
from stages._training.hyperparameters import (
    Full,
    Hyperparameters,
    MaxLength,
    Method,
    SchedulerType,
    WarmupRatio,
)
from stages._training.losses.distill import DistillLoss, Logits
from stages._training.objective import Objective
from stages._training.stored_teacher import StoredTeacher, store_teacher
from stages._training.trainer import load_model, quiet, write_json
from stages.train._run import check_length, num_rows_of, run_training
from stages.train.sft import LossOn


def _check(options: SimpleNamespace) -> None:
    check_length(options)
    check_template(options.model, options.chat_template)


@stage(version=1, scope="set", check=_check)
def distill(
    ctx: Context,
    shards: Files,
    *,
    model: LanguageModel,
    teacher: LanguageModel,
    loss: DistillLoss = Logits(),
    top_k: Count | None = None,
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
    loss_on: LossOn = ANSWER_PARTS,
    seed: int = 0,
) -> None:
    """Train a model on a teacher's distributions over the tokens of `shards`.

    Writes what `train.sft` writes: `model/`, with an adapter `adapter/` too, and `metrics.json`,
    whose `losses` have, with `loss: logits`, the divergence `kl` of each step in nats per token.

    Args:
        shards: What `export.parquet` wrote.
        model: The student.
        teacher: The model whose distributions are learned; of one vocabulary with the student.
            Its own chat template is not used.
        loss: `logits` for the divergence from the teacher; `confidence` for a weak teacher whose
            student trusts itself more and more.
        top_k: The teacher reads all rows before the training, and so many of its most likely
            words are kept, with the mass of all others; null for both models at once and all
            words.
        max_steps: Optimizer steps. Either this or num_train_epochs is given.
        num_train_epochs: Passes over all rows.
        method: `full` trains every weight, `half` half of them; `lora` and `dora` an adapter.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Blocks (with packing) or rows (without) per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_length: Tokens at which rows are cut, and of a block at most.
        packing: Several rows share a block, without seeing each other.
        chat_template: A file to render with, in place of the model's template.
        loss_on: As in `train.sft`.
        seed: Of the order of the rows.

    Raises:
        UserError: As in `train.sft`; or the teacher has another vocabulary.

    Example:
        ```yaml
        shards:    {uses: export.parquet, needs: best}
        distilled: {uses: train.distill, needs: {shards: shards},
                    with: {model: small, teacher: large, num_train_epochs: 2,
                           loss: {name: logits, temperature: 2.0, weight: 0.9}}}
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
        _refuse_other_vocabulary(tokenizer, teacher)
        reader = Reader(tokenizer, marked, max_length, loss_on=loss_on)
        rows, counts = reader.training(shards)
        if rows.is_empty():
            why = "no row has an answer to train on"
            raise nothing_left(why, counts, reader.refused, ctx.work)
        arrangement = Arrangement(packing, max_length, seed)
        blocks = arrangement.blocks(rows)
        blocks = blocks.add_column("block", list(range(len(blocks))))
        num_rows = num_rows_of(max_steps, num_train_epochs, settings, len(blocks))
        ordered = blocks.select(arrangement.positions(len(blocks), num_rows))
        objective = _objective(ctx, loss, teacher, top_k, blocks, tokenizer, max_length)
        weights, validation = load_model(model, method, max_length), reader.validation(shards)
        kept = KeptEpochs((), len(blocks), settings, model, tokenizer, ctx.work)
        metrics = counts | run_training(ctx, weights, ordered, validation, kept, objective)
    name_refused_rows(reader.refused, ctx.files)
    write_json(ctx.files / "metrics.json", {**metrics, "epochs": num_rows / len(blocks)})


def _refuse_other_vocabulary(tokenizer: Any, teacher: LanguageModel) -> None:
    """Raise an OptionError where the teacher's words are not the student's."""
    own, other = tokenizer.get_vocab(), load_tokenizer(teacher)[0].get_vocab()
    if own != other:
        word = min({*own.items()} ^ {*other.items()})
        raise OptionError(
            "teacher",
            f"must have the student's vocabulary, got another: {word[0]!r} has number "
            f"{own.get(word[0], 'none')} there and {other.get(word[0], 'none')} in the teacher's",
            why="distributions are compared word by word",
            hint="name a teacher of the student's family, or train on its answers by train.sft",
        )


def _objective(
    ctx: Context,
    loss: DistillLoss,
    teacher: LanguageModel,
    top_k: int | None,
    blocks: Any,
    tokenizer: Any,
    max_length: int,
) -> Objective:
    """What is minimised, with the teacher or with what was noted of it."""
    weights = load_model(teacher, Full(), max_length).eval()
    weights.requires_grad_(requires_grad=False)
    objective = Objective(loss)
    if top_k is None:
        return replace(objective, reference=weights)
    stored = _stored(ctx, weights, blocks, tokenizer, top_k, loss)
    return replace(objective, stored=stored)


def _stored(
    ctx: Context, weights: Any, blocks: Any, tokenizer: Any, top_k: int, loss: DistillLoss
) -> StoredTeacher:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    packed = "seq_lengths" in blocks.column_names
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=packed)
    folder, temperature = ctx.work / "teacher", loss.temperature
    return store_teacher(weights, blocks, collate, len(tokenizer), top_k, temperature, folder)
