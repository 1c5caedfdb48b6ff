"""Several processes that train one model: what they agree on, and which forward pass is whose.

Each of them reads the same rows and holds the same model; the library (accelerate, by DDP, FSDP or
DeepSpeed) adds their gradients up. Pass number i of a training is process i % size's, so that a
step takes the rows that it takes in one process: `gradient_accumulation_steps` counts the passes
of all of them together. What only one may do (write weights, seal a checkpoint) the first does,
and what depends on a clock or on a folder it decides for all: processes that disagree wait for
each other without end.

Who starts them is no matter of a stage: `pipeline/execution/group.py`, torchrun, Slurm.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
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

    if model.accelerate is not None:
        apply(model.accelerate)
    on_gpu = torch.cuda.is_available() and model.device != "cpu"
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


def batches_of(num_rows: int, batch_size: int) -> list[list[int]]:
    """The rows of this process's passes, in order; all processes have equally many passes.

    Args:
        num_rows: Rows of the whole training.
        batch_size: Rows of a pass.

    Example:
        >>> batches_of(5, 2)
        [[0, 1], [2, 3], [4]]
    """
    passes = math.ceil(num_rows / batch_size)
    rounds = math.ceil(passes / size())
    own = [min(number * size() + rank(), passes - 1) for number in range(rounds)]
    return [[*range(i * batch_size, min((i + 1) * batch_size, num_rows))] for i in own]


def share_of_pass(step: int, number: int, passes_per_step: int, passes: int, mean: bool) -> float:
    """What the loss of a pass is multiplied by, so that a step is the same in any number of them.

    The last step may have passes that not all processes have: what fills them up counts nothing.

    Args:
        step: The steps that are done.
        number: Of this process's pass within the step.
        passes_per_step: Those of all processes.
        passes: Those of the whole training.
        mean: Whether the step is a mean of its passes, and not a sum over what they count.

    Example:
        >>> share_of_pass(0, 0, 4, 4, mean=True)
        1.0
    """
    if step * passes_per_step + number * size() + rank() >= passes:
        return 0.0
    left = passes - step * passes_per_step
    if not mean or left >= passes_per_step:
        return 1.0
    return size() * math.ceil(left / size()) / left


def has_dropout(weights: Any) -> bool:
    """Whether a model draws from the library's generator while it is trained.

    Args:
        weights: A transformers model.
    """
    from torch.nn import Dropout

    layers = [layer.p for layer in weights.modules() if isinstance(layer, Dropout)]
    return any(layers) or bool(getattr(weights.config, "attention_dropout", 0.0))


def shared(trainer_class: Any, *, mean: bool) -> Any:
    """A trainer's class that does this process's passes, and no others.

    Args:
        trainer_class: A trainer of TRL's.
        mean: Whether its step is a mean of its passes, and not a sum over what they count.
    """
    if size() == 1:
        return trainer_class

    class Shared(trainer_class):  # type: ignore[misc]
        """Reads its own passes; `share` is what the loss of the present one counts."""

        args: Any
        state: Any
        accelerator: Any
        train_dataset: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if has_dropout(self.model):
                raise UserError(
                    "a model with dropout must be trained on one device",
                    why="dropout draws from a generator of each process's own",
                    hint="leave devices out, or set the dropout in its config.json to 0",
                )
            self.done: tuple[int, int] = (-1, 0)
            if mean:
                gather = self.accelerator.gather
                self.accelerator.gather = lambda value: self.gather(gather, value)
                self.accelerator.gather_for_metrics = self.accelerator.gather

        def share(self, number: int) -> float:
            per_step = self.args.gradient_accumulation_steps * size()
            passes = math.ceil(len(self.train_dataset) / self.args.per_device_train_batch_size)
            return share_of_pass(self.state.global_step, number, per_step, passes, mean)

        def is_counted(self) -> bool:
            return bool(self.share(self.done[1]))

        def get_train_dataloader(self) -> Any:
            rows = self._remove_unused_columns(self.train_dataset, description="training")
            return self.loader(rows, batches_of(len(rows), self.args.per_device_train_batch_size))

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            rows = self._remove_unused_columns(rows, description="evaluation")
            size_ = self.args.per_device_eval_batch_size
            starts = range(0, len(rows), size_)
            return self.loader(rows, [[*range(i, min(i + size_, len(rows)))] for i in starts])

        def loader(self, rows: Any, batches: Sequence[Sequence[int]]) -> Any:
            from torch.utils.data import DataLoader

            pinned = self.args.dataloader_pin_memory
            return DataLoader(
                rows, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=pinned
            )

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            step, number = self.done
            number = number + 1 if step == self.state.global_step else 0
            self.done = self.state.global_step, number
            return super().training_step(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            result = super().compute_loss(model, inputs, *args, **kwargs)
            return result * self.share(self.done[1]) if self.model.training else result

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            counted = [
                batch if self.share(i) else {**batch, "labels": batch["labels"] * 0 - 100}
                for i, batch in enumerate(batch_samples)
            ]
            return super()._get_num_items_in_batch(counted, device)

        def gather(self, gather: Callable[[Any], Any], value: Any) -> Any:
            """Equal shapes as the library does; in the last round what counts, of any shape."""
            import torch

            before = self.state.global_step * self.args.gradient_accumulation_steps
            if (before + self.done[1] + 1) * size() <= len(self.train_dataset) // (
                self.args.per_device_train_batch_size
            ):
                return gather(value)
            own = value.detach().reshape(-1) if value.dim() == 0 else value.detach()
            pieces = gathered((own if self.is_counted() else own[:0]).cpu())
            return torch.cat(pieces).to(value.device)

    return Shared
