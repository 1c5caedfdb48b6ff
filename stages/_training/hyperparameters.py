"""How to train: the options that all stages share which train a model.

Names and meanings are TRL's `SFTConfig`'s and peft's `LoraConfig`'s. Defaults are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pipeline.types import Count, NonNegativeFloat, PositiveFloat, option_group
from stages._training.schedules import SchedulerType as SchedulerType


@option_group
class Full:
    """Trains every weight, in float32."""

    name: Literal["full"] = "full"


@option_group
class LoRA:
    """Trains an adapter on every linear layer but the head (Hu et al. 2021, arXiv:2106.09685).

    Args:
        lora_r: The rank of the adapter. Its `lora_alpha` is twice that.
    """

    name: Literal["lora"] = "lora"
    lora_r: Count = 16


@option_group
class DoRA:
    """An adapter with a magnitude of its own (Liu et al. 2024, arXiv:2402.09353), elsewise as LoRA.

    Args:
        lora_r: The rank of the adapter. Its `lora_alpha` is twice that.
    """

    name: Literal["dora"] = "dora"
    lora_r: Count = 16


@option_group
class Half:
    """Trains half of the weights, drawn by the seed (half fine-tuning, Hui et al. 2024).

    The others stay as they are, bit for bit; see `stages/_training/half.py`.
    """

    name: Literal["half"] = "half"


Adapter = LoRA | DoRA
"""What trains an adapter, and no weight of the model."""

Method = Annotated[Full | LoRA | DoRA | Half, Field(discriminator="name")]

WarmupRatio = Annotated[float, Field(ge=0, lt=1)]
"""A fraction of the steps, below 1."""

MaxLength = Annotated[int, Field(ge=2)]
"""Tokens of a row: one to read and one to predict, at least."""


@dataclass(frozen=True)
class Hyperparameters:
    """How to train. Each stage takes these as options of its own, with these defaults.

    Attributes:
        method: All weights, half of them, or an adapter.
        learning_rate: AdamW's highest learning rate.
        lr_scheduler_type: How the rate falls after the warm-up; "constant" not at all.
        warmup_ratio: The fraction of the steps over which the rate rises from 0.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Rows or blocks per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step.
        seed: Of the order of the rows, and of dropout where the model has any.
    """

    method: Method = field(default_factory=Full)
    learning_rate: PositiveFloat = 2e-5
    lr_scheduler_type: SchedulerType = "cosine"
    warmup_ratio: WarmupRatio = 0.03
    weight_decay: NonNegativeFloat = 0.0
    per_device_train_batch_size: Count = 1
    gradient_accumulation_steps: Count = 8
    seed: int = 0

    @property
    def rows_per_step(self) -> int:
        """Rows or blocks per optimizer step.

        >>> Hyperparameters(per_device_train_batch_size=2).rows_per_step
        16
        """
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
