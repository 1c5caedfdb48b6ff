"""Scores with standard errors, with and without contaminated documents, by groups and letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from stages._benchmarks.run import TaskResult
from stages._common.charts import table


def task_scores(result: TaskResult, contaminated: Collection[int]) -> dict[str, Any]:
    """The scores of one model in one task.

    Args:
        result: What it reached.
        contaminated: The numbers of the contaminated documents.

    Returns:
        `documents`, `contaminated`, `shots`, `truncated`, `unanswered`; `metrics`: by name `value`,
        `stderr` (the standard deviation of the documents' scores by the root of their number; None
        for a metric that is no mean), and the same of the others as `clean` and of the contaminated
        ones as `contaminated`; `letters`, where letters are scored.
    """
    numbers = {document["doc_id"] for document in result.docs}
    metrics: dict[str, Any] = {}
    for name, value in result.metrics.items():
        scores = [(d["doc_id"], d["scores"][name]) for d in result.docs if name in d["scores"]]
        metrics[name] = {"value": value, "stderr": None, "clean": None, "contaminated": None}
        if scores and np.isclose(np.mean([score for _, score in scores]), value):
            metrics[name] = {
                **mean([score for _, score in scores]),
                "clean": mean([score for i, score in scores if i not in contaminated]),
                "contaminated": mean([score for i, score in scores if i in contaminated]),
            }
    return {
        "documents": len(numbers),
        "contaminated": len(numbers.intersection(contaminated)),
        "shots": result.shots,
        "truncated": result.truncated,
        "unanswered": result.unanswered,
        "metrics": metrics,
        "letters": letters(result.docs),
    }


def mean(values: Sequence[float]) -> dict[str, Any]:
    """A mean with its standard error.

    Args:
        values: One for each document.

    >>> mean([0.0, 1.0, 1.0, 1.0])
    {'value': 0.75, 'stderr': 0.25, 'documents': 4}
    """
    n = len(values)
    return {
        "value": float(np.mean(values)) if n else None,
        "stderr": float(np.std(values, ddof=1) / sqrt(n)) if n > 1 else None,
        "documents": n,
    }


def letters(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How often each answer letter is right, and how often it is chosen; None without letters.

    Args:
        documents: Of one task.

    Returns:
        By letter `gold`, `predicted` (shares of the documents) and `recall` (share of those where
        it is right that are answered with it), and `recall_deviation`, the standard deviation of
        the recalls, which is 0 where no letter is preferred.

    >>> one = {"choices": ["A", "B"], "gold": 0, "predicted": 0}
    >>> bias = letters([one, {**one, "gold": 1}])
    >>> bias["A"], bias["recall_deviation"]
    ({'gold': 0.5, 'predicted': 1.0, 'recall': 1.0}, 0.5)
    """
    lettered = [
        d
        for d in documents
        if d.get("choices") and all(re.fullmatch("[A-Z]", choice) for choice in d["choices"])
        if isinstance(d["gold"], int) and 0 <= d["gold"] < len(d["choices"])
    ]
    if not lettered:
        return None
    pairs = [(d["choices"][d["gold"]], d["choices"][d["predicted"]]) for d in lettered]
    gold, chosen = (Counter(side) for side in zip(*pairs, strict=True))
    right = Counter(g for g, p in pairs if g == p)
    names = sorted({letter for d in lettered for letter in d["choices"]})
    recalls = {name: right[name] / gold[name] if gold[name] else None for name in names}
    known = [recall for recall in recalls.values() if recall is not None]
    return {
        **{
            name: {
                "gold": gold[name] / len(pairs),
                "predicted": chosen[name] / len(pairs),
                "recall": recalls[name],
            }
            for name in names
        },
        "recall_deviation": float(np.std(known)),
    }


def first_metric(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metric of a task that tables and groups show: its first.

    Args:
        scores: What `task_scores` returned.
    """
    return next(iter(scores["metrics"].values()), None)


def group_scores(
    tasks: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The mean over the tasks of each group, each task alike.

    Args:
        tasks: The scores of one model by task.
        groups: Names of tasks by group.

    Returns:
        By group `tasks`, `value`, `stderr` (of the mean of independent means) and `clean`.
    """
    result = {}
    for group, names in groups.items():
        metrics = [metric for name in names if (metric := first_metric(tasks[name]))]
        values = [metric["value"] for metric in metrics]
        errors = [metric["stderr"] for metric in metrics]
        clean = [metric["clean"] and metric["clean"]["value"] for metric in metrics]
        known = [value for value in clean if value is not None]
        result[group] = {
            "tasks": len(values),
            "value": float(np.mean(values)) if values else None,
            "stderr": (
                sqrt(sum(e * e for e in errors)) / len(errors)
                if errors and None not in errors
                else None
            ),
            "clean": float(np.mean(known)) if known and len(known) == len(clean) else None,
        }
    return result


def as_markdown(result: Mapping[str, Any]) -> str:
    """The scores as tables.

    Args:
        result: What `benchmarks.json` holds.
    """
    rows = []
    for name in result["tasks"]:
        for column, tasks in result["columns"].items():
            scores = tasks[name]
            for metric, of in scores["metrics"].items():
                rows.append([
                    name, column, str(scores["shots"]), metric, str(scores["documents"]),
                    _cell(of), _cell(of["clean"]), str(scores["contaminated"]),
                ])  # fmt: skip
    header = ["task", "model", "shots", "metric", "documents", "score", "clean", "contaminated"]
    parts = ["# Benchmarks", table(header, rows)]
    if result["groups"]:
        grouped = [
            [group, column, str(of["tasks"]), _cell(of), _cell({"value": of["clean"]})]
            for column, groups in result["groups"].items()
            for group, of in groups.items()
        ]
        parts.append(table(["group", "model", "tasks", "score", "clean"], grouped))
    bias = [
        [f"{name}, {column}", letter, *(_cell({"value": of[k]}) for k in _LETTER_COLUMNS)]
        for column, tasks in result["columns"].items()
        for name, scores in tasks.items()
        for letter, of in (scores["letters"] or {}).items()
        if isinstance(of, Mapping)
    ]
    if bias:
        parts.append(table(["task", "letter", *_LETTER_COLUMNS], bias))
    notes = [f"- {name}: not run, {why}" for name, why in result["left_out"].items()]
    if "base" not in result["columns"]:
        notes.append("- no base model: `base` gives its few-shot column")
    parts.append("\n".join([_ABOUT, *notes]))
    return "\n\n".join(parts) + "\n"


_LETTER_COLUMNS = ("gold", "predicted", "recall")
_ABOUT = (
    "Scores with their standard errors. `clean`: without the contaminated documents, which share "
    "13 words in a row with the rows on the edge `training`, or are on the edge `contaminated`."
)


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "-"
    error = score.get("stderr")
    return f"{score['value']:.4f}" + (f" ± {error:.4f}" if error is not None else "")
