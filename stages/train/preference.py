"""Preference training: a model learns to prefer the chosen to the rejected sides of pairs.

TRL's trainers of DPO (with a term of supervised fine-tuning), IPO, ORPO, KTO and all other losses
of pairs that it has, and two losses of ours (`stages/_training/losses/preference.py`). What became
of it is measured on pairs that were held out: how often, and by how much, the trained model
moved towards the chosen side.

DPO: Direct Preference Optimization: Your Language Model is Secretly a Reward Model (Rafailov et
al. 2023, arXiv:2305.18290).

As in the paper: the loss, and the model before the training as its reference. Ours: the defaults,
the term of supervised fine-tuning as an option, and what is measured on held-out pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.stage import Files, InputFiles, Pairs, Records, stage
from pipeline.types import Count, NonNegativeFloat, PositiveFloat
from stages._training.dataset import hidden_counts, load_tokenizer, passes
from stages._training.encoding import name_refused_rows, nothing_left, refused_rows
from stages._training.hyperparameters import (
    Full,
    Hyperparameters,
    MaxLength,
    Method,
    SchedulerType,
    WarmupRatio,
)
from stages._training.losses.preference import UFT
from stages._training.preference_data import (
    SIDES,
    cut_pairs,
    encode_pairs,
    halves,
    log_probs,
    read_pairs,
    side_lengths,
    with_mismatched,
)
from stages._training.preferences import DPO, KTO, TRL, Loss, fit_preferences
from stages._training.processes import check_devices, join, refuse_devices
from stages._training.processes import processes as processes
from stages._training.trainer import load_model, quiet, save, write_json
from stages.train._run import check_length

RESAMPLES: Final = 2000
"""Draws of the held-out pairs from which the intervals are taken."""


def _check(options: SimpleNamespace) -> None:
    check_length(options)
    if isinstance(options.loss, KTO) and options.per_device_train_batch_size < 2:
        raise OptionError(
            "per_device_train_batch_size",
            f"must be at least 2 with loss: kto, got {options.per_device_train_batch_size}",
            why="the divergence is estimated on the other completions of the batch",
        )
    check_devices(options)
    is_running = isinstance(options.loss, TRL) and "bco_pair" in options.loss.loss_type
    if isinstance(options.loss, KTO) or is_running:
        why = "what it estimates on the pairs of a pass, the library estimates on all devices'"
        refuse_devices(options, "loss", "not be kto or bco_pair", why)
    if len(options.chat_template) > 1:
        raise OptionError(
            "chat_template",
            f"must be one file, got {len(options.chat_template)}",
            hint="name the one to render with",
        )


_PAIRS: Final = ["prompt", *SIDES, "tools"]


@stage(
    version=3,
    scope="set",
    reads={"pairs": _PAIRS, "held_out": _PAIRS, "imitate": ["messages", "tools"]},
    check=_check,
    later=("imitate",),
)
def preference(
    ctx: Context,
    pairs: Files | Pairs,
    held_out: Files | Pairs | None = None,
    imitate: Records | None = None,
    *,
    model: LanguageModel,
    loss: Loss = DPO(),
    max_steps: Count | None = None,
    num_train_epochs: PositiveFloat | None = None,
    method: Method = Full(),
    learning_rate: PositiveFloat = 1e-6,
    lr_scheduler_type: SchedulerType = "cosine",
    warmup_ratio: WarmupRatio = 0.1,
    weight_decay: NonNegativeFloat = 0.0,
    per_device_train_batch_size: Count = 2,
    gradient_accumulation_steps: Count = 8,
    max_length: MaxLength = 1024,
    chat_template: InputFiles = (),
    seed: int = 0,
) -> None:
    """Train a model on preference pairs.

    Options have TRL's and peft's names and meanings; the defaults are ours. Pairs are taken in
    shuffled passes that depend on the seed and on the pairs alone. A killed training goes on
    from its last checkpoint and gives the same weights. The `devices` of the model share the
    forward passes of a step, whose pairs are the same on any number of them.

    Writes `model/` (weights in the model's dtype, and tokenizer), with the method `lora`
    `adapter/` too, and `metrics.json`: `rows` and `tokens` trained on (of sides by themselves
    for KTO and UFT), `rows_cut` and `tokens_cut` by max_length, what is left out (`rows_too_long`,
    `rows_one_sided`, `rows_without_answer` of those to imitate, and `rows_refused`, whose tools,
    calls or difference the chat template does not show, or which it refuses; `refused.jsonl` names
    them),
    `rows_reasoning_hidden` and `characters_reasoning_hidden` (reasoning that the chat template
    leaves out, in a prompt once for each side),
    `steps`, `trained_tokens`, `epochs`, `losses` (per step; `margin` is that of the rewards)
    and, where pairs are held out, `held_out`: `pairs`; `accuracy`, the fraction of them whose
    chosen side became more likely against the reference than the rejected one, level ones as
    a half; `margin`, the mean of this difference in nats; the 95% interval of both over
    resampled pairs, drawn by the seed; `preferred`, the fraction of them whose chosen side is
    the more likely one before and after; and `prompts_seen`, how many have a prompt that was
    trained on.

    Args:
        pairs: What to train on: pairs, or what `export.pairs` wrote, in any form; its split
            `validation` is then held out where there is no other.
        held_out: Pairs, or what `export.pairs` wrote, to measure on.
        imitate: Conversations whose last answers are to be imitated, with the losses `uft` and
            `kto`: each is a pair with a chosen side alone.
        model: The model to start from, and the reference.
        loss: `dpo`, `ipo`, `orpo`, `kto`, any of TRL's by `trl`, `uft` or `davir`. Pairs with one
            side are trained on by `kto` and `uft` alone.
        max_steps: Optimizer steps. Either this or num_train_epochs is given.
        num_train_epochs: Passes over all pairs.
        method: `full` trains every weight; `lora` an adapter, which is saved beside the
            weights that it is merged into.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Pairs (sides for `uft`, and for `kto`, at least 2) per
            forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        max_length: Tokens of prompt and side together at which sides are cut.
        chat_template: A file to render with, in place of the model's template.
        seed: Of the order of the pairs, and of the intervals.

    Raises:
        UserError: There are no pairs to train on, or the loss diverges.
        OptionError: There are answers to imitate, and the loss is of pairs.

    Example:
        ```yaml
        shards:  {uses: export.pairs, needs: preferences, with: {validation_fraction: 0.1}}
        aligned: {uses: train.preference, needs: {pairs: shards},
                  with: {model: base, loss: {name: dpo, sft_weight: 0.2}, num_train_epochs: 1}}
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
        tokenizer, _ = load_tokenizer(model, chat_template)
        encoded = encode_pairs(tokenizer, _rows(pairs, "train"))
        if imitate is not None:
            more = encode_pairs(tokenizer, _imitated(imitate, loss))
            encoded = pl.concat([encoded, more]).sort("id", maintain_order=True)
        rows, counts = _usable(encoded, max_length, loss, ctx.work)
        if imitate is not None:
            counts["rows_without_answer"] = len(imitate) - len(more)
        counts |= hidden_counts(encoded)
        test = encode_pairs(tokenizer, _test_rows(pairs, held_out))
        both = pl.concat([encoded, test])
        name_refused_rows(refused_rows(both["id"], both), ctx.files)
        test, _ = cut_pairs(test.drop_nulls([f"{side}_ids" for side in SIDES]), max_length)
        weights = load_model(model, method, max_length)
        before = _log_probs(weights, test)
        ordered = _ordered(rows, max_steps, num_train_epochs, settings, loss)
        fit = _fit(ctx, ordered, settings)
        final, metrics = fit(weights, tokenizer, loss, model, max_length)
        if before is not None:
            measured = _measured(before, log_probs(final, test), seed)
            seen = test["prompt_ids"].is_in(rows["prompt_ids"].implode()).sum()
            metrics["held_out"] = {**measured, "prompts_seen": int(seen)}
        save(final, tokenizer, model, ctx.files, method)
    epochs = len(ordered) / len(rows)
    write_json(ctx.files / "metrics.json", {**counts, **metrics, "epochs": epochs})


def _rows(source: pl.DataFrame | Path, split: str) -> pl.DataFrame:
    """The pairs of an edge, in id order; of shards those of a split."""
    if isinstance(source, pl.DataFrame):
        return source.sort("id")
    files = sorted((source / "data").glob(f"{split}-*.parquet"))
    if not files and split == "train":
        raise UserError("there are no data/train-*.parquet", where=str(source))
    return read_pairs(files)


def _imitated(rows: pl.DataFrame, loss: Loss) -> pl.DataFrame:
    """Conversations as pairs that have a chosen side alone, their last answer."""
    if not isinstance(loss, KTO | UFT):
        raise OptionError(
            "loss",
            f"must be uft or kto with rows to imitate, got {loss.name}",
            why="they have no rejected side",
        )
    last = pl.col("messages").list.len() - 1
    answered = rows.filter(pl.col("messages").list.last().struct.field("role") == "assistant")
    return answered.select(
        "id",
        prompt=pl.col("messages").list.head(last),
        chosen=pl.col("messages").list.tail(1),
        rejected=pl.lit(None, rows.schema["messages"]),
        tools="tools" if "tools" in rows.columns else pl.lit(None, pl.String),
    )


def _test_rows(pairs: pl.DataFrame | Path, held_out: pl.DataFrame | Path | None) -> pl.DataFrame:
    """The pairs to measure on, perhaps none."""
    if held_out is not None:
        return _rows(held_out, "*")
    return read_pairs([]) if isinstance(pairs, pl.DataFrame) else _rows(pairs, "validation")


def _usable(
    encoded: pl.DataFrame, max_length: int, loss: Loss, folder: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows to train on, and what was left out of them.

    Raises:
        UserError: There is none. Where the template refused rows, they are named in `folder`.
    """
    rows, counts = cut_pairs(encoded, max_length)
    if isinstance(loss, KTO | UFT):
        rows = halves(rows)
    else:
        both = rows.drop_nulls([f"{side}_ids" for side in SIDES])
        counts["rows_one_sided"] = len(rows) - len(both)
        rows = both
        counts["tokens"] = int(side_lengths(rows).sum())
    counts["rows"] = len(rows)
    if rows.is_empty():
        refused = refused_rows(encoded["id"], encoded)
        raise nothing_left(f"there is no pair to train on by {loss.name}", counts, refused, folder)
    return rows, counts


def _ordered(
    rows: pl.DataFrame,
    max_steps: int | None,
    num_train_epochs: float | None,
    settings: Hyperparameters,
    loss: Loss,
) -> pl.DataFrame:
    """The rows in the order of the training, repeats included."""
    num_rows = max(1, round((num_train_epochs or 0) * len(rows)))
    if max_steps is not None:
        num_rows = max_steps * settings.rows_per_step
    if not isinstance(loss, KTO):
        return rows[passes(len(rows), num_rows, settings.seed)]
    # Whole batches: a completion that is alone in one has no other to be set against.
    size = settings.per_device_train_batch_size
    num_rows = -(-num_rows // size) * size
    return with_mismatched(rows[passes(len(rows), num_rows, settings.seed)], size)


def _fit(
    ctx: Context, ordered: pl.DataFrame, settings: Hyperparameters
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A training of the rows that reports its progress; gives weights and metrics."""
    steps = math.ceil(len(ordered) / settings.rows_per_step)
    tokens = ordered.select(pl.col(pl.List(pl.Int32)).exclude("KL_completion_ids").list.len())
    lengths = tokens.sum_horizontal().to_numpy()
    if "chosen_ids" in ordered.columns:
        lengths = side_lengths(ordered).sum(axis=1)

    def step_done(step: int) -> None:
        first = (step - 1) * settings.rows_per_step
        ctx.count(tokens=int(lengths[first : first + settings.rows_per_step].sum()))
        ctx.progress(step, steps)

    def fit(
        weights: Any, tokenizer: Any, loss: Loss, model: LanguageModel, max_length: int
    ) -> tuple[Any, dict[str, Any]]:
        final, losses = fit_preferences(
            weights,
            tokenizer,
            ordered,
            loss=loss,
            model=model,
            settings=settings,
            max_length=max_length,
            folder=ctx.work / "checkpoints",
            step_done=step_done,
        )
        metrics = {"steps": steps, "trained_tokens": int(lengths.sum()), "losses": losses}
        return final, metrics

    return fit


def _log_probs(weights: Any, rows: pl.DataFrame) -> NDArray[np.float64] | None:
    return None if rows.is_empty() else log_probs(weights, rows)


def _measured(before: NDArray[np.float64], after: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """How the held-out pairs moved, with intervals.

    Args:
        before: The log-probability of both sides under the reference, shape (pairs, 2).
        after: The same under the trained model.
        seed: Of the resampling.
    """
    moved = after - before
    margins = moved[:, 0] - moved[:, 1]
    right = _share(margins)
    drawn = np.random.default_rng(seed).integers(len(margins), size=(RESAMPLES, len(margins)))
    return {
        "pairs": len(margins),
        "accuracy": float(right.mean()),
        "accuracy_interval": _interval(right[drawn].mean(axis=1)),
        "margin": float(margins.mean()),
        "margin_interval": _interval(margins[drawn].mean(axis=1)),
        "preferred": {
            name: float(_share(values[:, 0] - values[:, 1]).mean())
            for name, values in (("before", before), ("after", after))
        },
    }


def _share(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a difference is above 0, a half where there is none."""
    return (np.sign(differences) + 1) / 2


def _interval(values: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]
