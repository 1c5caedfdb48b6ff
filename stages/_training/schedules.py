"""How the learning rate falls, for one training and for one that will be gone on with.

Continual pre-training recipe: Simple and Scalable Strategies to Continually Pre-train Large
Language Models (Ibrahim et al. 2024, arXiv:2403.08763).

As in the paper: the rate is warmed up anew and decayed anew at each refresh, and an infinite
schedule (warm-up, cooldown to a constant, constant, anneal) lets each training begin where the
last constant phase was. Ours: the fractions' defaults, and that the anneal is exponential.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.types import Fraction, PositiveFraction, option_group


@option_group
class MinLR:
    """A cosine that ends at a fraction of the highest rate (the library's cosine_with_min_lr).

    Args:
        min_lr_ratio: The last rate, as a fraction of the highest.
    """

    name: Literal["cosine_with_min_lr"] = "cosine_with_min_lr"
    min_lr_ratio: Fraction = 0.1


@option_group
class WSD:
    """Warm-up, the highest rate, and a decay at the end (the library's warmup_stable_decay).

    Args:
        decay_ratio: The fraction of the steps of the decay.
        decay_type: Its form.
        min_lr_ratio: The last rate, as a fraction of the highest.
    """

    name: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_ratio: PositiveFraction = 0.1
    decay_type: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt"
    min_lr_ratio: Fraction = 0.0


@option_group
class Infinite:
    """Warm-up, cooldown to a constant rate, that rate, and a last anneal (Ibrahim et al. 2024).

    A training without anneal ends at the constant rate, where the next refresh begins: that one
    has `warmup_ratio: 0`, `cooldown_ratio: 0` and a learning_rate of its own.

    Args:
        cooldown_ratio: The fraction of the steps of the cooldown, a cosine.
        constant_lr_ratio: The constant rate, as a fraction of the highest.
        anneal_ratio: The fraction of the steps of the last anneal; 0 for none.
        min_lr_ratio: The rate that it ends at, as a fraction of the highest.
    """

    name: Literal["infinite"] = "infinite"
    cooldown_ratio: Fraction = 0.25
    constant_lr_ratio: PositiveFraction = 0.5
    anneal_ratio: Fraction = 0.0
    min_lr_ratio: PositiveFraction = 0.01

    def __post_init__(self) -> None:
        if self.cooldown_ratio + self.anneal_ratio > 1:
            raise ValueError(
                "anneal_ratio must be at most 1 - cooldown_ratio, "
                f"{1 - self.cooldown_ratio:g}, got {self.anneal_ratio:g}"
            )


SchedulerType = (
    Literal["constant", "linear", "cosine"]
    | Annotated[MinLR | WSD | Infinite, Field(discriminator="name")]
)
"""The library's schedules, and one that has no end."""


def scheduler_arguments(schedule: SchedulerType, steps: int) -> dict[str, Any]:
    """The arguments of transformers' trainer for a schedule that begins with a warm-up.

    Args:
        schedule: The schedule; an infinite one is put in the trainer's place by `scheduled`.
        steps: All steps of the training.

    Example:
        >>> scheduler_arguments("constant", 100)
        {'lr_scheduler_type': 'constant_with_warmup'}
        >>> scheduler_arguments(WSD(), 100)["lr_scheduler_kwargs"]["num_decay_steps"]
        10
    """
    match schedule:
        case MinLR(name=name, min_lr_ratio=last):
            return {"lr_scheduler_type": name, "lr_scheduler_kwargs": {"min_lr_rate": last}}
        case WSD(name=name):
            decay = {
                "num_decay_steps": max(1, round(steps * schedule.decay_ratio)),
                "decay_type": schedule.decay_type,
                "min_lr_ratio": schedule.min_lr_ratio,
            }
            return {"lr_scheduler_type": name, "lr_scheduler_kwargs": decay}
        case "constant" | Infinite():
            return {"lr_scheduler_type": "constant_with_warmup"}
    return {"lr_scheduler_type": schedule}


def scheduled(trainer_class: Any, schedule: SchedulerType) -> Any:
    """The class of a trainer of transformers that follows a schedule of ours too.

    Args:
        trainer_class: The class.
        schedule: The schedule; those of the library leave the class as it is.
    """
    if not isinstance(schedule, Infinite):
        return trainer_class

    endless: Infinite = schedule

    class Scheduled(trainer_class):  # type: ignore[misc]
        """Follows an infinite schedule."""

        lr_scheduler: Any
        optimizer: Any

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:
                warmup = self.args.get_warmup_steps(num_training_steps)
                optimizer = optimizer or self.optimizer
                self.lr_scheduler = infinite(optimizer, endless, warmup, num_training_steps)
                self._created_lr_scheduler = True
            return self.lr_scheduler

    return Scheduled


def infinite(optimizer: Any, schedule: Infinite, warmup: int, steps: int) -> Any:
    """The scheduler of an infinite schedule.

    Args:
        optimizer: What the rate is of.
        schedule: The schedule.
        warmup: The steps of the warm-up.
        steps: All steps.
    """
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, partial(infinite_rate, schedule, warmup, steps))


def infinite_rate(schedule: Infinite, warmup: int, steps: int, step: int) -> float:
    """The rate of a step, as a fraction of the highest.

    Args:
        schedule: The schedule.
        warmup: The steps of the warm-up.
        steps: All steps.
        step: How many are done.

    Example:
        >>> schedule = Infinite(cooldown_ratio=0.2, anneal_ratio=0.5, min_lr_ratio=0.125)
        >>> [infinite_rate(schedule, 10, 100, step) for step in (0, 5, 10, 30, 50, 75, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.5, 0.25, 0.125]
    """
    cooldown = round(steps * schedule.cooldown_ratio)
    anneal = round(steps * schedule.anneal_ratio)
    constant = schedule.constant_lr_ratio
    if step < warmup:
        return step / warmup
    if step < warmup + cooldown:
        done = (step - warmup) / cooldown
        return constant + (1 - constant) * (1 + math.cos(math.pi * done)) / 2
    if anneal and step > steps - anneal:
        done = (step - (steps - anneal)) / anneal
        return float(constant * (schedule.min_lr_ratio / constant) ** done)
    return constant
