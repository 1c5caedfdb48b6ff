"""One training of an ablation: draw rows, fill equal blocks, train, evaluate.

Blocks hold exactly max_tokens: rows in a shuffled order, the last one cut to fit. So
every training of an experiment sees the same number of tokens in the same steps. What
a training found is on the disk before the next begins, and is not computed again.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.models.base import LanguageModel
from schemas.records import digest
from stages._training.dataset import answer_losses, answer_tokens, dataset
from stages._training.trainer import Hyperparameters, fit, load_model, write_json


@dataclass(frozen=True)
class Experiment:
    """What all trainings share. pool, chosen, heldout: encoded rows, cut at max_tokens."""

    model: LanguageModel
    tokenizer: Any
    settings: Hyperparameters
    max_tokens: int
    steps: int
    pool: pl.DataFrame
    chosen: pl.DataFrame
    heldout: pl.DataFrame
    folder: Path

    @property
    def tokens(self) -> int:
        """Tokens of one training."""
        return self.steps * self.settings.per_step * self.max_tokens


def untrained(experiment: Experiment) -> dict[str, Any]:
    """The losses of the model as it is."""
    return _once(
        experiment.folder / "untrained.json",
        lambda: _evaluate(experiment, _weights(experiment)),
    )


def training(
    experiment: Experiment, arm: str, seed: int, step_done: Callable[[int], None]
) -> dict[str, Any]:
    """What one training of an arm gives: `loss`, `by_source`, `rows_loss`, and what it saw.

    `draw` is a digest of the ids that it could see, `rows` their number; `tokens`,
    `answer_tokens`, `steps` and `losses` (per step) are those of the training.
    """
    name = f"{arm}-{seed}"
    result = _once(
        experiment.folder / f"{name}.json",
        lambda: _train(experiment, arm, seed, experiment.folder / name, step_done),
    )
    shutil.rmtree(experiment.folder / name, ignore_errors=True)  # its checkpoints
    return result


def _once(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in the file, or computed and put there first."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, compute())
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _weights(experiment: Experiment) -> Any:
    return load_model(experiment.model, experiment.settings.method, experiment.max_tokens)


def _train(
    experiment: Experiment, arm: str, seed: int, folder: Path, step_done: Callable[[int], None]
) -> dict[str, Any]:
    gc.collect()  # the trainer before this one is full of cycles that hold its weights
    generator = np.random.default_rng(seed)
    rows = candidates(experiment, arm, generator)
    count = experiment.steps * experiment.settings.per_step
    packed = blocks(rows, _shuffled(rows.height, generator), experiment.max_tokens, count)
    trained, losses = fit(
        _weights(experiment),
        experiment.tokenizer,
        dataset(packed.drop("answer_tokens")),
        model=experiment.model,
        settings=experiment.settings,
        folder=folder,
        step_done=step_done,
    )
    return {
        "arm": arm,
        "seed": seed,
        "rows": rows.height,
        "draw": digest(rows["id"].to_list()),
        "tokens": int(packed["input_ids"].list.len().sum()),
        "answer_tokens": int(packed["answer_tokens"].sum()),
        "steps": len(losses),
        **_evaluate(experiment, trained),
        "losses": losses,
    }


def candidates(experiment: Experiment, arm: str, generator: np.random.Generator) -> pl.DataFrame:
    """The rows that a training of the arm takes its tokens from, in id order.

    A random draw stops with the row that brings it to the tokens of the chosen rows.
    """
    if arm != "random":
        return experiment.chosen if arm == "chosen" else experiment.pool
    order = generator.permutation(experiment.pool.height)
    lengths = experiment.pool["input_ids"].list.len().to_numpy().astype(np.int64)[order]
    wanted = int(experiment.chosen["input_ids"].list.len().sum())
    needed = int(np.searchsorted(np.cumsum(lengths), wanted)) + 1
    return experiment.pool[np.sort(order[:needed])]


def _shuffled(count: int, generator: np.random.Generator) -> Iterator[int]:
    """Positions without end: one shuffled pass after another."""
    while True:
        yield from generator.permutation(count).tolist()


def blocks(rows: pl.DataFrame, order: Iterator[int], length: int, count: int) -> pl.DataFrame:
    """`count` blocks of exactly `length` tokens, filled with rows in an order.

    Gives `input_ids`, `labels`, `seq_lengths` (the rows' lengths in the block) and
    `answer_tokens` (tokens that loss is on), one line per block.
    """
    lengths = rows["input_ids"].list.len().to_list()
    pieces = []
    for block in range(count):
        room = length
        while room > 0:  # one row after another: each takes what the ones before left
            place = next(order)
            pieces.append((block, place, min(room, lengths[place])))
            room -= pieces[-1][2]
    taken = pl.DataFrame(pieces, ["block", "place", "seq_lengths"], orient="row")
    whole = rows.select("input_ids", "labels")[taken["place"]]
    return (
        pl.concat([taken, whole], how="horizontal")
        .with_columns(pl.col("input_ids", "labels").list.head(pl.col("seq_lengths")))
        .group_by("block", maintain_order=True)
        .agg(
            pl.col("input_ids", "labels").explode(),
            pl.col("seq_lengths"),
            answer_tokens().sum().cast(pl.Int64).alias("answer_tokens"),
        )
        .drop("block")
    )


def _evaluate(experiment: Experiment, model: Any) -> dict[str, Any]:
    """Held-out losses: the mean per token, by source, and each row's sum (nats)."""
    losses = answer_losses(model, experiment.heldout)
    whole = losses.sum().row(0, named=True)
    sources = pl.element().struct.field("source")
    by_source = (
        losses.with_columns(source=experiment.heldout["origins"].list.eval(sources).list.unique())
        .explode("source")
        .group_by("source")
        .agg(pl.col("loss").sum() / pl.col("tokens").sum())
        .sort("source")
    )
    return {
        "loss": whole["loss"] / whole["tokens"],
        "by_source": dict(by_source.iter_rows()),
        "rows_loss": losses["loss"].to_list(),
    }
