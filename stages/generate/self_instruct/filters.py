"""SELF-GUIDE's filters of inputs and outputs: noisy texts, and outliers in length.

Zhao et al. 2024, arXiv:2407.12874. A noisy text repeats the form of the prompt instead of
filling it. Lengths in characters are taken to be normally distributed; an input or output
too many standard deviations from the mean of its side is dropped. The authors' code takes
mean and deviation from the demonstrations, and bounds inputs or outputs as the task is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

from stages._llm.rows import Rejection
from stages.generate._parsing.lists import Instance, leaked
from stages.generate.self_instruct.tasks import Seed, Task


def drop_noisy_texts(tasks: Sequence[Task]) -> None:
    """Reject instances that contain a mark of the prompt's form: `noisy_text`."""

    def judge(instance: Instance) -> Rejection | None:
        for side, text in instance._asdict().items():
            mark = leaked(text)
            if mark is not None:
                return "noisy_text", {"side": side, "mark": mark}
        return None

    _drop(tasks, judge)


def drop_length_outliers(
    tasks: Sequence[Task], max_deviations: float, seeds: Sequence[Seed] | None = None
) -> None:
    """Reject instances whose input or output is unusually short or long: `length_outlier`.

    Args:
        tasks: The tasks; changed in place.
        max_deviations: How many standard deviations from the mean are usual.
        seeds: Whose instances say what the mean is; None for the tasks' own.
    """
    kept = [one for task in tasks for one, rejection in task.instances if rejection is None]
    if seeds is not None:
        kept = [Instance(*one) for seed in seeds for one in seed.instances]
    bounds = {}
    for side in Instance._fields if kept else ():
        lengths = [len(getattr(one, side)) for one in kept]
        mean, width = fmean(lengths), max_deviations * pstdev(lengths)
        bounds[side] = mean - width, mean + width

    def judge(instance: Instance) -> Rejection | None:
        for side, text in instance._asdict().items():
            low, high = bounds[side]
            if not low <= len(text) <= high:
                evidence = {"characters": len(text), "least": round(low, 1), "most": round(high, 1)}
                return "length_outlier", {"side": side, **evidence}
        return None

    _drop(tasks, judge)


def _drop(tasks: Sequence[Task], judge: Callable[[Instance], Rejection | None]) -> None:
    for task in tasks:
        task.instances = [(one, rejection or judge(one)) for one, rejection in task.instances]
