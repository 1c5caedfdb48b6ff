"""One training of an ablation: draw rows, fill equal blocks, train, evaluate.

Blocks hold exactly max_length tokens: rows in a shuffled order, the last one cut to fit.
So every training of an experiment sees the same number of tokens in the same steps. The
result of a training is on the disk before the next begins, and is not computed again.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.models.base import LanguageModel
from schemas.records import digest
from stages._training.dataset import answer_losses, answer_tokens, dataset, row_lengths
from stages._training.hyperparameters import Hyperparameters
from stages._training.trainer import fit, load_model, write_json

SELECTED: Final = "selected"
"""The arm that trains on the selected rows, as the reports name it."""


@dataclass(frozen=True)
class Experiment:
    """What all trainings share.

    Attributes:
        model: The model that every training starts from.
        tokenizer: Its tokenizer.
        settings: How to train; `seed` is the first training's.
        max_length: Tokens of a block.
        steps: Optimizer steps of each training.
        work: A folder that survives kills.
        pool: Encoded rows with their ids, cut at max_length, as the next two.
        selected: The rows of the arm `selected`.
        eval_rows: The rows that losses are measured on, with their `origins`.
    """

    model: LanguageModel
    tokenizer: Any
    settings: Hyperparameters
    max_length: int
    steps: int
    work: Path
    pool: pl.DataFrame
    selected: pl.DataFrame
    eval_rows: pl.DataFrame

    @property
    def folder(self) -> Path:
        """Where finished trainings are kept."""
        return self.work / "trainings"

    @property
    def tokens(self) -> int:
        """Tokens of one training."""
        return self.steps * self.settings.rows_per_step * self.max_length


def untrained(experiment: Experiment) -> dict[str, Any]:
    """The losses of the model before any training."""
    return _once(
        experiment.folder / "untrained.json",
        lambda: _evaluate(experiment, _weights(experiment)),
    )


def training(
    experiment: Experiment, arm: str, seed: int, step_done: Callable[[int], None]
) -> dict[str, Any]:
    """The result of one training of an arm.

    Args:
        experiment: What all trainings share.
        arm: "selected", "random" or "pool".
        seed: Of the draw and the order of rows.
        step_done: Called with the number of each finished step.

    Returns:
        `loss`, `by_source` and `rows_loss` on the evaluation rows; `draw`, a digest of the
        ids that the training could see, and `rows`, their number; `tokens`,
        `answer_tokens`, `steps` and `losses` (per step) of the training.
    """
    name = f"{arm}-{seed}"
    result = _once(
        experiment.folder / f"{name}.json",
        lambda: _train(experiment, arm, seed, experiment.folder / name, step_done),
    )
    shutil.rmtree(experiment.folder / name, ignore_errors=True)  # its checkpoints
    return result


def _once(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in the file; where the file is missing, it is computed and written first."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, compute())
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


def _weights(experiment: Experiment) -> Any:
    return load_model(experiment.model, experiment.settings.method, experiment.max_length)


def _train(
    experiment: Experiment, arm: str, seed: int, folder: Path, step_done: Callable[[int], None]
) -> dict[str, Any]:
    gc.collect()  # the trainer before this one is full of cycles that hold its weights
    generator = np.random.default_rng(seed)
    rows = candidates(experiment, arm, generator)
    count = experiment.steps * experiment.settings.rows_per_step
    packed = blocks(rows, _shuffled(rows.height, generator), experiment.max_length, count)
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
        "tokens": int(row_lengths(packed).sum()),
        "answer_tokens": int(packed["answer_tokens"].sum()),
        "steps": len(losses),
        **_evaluate(experiment, trained),
        "losses": losses,
    }


def candidates(experiment: Experiment, arm: str, generator: np.random.Generator) -> pl.DataFrame:
    """The rows that a training of the arm takes its tokens from, in id order.

    Args:
        experiment: What all trainings share.
        arm: "selected", "random" or "pool".
        generator: Of the random draw, which stops with the row that brings it to the
            tokens of the selected rows.
    """
    if arm != "random":
        return experiment.selected if arm == SELECTED else experiment.pool
    order = generator.permutation(experiment.pool.height)
    totals = np.cumsum(row_lengths(experiment.pool)[order])
    needed = int(np.searchsorted(totals, row_lengths(experiment.selected).sum())) + 1
    return experiment.pool[np.sort(order[:needed])]


def _shuffled(count: int, generator: np.random.Generator) -> Iterator[int]:
    """Positions without end: one shuffled pass after another."""
    while True:
        yield from generator.permutation(count).tolist()


def blocks(rows: pl.DataFrame, order: Iterator[int], length: int, count: int) -> pl.DataFrame:
    """Blocks of tokens filled with rows in an order, the last row of each cut to fit.

    Args:
        rows: Encoded rows.
        order: Positions of rows, as many as are needed.
        length: Tokens of each block, exactly.
        count: The number of blocks.

    Returns:
        For each block `input_ids`, `labels`, `seq_lengths` (the rows' lengths in the block)
        and `answer_tokens` (tokens that loss is on).

    >>> rows = pl.DataFrame({"input_ids": [[1, 2, 3], [4, 5]], "labels": [[1, 2, 3], [4, 5]]})
    >>> blocks(rows, iter([0, 1, 0]), length=4, count=1)["input_ids"].to_list()
    [[1, 2, 3, 4]]
    """
    lengths = row_lengths(rows).tolist()
    pieces = []
    for block in range(count):
        room = length
        while room > 0:  # a loop: what a row gets depends on the rows before it
            row = next(order)
            pieces.append((block, row, min(room, lengths[row])))
            room -= pieces[-1][2]
    plan = pl.DataFrame(pieces, ["block", "row", "seq_lengths"], orient="row")
    tokens = rows.select("input_ids", "labels")[plan["row"]]
    return (
        pl.concat([plan, tokens], how="horizontal")
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
    """Losses on the evaluation rows: per token, by source, and each row's sum (nats)."""
    losses = answer_losses(model, experiment.eval_rows)
    total = losses.sum().row(0, named=True)
    sources = pl.element().struct.field("source")
    by_source = (
        losses.with_columns(source=experiment.eval_rows["origins"].list.eval(sources).list.unique())
        .explode("source")
        .group_by("source")
        .agg(pl.col("loss").sum() / pl.col("tokens").sum())
        .sort("source")
    )
    return {
        "loss": total["loss"] / total["tokens"],
        "by_source": dict(by_source.iter_rows()),
        "rows_loss": losses["loss"].to_list(),
    }
