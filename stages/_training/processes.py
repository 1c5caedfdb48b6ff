"""Several processes that train one model: what they agree on, and which forward pass is whose.

Each of them reads the same rows and holds the same model; the library (accelerate, by DDP, FSDP or
DeepSpeed) adds their gradients up. Pass number i of a training is process i % size's, so that a
step takes the rows that it takes in one process: `gradient_accumulation_steps` counts the passes
of all of them together. What only one may do (write weights, seal a checkpoint) the first does,
and what depends on a clock or on a folder it decides for all: processes that disagree wait for
each other without end. The passes are in `shared_passes.py`.

Who starts them is no matter of a stage: `pipeline/execution/group.py`, torchrun, Slurm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel

T = TypeVar("T")


def size() -> int:
    """How many processes train together; 1 where no launcher says more."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def is_first() -> bool:
    """Whether this process writes what only one may write."""
    return rank() == 0


def processes(options: SimpleNamespace) -> int:
    """How many processes a stage wants: the `devices` of its model.

    "auto" are as many GPUs as there are, or fewer, so that they share the passes of a step evenly.

    Args:
        options: The stage's, with `model` and `gradient_accumulation_steps`.

    Example:
        >>> model = LanguageModel("m", devices=2)
        >>> processes(SimpleNamespace(model=model, gradient_accumulation_steps=8))
        2
    """
    devices = options.model.devices
    if devices != "auto":
        return int(devices)
    import torch

    passes = options.gradient_accumulation_steps
    gpus = torch.cuda.device_count() if options.model.device != "cpu" else 1
    return max(n for n in range(1, max(gpus, 1) + 1) if passes % n == 0)


def check_devices(options: SimpleNamespace) -> None:
    """Refuse a number of devices that cannot share the passes of a step evenly.

    Args:
        options: Those of a stage that trains on several devices.

    Raises:
        OptionError: It is such a number.
    """
    devices = 1 if options.model is None else options.model.devices
    passes = options.gradient_accumulation_steps
    if devices != "auto" and passes % devices:
        raise OptionError(
            "gradient_accumulation_steps",
            f"must be a multiple of the model's devices, {devices}, got {passes}",
            why="the forward passes of a step are shared evenly, so that a step stays the same",
        )


def refuse_devices(options: SimpleNamespace, option: str, what: str, why: str) -> None:
    """Refuse what another number of devices would give another result for.

    Args:
        options: Those of the stage.
        option: The option that is refused.
        what: What it must be.
        why: Why.

    Raises:
        OptionError: The model has more than one device.
    """
    if options.model is not None and options.model.devices != 1:
        raise OptionError(option, f"must {what} with several devices", why=why)


def join(model: LanguageModel, passes: int) -> None:
    """Meet the other processes, if there are any, before anything is loaded.

    Args:
        model: What is trained.
        passes: The forward passes of a step.

    Raises:
        UserError: There are more or fewer processes than the model has devices.
    """
    number = size()
    if model.devices not in ("auto", number):
        raise UserError(
            f"a training on {model.devices} devices must have as many processes, got {number}",
            why="its launcher started another number, or none was used",
            hint="start it by `run`, or by `train` under torchrun with --nproc-per-node "
            f"{model.devices}",
        )
    if number == 1:
        return
    if passes % number:
        raise UserError(
            f"{number} processes must share the forward passes of a step evenly, got {passes}",
            hint="set gradient_accumulation_steps to a multiple of the number of processes",
        )
    import torch
    from accelerate import PartialState

    from stages._training.launch_settings import apply

    on_gpu = torch.cuda.is_available() and model.device != "cpu"
    if model.accelerate is not None:
        apply(model.accelerate, on_gpu)
    state = PartialState(cpu=not on_gpu, **({} if on_gpu else {"backend": "gloo"}))
    if state.num_processes != number:
        raise UserError(f"{number} processes were started, and {state.num_processes} met")


def agreed(value: T) -> T:
    """The first process's value, in all of them.

    Args:
        value: What this one would say.
    """
    if size() == 1:
        return value
    import torch.distributed

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order.

    Args:
        value: This one's.
    """
    if size() == 1:
        return [value]
    import torch.distributed

    values: list[Any] = [None] * size()
    torch.distributed.all_gather_object(values, value)
    return values


def summed(notes: Mapping[str, float]) -> dict[str, float]:
    """Sums over all processes.

    Args:
        notes: Numbers by name; every process has the same names.
    """
    every = gathered(dict(notes))
    return {name: sum(each[name] for each in every) for name in notes}


def by_first(write: Callable[[], Any]) -> None:
    """Have the first process do something, and the others wait for it.

    Args:
        write: What it does.
    """
    if is_first():
        write()
    agreed(None)


def gathered_weights(trainer: Any, folder: Path) -> Any:
    """The trained weights in this process, gathered where each process holds a part of them.

    Args:
        trainer: The trainer, after its training.
        folder: Where they may lie between.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return trainer.model
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    trainer.save_model(str(folder / "gathered"))
    agreed(None)
    is_adapter = (folder / "gathered" / "adapter_config.json").exists()
    kind: Any = AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM
    weights = kind.from_pretrained(folder / "gathered", dtype="float32")
    agreed(None)  # all have read them
    return weights.to(trainer.args.device)
