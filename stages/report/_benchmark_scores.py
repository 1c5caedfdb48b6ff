"""What an ablation asks of each trained model beside losses: benchmarks of multiple choice.

The models are in memory and are not kept, so that only likelihoods can be had of them. A benchmark
is compared like one more set of evaluation rows, whose loss is the share of wrong answers: with
both intervals, and in the same correction for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.errors import UserError
from schemas.records import digest
from stages._benchmarks.contamination import contaminated
from stages._benchmarks.layouts import ItemTask, item_tasks
from stages._benchmarks.run import Settings, evaluate_task, require_harness
from stages._benchmarks.scores import mean
from stages._benchmarks.task_files import read_tasks

METRIC: Final = "acc"
"""What is compared: the likelihood of a whole choice decides."""

_NOT_SCORED: Final = "its answers must be generated, and trained models are not kept for that"
_SET: Final = "benchmark "
"""Stands before a benchmark's name where it is a set of rows: no step has such a name."""

Scores = dict[str, list[float]]
"""By benchmark the score of each document."""


@dataclass(frozen=True)
class Benchmarks:
    """Benchmarks that every model of an experiment is put through.

    Attributes:
        tasks: In the order of their names.
        left_out: By benchmark why it has no task.
        num_shots: Few-shot examples of each prompt.
        limit: Documents of each, at most, the first of them; None for all.
        work: A folder for the harness.
    """

    tasks: Sequence[ItemTask]
    left_out: Mapping[str, str]
    num_shots: int
    limit: int | None
    work: Path

    @classmethod
    def of(cls, items: pl.DataFrame, num_shots: int, limit: int | None, work: Path) -> Benchmarks:
        """The benchmarks that items make.

        Args:
            items: Evaluation items.
            num_shots: Few-shot examples of each prompt.
            limit: Documents of each, at most.
            work: A folder for the harness.

        Raises:
            UserError: The harness is missing, or no benchmark is one of multiple choice.
        """
        require_harness()
        every, left_out = item_tasks(items, None)
        left_out |= {task.name: _NOT_SCORED for task in every if task.kind != "choice"}
        tasks = sorted((t for t in every if t.kind == "choice"), key=lambda task: task.name)
        if not tasks:
            raise UserError(
                "benchmarks must hold multiple choice, got none",
                why="; ".join(f"{name}: {why}" for name, why in left_out.items()) or "no items",
                hint="load.benchmarks, with: {names: [mmlu, truthfulqa]}",
            )
        return cls(tasks, left_out, num_shots, limit, work)

    @cached_property
    def digest(self) -> str:
        """A digest of all that scores follow from beside the model."""
        return digest([self.num_shots, self.limit, [[t.name, t.docs] for t in self.tasks]])

    @cached_property
    def documents(self) -> dict[str, list[dict[str, Any]]]:
        """By benchmark its documents, as `contaminated` takes them."""
        return {
            task.name: [{"doc_id": i, "doc": doc} for i, doc in enumerate(task.docs[: self.limit])]
            for task in self.tasks
        }

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        folder = self.work / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        for task in self.tasks:
            task.write(folder, max_tokens=1)
        return read_tasks(sorted(path for path in folder.iterdir() if path.is_file()))

    def scores(self, tokenizer: Any, model: Any) -> Scores:
        """The scores of a model.

        Args:
            tokenizer: Its tokenizer.
            model: A transformers model, or a peft one, in evaluation mode.
        """
        engine: Any = _Weights(tokenizer, model)
        settings = Settings(chat=False, limit=self.limit, seed=0)
        return {
            task.name: [
                document["scores"][METRIC]
                for document in sorted(
                    evaluate_task(
                        self._configs[task.name], engine, self.num_shots, settings, self.work
                    ).docs,
                    key=lambda document: int(document["doc_id"]),
                )
            ]
            for task in self.tasks
        }

    def described(self, rows: Sequence[pl.DataFrame]) -> dict[str, dict[str, Any]]:
        """What the report says of each: `documents`, `chance`, and the `contaminated` numbers.

        Args:
            rows: Records that any arm may have: documents that share 13 words in a row with one
                count as contaminated, in all arms alike.
        """
        every = pl.concat(frame.select("id", "messages", "tools") for frame in rows).unique("id")
        keys = contaminated(self.documents, every, None)
        return {
            name: {
                "documents": len(documents),
                "chance": float(np.mean([1 / len(d["doc"]["choices"]) for d in documents])),
                "contaminated": sorted(number for task, number in keys if task == name),
            }
            for name, documents in self.documents.items()
        }


