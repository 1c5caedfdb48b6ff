"""Training on a mixture of skills that is set anew after each part of the steps.

It is one training: every part goes on from the checkpoint that the last one ended with, its
optimizer and its place in the schedule included. The losses that a part ends with are on the
disk before its checkpoint is, so that a killed training finds both or neither.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models.base import LanguageModel
from stages._selection.budget import divide
from stages._selection.random_draws import uniform
from stages._training.dataset import answer_losses, dataset
from stages._training.hyperparameters import Hyperparameters
from stages._training.trainer import StepDone, fit, load_model, newest_checkpoint, write_json

Losses = dict[str, float]
NextWeights = Callable[[Sequence[Losses]], NDArray[np.float64]]
"""The weights of the skills, from the losses after each part of the training so far."""


@dataclass(frozen=True)
class Skills:
    """What all trainings share.

    Attributes:
        model: The model that they start from.
        tokenizer: Its tokenizer.
        settings: How to train.
        max_length: Tokens of the longest row.
        rows: Encoded rows with `id` and `skill`, in id order.
        eval_rows: The rows that losses are measured on, encoded, with `skill`.
        work: A folder that survives kills.
    """

    model: LanguageModel
    tokenizer: Any
    settings: Hyperparameters
    max_length: int
    rows: pl.DataFrame
    eval_rows: pl.DataFrame
    work: Path

    @property
    def names(self) -> list[str]:
        """The skills that are trained on, sorted."""
        return self.rows["skill"].unique().sort().to_list()

    @property
    def evaluated(self) -> list[str]:
        """The skills that losses are measured on, sorted."""
        return self.eval_rows["skill"].unique().sort().to_list()

    def weights(self) -> Any:
        """The model before any training."""
        gc.collect()  # the trainer before this one is full of cycles that hold its weights
        return load_model(self.model, self.settings.method, self.max_length)

    def losses(self, weights: Any) -> Losses:
        """Nats per answer token on the evaluation rows of each skill.

        Args:
            weights: A model.
        """
        sums = answer_losses(weights, self.eval_rows).with_columns(self.eval_rows["skill"])
        by_skill = sums.group_by("skill").agg(pl.col("loss").sum() / pl.col("tokens").sum())
        return dict(by_skill.sort("skill").iter_rows())


class Draws:
    """Rows of each skill without end: one shuffled pass over them after another."""

    def __init__(self, skills: Skills, purpose: str) -> None:
        """Begin with the first pass of every skill.

        Args:
            skills: The rows.
            purpose: What the orders are for, with their seed.
        """
        self._skills, self._purpose = skills, purpose
        self._drawn = dict.fromkeys(skills.names, 0)

    def take(self, weights: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], list[int]]:
        """The next rows of a mixture, shuffled, and how many of each skill.

        Args:
            weights: The part of each skill, in the order of their names.
            count: How many rows.
        """
        quotas = divide(count, np.full(len(weights), count), weights).tolist()
        parts = [self._next(n, q) for n, q in zip(self._skills.names, quotas, strict=True)]
        rows = np.concatenate(parts)
        step = sum(self._drawn.values())
        order = np.random.default_rng([self._skills.settings.seed, step]).permutation(len(rows))
        return rows[order], quotas

    def _next(self, skill: str, count: int) -> NDArray[np.int64]:
        members = np.flatnonzero((self._skills.rows["skill"] == skill).to_numpy())
        ids = self._skills.rows["id"][members]
        start, stop = self._drawn[skill], self._drawn[skill] + count
        self._drawn[skill] = stop
        numbers = range(start // len(members), -(-stop // len(members)))
        orders = [np.argsort(uniform(ids, f"{self._purpose}:{n}"), kind="stable") for n in numbers]
        endless = np.concatenate([*orders, np.empty(0, np.int64)]).astype(np.int64)
        skipped = start - numbers.start * len(members)
        return members[endless[skipped : skipped + count]]


def probe(skills: Skills, steps: int, halves: Sequence[str], seed: int) -> Losses:
    """The losses after a small training on skills in equal parts; of none, without training.

    Args:
        skills: What all trainings share.
        steps: Optimizer steps.
        halves: The skills.
        seed: Of the order of the rows.
    """
    names = [skills.names.index(name) for name in halves]
    label = "-".join(map(str, sorted(names))) or "none"
    file = skills.work / "probes" / f"{label}-{seed if names else 0}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, _probed(skills, steps, names, seed, file.with_suffix("")))
    losses: Losses = json.loads(file.read_text("utf-8"))
    return losses


def _probed(skills: Skills, steps: int, names: list[int], seed: int, folder: Path) -> Losses:
    if not names:
        return skills.losses(skills.weights())
    settings = replace(skills.settings, seed=seed)
    parts = np.zeros(len(skills.names))
    parts[names] = 1.0
    count = steps * settings.rows_per_step
    order, _ = Draws(replace(skills, settings=settings), f"mix.online probe:{seed}").take(
        parts, count
    )
    trained, _ = fit(
        skills.weights(),
        skills.tokenizer,
        _encoded(skills).select(order),
        model=skills.model,
        settings=settings,
        folder=folder,
        step_done=_ignored,
    )
    return skills.losses(trained)


def _ignored(step: int) -> None:
    """Small trainings show no progress."""


def _encoded(skills: Skills) -> Any:
    return dataset(skills.rows.select("input_ids", "labels"))


def train_online(
    skills: Skills, ends: Sequence[int], next_weights: NextWeights, step_done: StepDone
) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """Train in parts, each on the mixture that follows from the losses so far.

    Args:
        skills: What all trainings share.
        ends: The number of the last step of each part, increasing.
        next_weights: The weights of the skills for a part.
        step_done: Called with the number of each finished step.

    Returns:
        The trained weights; for each part its `steps`, `weights`, `rows` of each skill, and the
        `losses` that it ended with; and `steps`, `trained_tokens` and `losses` (per step).
    """
    data, per_step = _encoded(skills), skills.settings.rows_per_step
    draws = Draws(skills, f"mix.online:{skills.settings.seed}")
    order = np.zeros(ends[-1] * per_step, np.int64)  # what is not drawn yet is not read yet
    parts: list[dict[str, Any]] = []
    trained: Any = None
    history: list[dict[str, float]] = []
    for number, end in enumerate(ends):
        start = ends[number - 1] if number else 0
        weights = next_weights([part["losses"] for part in parts])
        drawn, quotas = draws.take(weights, (end - start) * per_step)
        order[start * per_step : end * per_step] = drawn
        file = skills.work / f"losses-{end}.json"
        if end == ends[-1] or not _is_finished(skills.work / "checkpoints", end):
            trained, history = _part(skills, data.select(order), end, file, step_done)
        parts.append(
            {
                "steps": [start + 1, end],
                "weights": dict(zip(skills.names, weights.tolist(), strict=True)),
                "rows": dict(zip(skills.names, quotas, strict=True)),
                "losses": json.loads(file.read_text("utf-8")),
            }
        )
    lengths = skills.rows["input_ids"].list.len().to_numpy()
    tokens = int(lengths[order].sum())
    return trained, parts, {"steps": ends[-1], "trained_tokens": tokens, "losses": history}


def _is_finished(folder: Path, end: int) -> bool:
    newest = newest_checkpoint(folder)
    return newest is not None and int(newest.rpartition("-")[2]) >= end


def _part(
    skills: Skills, data: Any, end: int, file: Path, step_done: StepDone
) -> tuple[Any, list[dict[str, float]]]:
    """Train up to a step; the losses are in the file before the checkpoint is complete."""
    weights = skills.weights()

    def done(step: int) -> None:
        step_done(step)
        if step == end:
            write_json(file, skills.losses(weights))

    return fit(
        weights,
        skills.tokenizer,
        data,
        model=skills.model,
        settings=skills.settings,
        folder=skills.work / "checkpoints",
        step_done=done,
        stop_after=end,
    )


def epochs(skills: Skills, parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often the rows of each skill were read, over all parts.

    Args:
        skills: The rows.
        parts: What `train_online` gives.
    """
    sizes = dict(skills.rows.group_by("skill").len().iter_rows())
    return {n: sum(part["rows"][n] for part in parts) / sizes[n] for n in skills.names}
