"""Hold-outs at three levels: clusters, tasks, and rows of tasks that are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from pipeline.errors import OptionError
from pipeline.hints import suggest
from pipeline.types import Count, Fraction, option_group


class Member(Protocol):
    """A task, as far as hold-outs need it."""

    @property
    def name(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def datasets(self) -> frozenset[str]: ...


@option_group
class HeldOut:
    """What is not trained on.

    Attributes:
        clusters: Clusters (categories, similarity groups) that are held out as a whole.
        tasks: Tasks that are held out; others of their clusters are trained on.
        rows: The fraction of the rows of each other task that is held out.
        max_rows: The most rows of a task that are.
        shared: What becomes of other tasks of a data set that held-out ones were made from:
            `refuse` reports them, `drop` leaves them out.
    """

    clusters: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    rows: Fraction = 0.0
    max_rows: Count = 200
    shared: Literal["refuse", "drop"] = "refuse"


TRAIN = "train"
SHARED = "shared_dataset"
"""In the place of a split: the task is left out."""


def splits_of(tasks: Sequence[Member], held_out: HeldOut | None) -> dict[str, str]:
    """The split of each task: `train`, `held_out_cluster`, `held_out_task`.

    Args:
        tasks: The tasks.
        held_out: What is held out.

    Returns:
        The splits by the tasks' names; `SHARED` where a task is left out.

    Raises:
        OptionError: A name is of no task or cluster, or a data set is on both sides.
    """
    if held_out is None:
        return dict.fromkeys((task.name for task in tasks), TRAIN)
    _check_names("clusters", held_out.clusters, {task.cluster for task in tasks})
    _check_names("tasks", held_out.tasks, {task.name for task in tasks})
    splits = {task.name: _split(task, held_out) for task in tasks}
    shared = _shared(tasks, splits)
    if shared and held_out.shared == "refuse":
        name, other = next(iter(shared.items()))
        others = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise OptionError(
            "held_out",
            f"must leave no data set on both sides, got {name!r} (trained on) and {other!r} "
            f"(held out), which share one{others}",
            hint="hold these out as well, or held_out: {shared: drop} leaves them out",
        )
    splits |= dict.fromkeys(shared, SHARED)
    if TRAIN not in splits.values():
        raise OptionError("held_out", "must leave a task to train on, got all of them held out")
    return splits


def _check_names(option: str, names: Iterable[str], valid: set[str]) -> None:
    for name in names:
        if name not in valid:
            what = f"must be {option} of the tasks, got {name!r}"
            raise OptionError(f"held_out.{option}", what, hint=suggest(name, sorted(valid)))


def _split(task: Member, held_out: HeldOut) -> str:
    if task.cluster in held_out.clusters:
        return "held_out_cluster"
    return "held_out_task" if task.name in held_out.tasks else TRAIN


def _shared(tasks: Sequence[Member], splits: Mapping[str, str]) -> dict[str, str]:
    """Tasks that are trained on, each with a held-out one of the same data set."""
    held = {
        dataset: task.name
        for task in tasks
        if splits[task.name] != TRAIN
        for dataset in task.datasets
    }
    return {
        task.name: held[dataset]
        for task in tasks
        if splits[task.name] == TRAIN
        for dataset in sorted(task.datasets)
        if dataset in held
    }
