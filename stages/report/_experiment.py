"""One training of an ablation: draw rows, fill equal blocks, train, evaluate.

Blocks hold exactly max_length tokens: rows in a shuffled order, the last one cut to fit.
So every training of an experiment sees the same number of tokens in the same steps.

The result of a training is on the disk before the next begins, in the store and under a
digest of all that decides it. It is not computed again by an interrupted run, nor where one
more set of rows is compared, nor by another stage that trains on the same rows.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.models.base import LanguageModel
from schemas.records import digest
from stages._llm.model_weights import weights_of
from stages._training.dataset import answer_losses, answer_tokens, dataset, row_lengths
from stages._training.hyperparameters import Hyperparameters
from stages._training.processes import agreed, by_first, is_first
from stages._training.trainer import fit, load_model, write_json
from stages.report._benchmark_scores import Benchmarks

RANDOM: Final = "random"
POOL: Final = "pool"

VERSION: Final = 1
"""Raised by whoever changes what a training gives: results under another one are not read."""


@dataclass(frozen=True)
class Experiment:
    """What all trainings share.

    Attributes:
        model: The model that every training starts from.
        tokenizer: Its tokenizer.
        settings: How to train; `seed` is the first training's.
        max_length: Tokens of a block.
        steps: Optimizer steps of each training.
        paired: Whether rows of two arms come in the same order in both.
        store: The folder of the store, where finished trainings are kept.
        pool: Encoded rows with their ids, cut at max_length, as the next two.
        selected: The rows of each arm that is a set of selected rows.
        eval_rows: The rows that losses are measured on: `origins`, and `eval_set`, its name.
        benchmarks: What models are put through beside that; None for nothing.
    """

    model: LanguageModel
    tokenizer: Any
    settings: Hyperparameters
    max_length: int
    steps: int
    paired: bool
    store: Path
    pool: pl.DataFrame
    selected: Mapping[str, pl.DataFrame]
    eval_rows: pl.DataFrame
    benchmarks: Benchmarks | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one training."""
        return self.steps * self.settings.rows_per_step * self.max_length

    @property
    def tokens_drawn(self) -> int:
        """Tokens of a random draw, at least: those of the largest set of selected rows."""
        return max(int(row_lengths(rows).sum()) for rows in self.selected.values())

    @cached_property
    def union(self) -> pl.Series:
        """The ids of all rows that an arm may have, sorted."""
        return (
            pl.concat(rows["id"] for rows in (self.pool, *self.selected.values())).unique().sort()
        )

    @cached_property
    def union_digest(self) -> str:
        """A digest of `union`."""
        return digest(self.union.to_list())

    @cached_property
    def eval_digest(self) -> str:
        """A digest of the evaluation rows, of the names of their sets and of their origins."""
        return digest(
            [_rows_digest(self.eval_rows), self.eval_rows[["eval_set", "origins"]].rows()]
        )


def untrained(experiment: Experiment) -> dict[str, Any]:
    """The losses of the model before any training."""
    folder = experiment.store / "trainings" / _key(experiment, {"untrained": True})
    return _once(folder, lambda: _evaluate(experiment, _weights(experiment)))


def training(
    experiment: Experiment, arm: str, seed: int, step_done: Callable[[int], None]
) -> dict[str, Any]:
    """The result of one training of an arm.

    Args:
        experiment: What all trainings share.
        arm: The name of a set of selected rows, "random" or "pool".
        seed: Of the draw and the order of rows.
        step_done: Called with the number of each finished step.

    Returns:
        `arm`, `seed`; `loss`, `by_set`, `by_source` and `rows_loss` on the evaluation rows;
        `benchmarks`, where there are some;
        `draw`, a digest of the ids that the training could see, and `rows`, their number;
        `tokens`, `answer_tokens`, `steps` and `losses` (per step) of the training.
    """
    generator = np.random.default_rng(seed)
    rows = candidates(experiment, arm, generator)
    order = (
        common_order(experiment, rows, seed) if experiment.paired else _shuffled(rows, generator)
    )
    decides = {
        "rows": _rows_digest(rows),
        "order": experiment.union_digest if experiment.paired else _draws(experiment, arm),
        "settings": asdict(experiment.settings),
        "seed": seed,
        "blocks": [experiment.max_length, experiment.steps],
    }
    folder = experiment.store / "trainings" / _key(experiment, decides)
    result = _once(folder, lambda: _train(experiment, rows, order, folder, step_done))
    return {"arm": arm, "seed": seed, **result}


