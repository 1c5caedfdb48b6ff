"""What supervised fine-tuning minimises: losses and noise of ours beside TRL's own.

TRL's own losses and options are taken where there are any: cross-entropy, DFT, NEFTune, early
stopping, schedules. A loss of ours gets a `Batch` and gives a sum; the division by the count of all
forward passes of a step is here, once for all, as the library divides its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.types import Count, NonNegativeFloat, option_group
from stages._training.dataset import IGNORED
from stages._training.half import freeze_half
from stages._training.hyperparameters import Half, Hyperparameters
from stages._training.losses.base import DFT, NLL, Batch, Loss
from stages._training.noise import Masked, NEFTune, Noise
from stages._training.processes import rank, size, summed
from stages._training.schedules import scheduled
from stages._training.shared_passes import shared

if TYPE_CHECKING:
    from stages._training.stored_teacher import StoredTeacher

OWN: tuple[str, ...] = ("input_ids", "labels", "seq_lengths")
"""The columns that TRL's collator reads; others become `values` of a batch."""


@option_group
class EarlyStopping:
    """Stops where the loss on the split `validation` no longer falls, and takes the best weights.

    By transformers' EarlyStoppingCallback.

    Args:
        eval_steps: Steps between two evaluations.
        patience: Evaluations without a better loss, until the training stops.
        min_delta: By how much a better loss must be lower.
    """

    eval_steps: Count = 50
    patience: Count = 3
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        loss: The loss.
        noise: On what the model reads.
        reference: The model that the loss compares with; None for the one beneath the adapter,
            or for none.
        stored: What a teacher was noted to say of the blocks, whose numbers are a column `block`.
        early_stopping: When to stop before the last step.
        validation: The rows of the early stop, a `datasets.Dataset`.
    """

    loss: Loss = field(default_factory=NLL)
    noise: Noise | None = None
    reference: Any = None
    stored: StoredTeacher | None = None
    early_stopping: EarlyStopping | None = None
    validation: Any = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of TRL's trainer that it sets."""
        arguments: dict[str, Any] = {}
        if isinstance(self.loss, DFT):
            arguments["loss_type"] = "dft"
        if isinstance(self.noise, NEFTune):
            arguments["neftune_noise_alpha"] = self.noise.alpha
        if self.early_stopping:
            arguments |= {
                "eval_strategy": "steps",
                "eval_steps": self.early_stopping.eval_steps,
                "save_strategy": "best",
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_loss",
                "greater_is_better": False,
                # Else a resumed training would count its evaluations anew.
                "restore_callback_states_from_checkpoint": True,
            }
        return arguments

    def callbacks(self) -> list[Any]:
        """Those of the early stop."""
        from transformers import EarlyStoppingCallback

        stop = self.early_stopping
        return [EarlyStoppingCallback(stop.patience, stop.min_delta)] if stop else []


def objective_trainer(objective: Objective, settings: Hyperparameters) -> Any:
    """The class of the trainer.

    Args:
        objective: What it minimises.
        settings: How it trains.
    """
    import torch
    from trl.trainer.sft_trainer import SFTTrainer

    loss, noise = objective.loss, objective.noise

    base: Any = SFTTrainer

    class Trainer(base):  # type: ignore[misc]
        """Divides the sums of `objective.loss` by the count of the whole step."""

        data_collator: Any
        _signature_columns: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.plain_collator, self.data_collator = self.data_collator, self.collate
            self.notes: dict[str, float] = {}
            self.passes: tuple[int, int] = (-1, 0)
            if isinstance(settings.method, Half):
                freeze_half(self.model, settings.seed)

        def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {**self.plain_collator(examples), **further_columns(examples, self.padding_free)}

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            further = [c for c in self.train_dataset.column_names if c not in OWN]
            self._signature_columns = [*dict.fromkeys([*self._signature_columns, *further])]

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            if not batch_samples or not _is_ours(loss, batch_samples[0]):
                return super()._get_num_items_in_batch(batch_samples, device)
            counts = [loss.count(*_targets(batch)) for batch in batch_samples]
            count = torch.stack([each.float().cpu() for each in counts]).sum().to(device)
            return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            values = {name: inputs.pop(name) for name in list(inputs) if name.startswith("row_")}
            if not self.model.training:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            done = self.state.global_step / max(self.state.max_steps, 1)
            generator = self.generator()
            if isinstance(noise, Masked):
                inputs["input_ids"] = noise.masked(
                    inputs["input_ids"], inputs["labels"], _mask_token(self._tokenizer),
                    progress=done, generator=generator,
                )  # fmt: skip
            if not _is_ours(loss, values):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            batch = _batch(objective, self.accelerator.unwrap_model(model), inputs, values, done)
            batch = replace(batch, wrapped=model, generator=generator)
            count = torch.as_tensor(num_items_in_batch).clamp(min=1).to(batch.weights.device)
            total = loss.total(batch) / count
            for name, value in batch.notes.items() if self.is_counted() else ():
                self.notes[name] = self.notes.get(name, 0.0) + float(value / count)
            return total * self.accelerator.num_processes

        def generator(self) -> Any:
            step, number = self.passes
            number = number + 1 if step == self.state.global_step else 0
            self.passes = self.state.global_step, number
            return pass_generator(
                settings.seed, step=self.passes[0], number=number * size() + rank()
            )

        def is_counted(self) -> bool:
            return True

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs | summed(self.notes), start_time)
            self.notes.clear()

    return shared(scheduled(Trainer, settings.lr_scheduler_type), mean=False)


