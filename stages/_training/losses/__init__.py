"""Losses of supervised fine-tuning, one a module.

Each is a group of options with what it makes of a `Batch`: the sum over what it counts, and how
much that is. The trainer (`stages/_training/loss_trainer.py`) divides the sums of all forward
passes of a step by the count of the whole step, so that accumulation changes no gradient.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages._training.losses.base import DFT, NLL
from stages._training.losses.figa import FIGA
from stages._training.losses.intuitive import Intuitive
from stages._training.losses.kl import KL
from stages._training.losses.minor import Minor
from stages._training.losses.mixup import Mixup
from stages._training.losses.tool_tokens import ToolTokens
from stages._training.losses.unlikelihood import Unlikelihood

SFTLoss = Annotated[
    NLL | DFT | KL | Minor | Intuitive | Unlikelihood | FIGA | ToolTokens | Mixup,
    Field(discriminator="name"),
]
"""What `train.sft` can minimise."""
