"""What SELF-GUIDE drops of what was written for its one task: noise, and odd lengths.

Zhao et al. 2024, arXiv:2407.12874. Noise is text that repeats the form of the prompt
instead of filling it. Lengths are taken to be normally distributed; what lies too many
standard deviations from the mean is dropped. The bounds are those of all that was
written, in characters, each side by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

from stages._llm.rows import Rejection
from stages.generate._parsing.lists import Instance, leaked
from stages.generate.self_instruct.tasks import Task


def drop_noise(tasks: Sequence[Task]) -> None:
    """Reject instances in which a mark of the prompt's form stands."""

    def judge(instance: Instance) -> Rejection | None:
        for side, text in instance._asdict().items():
            mark = leaked(text)
            if mark is not None:
                return "noise", {"side": side, "mark": mark}
        return None

    _drop(tasks, judge)


def drop_odd_lengths(tasks: Sequence[Task], deviations: float) -> None:
    """Reject instances whose input or output is unusually short or long."""
    kept = [one for task in tasks for one, rejection in task.instances if rejection is None]
    bounds = {}
    for side in Instance._fields if kept else ():
        lengths = [len(getattr(one, side)) for one in kept]
        mean, width = fmean(lengths), deviations * pstdev(lengths)
        bounds[side] = mean - width, mean + width

    def judge(instance: Instance) -> Rejection | None:
        for side, text in instance._asdict().items():
            least, most = bounds[side]
            if not least <= len(text) <= most:
                told = {"characters": len(text), "least": round(least, 1), "most": round(most, 1)}
                return "odd_length", {"side": side, **told}
        return None

    _drop(tasks, judge)


def _drop(tasks: Sequence[Task], judge: Callable[[Instance], Rejection | None]) -> None:
    for task in tasks:
        task.instances = [(one, rejection or judge(one)) for one, rejection in task.instances]