def _batch(
    objective: Objective,
    model: Any,
    inputs: Mapping[str, Any],
    values: Mapping[str, Any],
    progress: float,
) -> Batch:
    """A forward pass as a loss sees it."""

    def reference(inputs: Mapping[str, Any]) -> Any:
        if objective.reference is not None:
            return objective.reference(**inputs, use_cache=False).logits
        with model.disable_adapter():
            return model(**inputs, use_cache=False).logits

    stored = None
    if objective.stored is not None:
        stored = objective.stored.of(values["row_block"], laid_out="position_ids" in inputs)
    targets, weights, rows = _targets({**inputs, **values})
    return Batch(
        inputs={name: value for name, value in inputs.items() if name != "labels"},
        targets=targets,
        weights=weights,
        rows=rows,
        model=model,
        reference=reference,
        stored=stored,
        progress=progress,
        values=values,
    )


def pass_generator(seed: int, step: int, number: int) -> Any:
    """Where a forward pass draws from: the same again in a training that was resumed.

    Args:
        seed: Of the training.
        step: How many steps are done.
        number: Of the pass within the step.
    """
    import torch

    mixed = (seed * 1_000_003 + step) * 65_537 + number
    return torch.Generator().manual_seed(mixed % 2**63)


def _is_ours(loss: Loss, values: Mapping[str, Any]) -> bool:
    """Whether the library has no such loss: all but cross-entropy and DFT of equal weights."""
    return not isinstance(loss, NLL | DFT) or "row_weights" in values


def _mask_token(tokenizer: Any) -> int:
    mask = tokenizer.mask_token_id
    return int(tokenizer.pad_token_id if mask is None else mask)


def further_columns(examples: Sequence[Mapping[str, Any]], padding_free: bool) -> dict[str, Any]:
    """The columns of examples that TRL's collator leaves out, as tensors named `row_...`.

    Args:
        examples: Rows or blocks.
        padding_free: Whether blocks are laid end to end, as TRL then does.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    result: dict[str, Any] = {}
    for name in [name for name in examples[0] if name not in OWN]:
        values = [torch.as_tensor(example[name]) for example in examples]
        if values[0].dim() == 0:
            result[f"row_{name}"] = torch.stack(values)
        elif padding_free:
            result[f"row_{name}"] = torch.cat(values)[None]
        else:
            result[f"row_{name}"] = pad_sequence(values, batch_first=True)
    return result


def _targets(inputs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Targets, weights and row numbers of a batch, shifted: see `Batch`."""
    import torch

    labels = inputs["labels"]
    targets = labels[:, 1:]
    weights = inputs.get("row_weights", torch.ones(labels.shape, device=labels.device))
    if "position_ids" in inputs:
        rows = (inputs["position_ids"] == 0).cumsum(1) - 1
    else:
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand(labels.shape)
    in_weights = weights[:, 1:].to(torch.float32)
    return targets, in_weights * (targets != IGNORED), rows[:, 1:]