def _draws(experiment: Experiment, arm: str) -> int:
    """How many numbers the generator has given before the order of rows is drawn."""
    return experiment.pool.height if arm == RANDOM else 0


def _key(experiment: Experiment, decides: Mapping[str, Any]) -> str:
    """The name of a result: a digest of all that it follows from."""
    parts = {
        "version": VERSION,
        "weights": weights_of(experiment.model, experiment.store),
        "dtype": experiment.model.dtype,
        "eval_rows": experiment.eval_digest,
        **({"benchmarks": experiment.benchmarks.digest} if experiment.benchmarks else {}),
        **decides,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _rows_digest(rows: pl.DataFrame) -> str:
    """A digest of encoded rows with their ids."""
    hasher = hashlib.blake2b(digest(rows["id"].to_list()).encode(), digest_size=16)
    for name in ("input_ids", "labels"):
        hasher.update(rows[name].list.len().to_numpy().tobytes())
        hasher.update(rows[name].explode().to_numpy().tobytes())
    return hasher.hexdigest()


def _once(folder: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in a folder; where it is missing, it is computed and written first."""
    file = folder / "result.json"
    if not agreed(file.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        computed = compute()
        by_first(lambda: write_json(file, computed))
    for checkpoint in folder.glob("checkpoint-*") if is_first() else ():
        shutil.rmtree(checkpoint, ignore_errors=True)
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


def _weights(experiment: Experiment) -> Any:
    return load_model(experiment.model, experiment.settings.method, experiment.max_length)


def _train(
    experiment: Experiment,
    rows: pl.DataFrame,
    order: Iterator[int],
    folder: Path,
    step_done: Callable[[int], None],
) -> dict[str, Any]:
    gc.collect()  # the trainer before this one is full of cycles that hold its weights
    count = experiment.steps * experiment.settings.rows_per_step
    packed = blocks(rows, order, experiment.max_length, count)
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
        arm: The name of a set of selected rows, "random" or "pool".
        generator: Of the random draw, which stops with the row that brings it to
            `tokens_drawn`.
    """
    if arm != RANDOM:
        return experiment.pool if arm == POOL else experiment.selected[arm]
    order = generator.permutation(experiment.pool.height)
    totals = np.cumsum(row_lengths(experiment.pool)[order])
    needed = int(np.searchsorted(totals, experiment.tokens_drawn)) + 1
    return experiment.pool[np.sort(order[:needed])]


def _shuffled(rows: pl.DataFrame, generator: np.random.Generator) -> Iterator[int]:
    """Positions without end: one shuffled pass after another."""
    while True:
        yield from generator.permutation(rows.height).tolist()


def common_order(experiment: Experiment, rows: pl.DataFrame, seed: int) -> Iterator[int]:
    """Positions without end, each pass in one order of all rows that any arm may have.

    Args:
        experiment: What all trainings share.
        rows: The rows of the arm.
        seed: Of the orders, the same for all arms.
    """
    places = experiment.union.search_sorted(rows["id"]).to_numpy()
    number = 0
    while True:
        ranks = np.random.default_rng([seed, number]).permutation(len(experiment.union))
        yield from np.argsort(ranks[places]).tolist()
        number += 1


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
    """Losses on the evaluation rows: per token, by set and source, and each row's sum (nats).

    And each document's score in `benchmarks`, where there are some.
    """
    asked, losses = experiment.benchmarks, answer_losses(model, experiment.eval_rows)
    total = losses.sum().row(0, named=True)
    sources = pl.element().struct.field("source")
    named = losses.with_columns(
        experiment.eval_rows["eval_set"],
        source=experiment.eval_rows["origins"].list.eval(sources).list.unique(),
    )
    return {
        "loss": total["loss"] / total["tokens"],
        "by_set": _means(named, "eval_set"),
        "by_source": _means(named.explode("source"), "source"),
        "rows_loss": losses["loss"].to_list(),
        **({"benchmarks": asked.scores(experiment.tokenizer, model)} if asked else {}),
    }


def _means(losses: pl.DataFrame, by: str) -> dict[str, float]:
    """Nats per token of each group."""
    means = losses.group_by(by).agg(pl.col("loss").sum() / pl.col("tokens").sum()).sort(by)
    return dict(means.iter_rows())
