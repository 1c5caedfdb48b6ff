"""Which forward passes of a training are whose, where several processes train one model.

Pass number i is process i % size's, so that a step takes the rows that it takes in one process. The
library would cut the rows otherwise: it fills an incomplete last batch with rows from the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import UserError
from stages._training.dataset import IGNORED
from stages._training.processes import gathered, rank, size


def batches_of(num_rows: int, batch_size: int) -> list[list[int]]:
    """The rows of this process's passes, in order; all processes have equally many passes.

    Args:
        num_rows: Rows of the whole training.
        batch_size: Rows of a pass.

    Example:
        >>> batches_of(5, 2)
        [[0, 1], [2, 3], [4]]
    """
    batches = whole_batches(num_rows, batch_size)
    rounds = math.ceil(len(batches) / size())
    return [batches[min(i * size() + rank(), len(batches) - 1)] for i in range(rounds)]


def whole_batches(num_rows: int, batch_size: int) -> list[list[int]]:
    """The rows of all passes, in order.

    Args:
        num_rows: Rows.
        batch_size: Rows of a pass.

    Example:
        >>> whole_batches(5, 2)
        [[0, 1], [2, 3], [4]]
    """
    starts = range(0, num_rows, batch_size)
    return [[*range(start, min(start + batch_size, num_rows))] for start in starts]


def share_of_pass(
    step: int, number: int, passes_per_step: int, passes: int, *, mean: bool
) -> float:
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


def shared(trainer_class: Any, *, mean: bool) -> Any:
    """A trainer's class that does this process's passes, and no others.

    Args:
        trainer_class: A trainer of TRL's.
        mean: Whether its step is a mean of its passes, and not a sum over what they count.
    """
    if size() == 1:
        return trainer_class

    class Shared(trainer_class):  # type: ignore[misc]
        """Reads its own passes; `share` is what the loss of one counts."""

        args: Any
        state: Any
        accelerator: Any
        train_dataset: Any
        data_collator: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _refuse_dropout(self.model)
            self.done: tuple[int, int] = (-1, 0)
            if mean:
                gather = self.accelerator.gather
                self.accelerator.gather = lambda value: self.gather(gather, value)
                self.accelerator.gather_for_metrics = self.accelerator.gather

        def share(self, number: int) -> float:
            per_step = self.args.gradient_accumulation_steps * size()
            return share_of_pass(self.state.global_step, number, per_step, self.count(), mean=mean)

        def count(self) -> int:
            rows: int = len(self.train_dataset)
            return math.ceil(rows / int(self.args.per_device_train_batch_size))

        def left(self) -> int:
            before = self.state.global_step * int(self.args.gradient_accumulation_steps)
            return self.count() - (int(before) + self.done[1]) * size()

        def is_counted(self) -> bool:
            return bool(self.share(self.done[1]))

        def get_train_dataloader(self) -> Any:
            rows = self._remove_unused_columns(self.train_dataset, description="training")
            batches = batches_of(len(rows), self.args.per_device_train_batch_size)
            return _loader(rows, batches, self.data_collator, self.args)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            rows = self._remove_unused_columns(rows, description="evaluation")
            batches = whole_batches(len(rows), self.args.per_device_eval_batch_size)
            return _loader(rows, batches, self.data_collator, self.args)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            step, number = self.done
            number = number + 1 if step == self.state.global_step else 0
            self.done = self.state.global_step, number
            return super().training_step(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            result = super().compute_loss(model, inputs, *args, **kwargs)
            if not self.model.training:
                return result
            if mean:
                _weigh_round(self, min(self.left(), size()))
            return result * self.share(self.done[1])

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            counted = list(batch_samples)
            for i, batch in enumerate(batch_samples):
                if not mean and not self.share(i):
                    counted[i] = {**batch, "labels": batch["labels"] * 0 + IGNORED}
            return super()._get_num_items_in_batch(counted, device)

        def gather(self, gather: Callable[[Any], Any], value: Any) -> Any:
            # The library gathers equal shapes; the last round may have others, and fillers.
            if self.left() > size():
                return gather(value)
            return _gathered_means(value, is_counted=self.is_counted())

    return Shared


def _refuse_dropout(weights: Any) -> None:
    """Raise a UserError for a model that draws from the library's generator while it is trained."""
    from torch.nn import Dropout

    layers = [layer.p for layer in weights.modules() if isinstance(layer, Dropout)]
    if any(layers) or getattr(weights.config, "attention_dropout", False):
        raise UserError(
            "a model with dropout must be trained on one device",
            why="each process would draw it from a generator of its own",
            hint="leave devices out, or set the dropout in its config.json to 0",
        )


def _loader(rows: Any, batches: Sequence[list[int]], collate: Any, arguments: Any) -> Any:
    """What gives the batches of rows one after the other."""
    from torch.utils.data import DataLoader

    pinned = arguments.dataloader_pin_memory
    return DataLoader(rows, batch_sampler=batches, collate_fn=collate, pin_memory=pinned)


def _weigh_round(trainer: Any, passes: int) -> None:
    """Count what a trainer has just noted of a round as often as the round has passes.

    The library takes the mean over rounds; in one process it is one over passes.
    """
    notes = trainer._metrics if hasattr(trainer, "_metrics") else trainer._stored_metrics
    for values in notes["train"].values():
        values.extend(values[-1:] * (passes - 1))


def _gathered_means(value: Any, *, is_counted: bool) -> Any:
    """The means over the rows of each pass of a round that counts."""
    import torch

    own = value.detach().float().mean()[None]
    pieces = gathered((own if is_counted else own[:0]).cpu())
    return torch.cat(pieces).to(value.device)