class _Weights:
    """A model in memory, as the harness' interface to engines takes one for likelihoods."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        from pipeline.models.local.likelihood import Likelihoods
        from pipeline.models.local.shared_prefix import PrefixedLikelihoods

        # Of an adapter the model that holds it.
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer = tokenizer
        self.context_tokens = getattr(base.config, "max_position_embeddings", None)
        self.loglikelihood = PrefixedLikelihoods(Likelihoods(base)).score


def as_sets(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], eval_rows: pl.DataFrame
) -> tuple[dict[str, list[dict[str, Any]]], pl.DataFrame]:
    """Trainings and evaluation rows with each benchmark as one more set, as `compare_all` reads.

    Args:
        runs: The trainings of each arm, with `benchmarks`.
        eval_rows: `eval_set` and the answer `tokens` of each evaluation row.

    Example:
        >>> run = {"by_set": {"a": 2.0}, "rows_loss": [4.0], "benchmarks": {"quiz": [1.0, 0.0]}}
        >>> rows = pl.DataFrame({"eval_set": ["a"], "tokens": [2]})
        >>> runs, rows = as_sets({"random": [run]}, rows)
        >>> runs["random"][0]["by_set"], runs["random"][0]["rows_loss"], rows["tokens"].to_list()
        ({'a': 2.0, 'benchmark quiz': 0.5}, [4.0, 0.0, 1.0], [2, 1, 1])
    """
    first = next(iter(runs.values()))[0]["benchmarks"]
    names = [_SET + name for name, scores in first.items() for _ in scores]
    documents = pl.DataFrame({"eval_set": names}).with_columns(tokens=pl.lit(1, pl.Int64))
    return {arm: [_as_sets(run) for run in of] for arm, of in runs.items()}, pl.concat(
        [eval_rows, documents]
    )


def _as_sets(run: Mapping[str, Any]) -> dict[str, Any]:
    wrong = {name: [1 - score for score in scores] for name, scores in run["benchmarks"].items()}
    return {
        "by_set": run["by_set"] | {_SET + name: float(np.mean(of)) for name, of in wrong.items()},
        "rows_loss": [*run["rows_loss"], *(each for of in wrong.values() for each in of)],
    }


def divided(
    comparisons: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The comparisons on evaluation rows, and those on benchmarks, named as they are.

    Args:
        comparisons: What `compare_all` gave for what `as_sets` made.
    """
    losses = [dict(c) for c in comparisons if not c["eval_rows"].startswith(_SET)]
    others = [dict(c) for c in comparisons if c["eval_rows"].startswith(_SET)]
    for entry in others:
        entry["benchmark"] = entry.pop("eval_rows").removeprefix(_SET)
    return losses, others


def summed_up(
    runs: Sequence[Mapping[str, Any]], flagged: Mapping[str, Collection[int]]
) -> dict[str, dict[str, Any]]:
    """The scores of an arm by benchmark.

    Args:
        runs: Its trainings, or the untrained model alone.
        flagged: The numbers of the contaminated documents.

    Returns:
        `value` and `stderr` over the documents, of their means over the trainings; the same of
        those that are not contaminated (`clean`) and of those that are (`contaminated`); and
        `spread`, the standard deviation over the trainings, None of one alone.
    """
    result = {}
    for name in runs[0]["benchmarks"]:
        scores = np.array([run["benchmarks"][name] for run in runs])
        of = scores.mean(axis=0).tolist()
        result[name] = mean(of) | {
            "clean": mean([score for i, score in enumerate(of) if i not in flagged[name]]),
            "contaminated": mean([score for i, score in enumerate(of) if i in flagged[name]]),
            "spread": float(scores.mean(axis=1).std(ddof=1)) if len(runs) > 1 else None,
        }
    return result
