"""One task with one model: run by the harness, and durable at once.

In: a task's configuration and a model. Out: the score of each document, as the harness gives it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.models.base import Engine
from schemas.records import digest
from stages._benchmarks.programs import SCORED_BY, scorer


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is not installed",
            why="benchmarks are run with it",
            hint="pip install 'gristmill[evaluate]'",
        )


@dataclass(frozen=True)
class Column:
    """A model under test, as a column of the tables.

    Attributes:
        name: Its name.
        shots: Few-shot examples of each prompt; None for what each task says.
    """

    name: str
    shots: int | None


@dataclass(frozen=True)
class Settings:
    """How tasks are run.

    Attributes:
        chat: Whether what is generated answers a user's turn.
        limit: Documents of each task, at most; None for all.
        seed: Of the choice of few-shot examples, and in the keys of requests.
        unsafe: Whether programs may run where nothing on this machine isolates them.
    """

    chat: bool
    limit: int | None
    seed: int
    unsafe: bool = False


@dataclass
class TaskResult:
    """What a model reached in a task.

    Attributes:
        metrics: By metric what the harness says.
        shots: Few-shot examples of each prompt.
        docs: For each document `doc_id`, `doc`, and `scores` by metric; of choices also `choices`,
            `gold` and `predicted` (positions) and `loglikelihoods`.
        truncated: Prompts that were cut at their beginning.
        unanswered: Answers that were withheld, or whose reasoning did not end.
    """

    metrics: dict[str, float]
    shots: int
    docs: list[dict[str, Any]] = field(default_factory=list)
    truncated: int = 0
    unanswered: int = 0


def run_task(
    config: Mapping[str, Any],
    engine: Engine,
    column: Column,
    settings: Settings,
    work: Path,
) -> TaskResult:
    """The result of a task: what an interrupted run has left, or a new one.

    Args:
        config: The task, as its YAML file has it.
        engine: The model.
        column: Which model it is.
        settings: How it is run.
        work: A folder that survives kills.

    Raises:
        UserError: The harness cannot run the task.
    """
    name = str(config["task"])
    path = work / f"{digest([name, column.name])}.json"
    if path.exists():
        return TaskResult(**json.loads(path.read_text("utf-8")))
    result = evaluate_task(config, engine, column.shots, settings, work)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(result), ensure_ascii=False), "utf-8")
    draft.replace(path)
    return result


def evaluate_task(
    config: Mapping[str, Any],
    engine: Engine,
    num_shots: int | None,
    settings: Settings,
    work: Path,
) -> TaskResult:
    """The result of a task, computed anew.

    Args:
        config: The task, as its YAML file has it.
        engine: The model.
        num_shots: Few-shot examples of each prompt; None for what the task says.
        settings: How it is run.
        work: A folder for the harness' copy of the data.

    Raises:
        UserError: The harness cannot run the task.
    """
    with _quiet():
        try:
            return _run(config, engine, num_shots, settings, work)
        except UserError:
            raise
        except Exception as error:  # a task file may name anything, its own functions first of all
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"the task {config['task']} cannot be run", why=why) from error


def _run(
    config: Mapping[str, Any],
    engine: Engine,
    num_shots: int | None,
    settings: Settings,
    work: Path,
) -> TaskResult:
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from stages._benchmarks.engine_lm import EngineLM

    own = deepcopy(dict(config))
    own["dataset_kwargs"] |= {"cache_dir": str(work / "datasets")}
    if (own.get("metadata") or {}).get("scored_by") == SCORED_BY:
        own["process_results"] = scorer(settings.unsafe)
        if settings.chat:  # a whole answer: the function may begin anywhere in it
            own["generation_kwargs"]["until"] = []
    manager = TaskManager(include_defaults=False)
    (task,) = manager.load([own])["tasks"].values()
    shots = _shots(task, num_shots)
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=settings.seed)
    model = EngineLM(engine, chat=settings.chat, seed=settings.seed)
    name = str(config["task"])
    results = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}},
        limit=settings.limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    metrics = {
        _metric(key): float(value)
        for key, value in results["results"][name].items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float)
    }
    docs = [_document(task, sample) for sample in results["samples"][name]]
    return TaskResult(metrics, shots, docs, model.truncated, model.unanswered)


def _shots(task: Any, requested: int | None) -> int:
    """How many examples a prompt has: never more than there are beside the document."""
    shots = requested if requested is not None else (task.config.num_fewshot or 0)
    if not shots:
        return 0
    pool = len(list(task.fewshot_docs() or ()))
    return min(shots, max(pool - 1, 0))


def _metric(key: str) -> str:
    """The name of a metric without that of a filter that every task has."""
    return key.removesuffix(",none")


def _document(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
    document: dict[str, Any] = {
        "doc_id": sample["doc_id"],
        "doc": json.loads(json.dumps(sample["doc"], default=str)),
        "scores": {
            f"{name}{suffix}": float(sample[name])
            for name in sample["metrics"]
            if isinstance(sample[name], bool | int | float)
        },
    }
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [str(arguments[1]).strip() for arguments in sample["arguments"]]
        likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
        n = len(task.doc_to_choice(sample["doc"]))  # mutual information scores each choice twice
        document |= {
            "choices": choices[:n],
            "loglikelihoods": likelihoods[:n],
            "predicted": max(range(n), key=lambda i: likelihoods[i]),
            "gold": sample["target"],
        }
    else:
        document |= {"answer": sample["resps"][0][0]}
    return document


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and the loader of data sets write to the terminal, which shows our progress."""
    import datasets
    import lm_eval.api.task

    log = logging.getLogger("lm_eval")
    level, shown = log.level, datasets.utils.logging.is_progress_bar_enabled()
    bar = lm_eval.api.task.tqdm
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        log.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()
