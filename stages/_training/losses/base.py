"""What a loss sees, and what all of them share.

Labels are shifted once, here: position t of a `Batch` reads token t and predicts token t + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from pipeline.types import option_group
from stages._training.dataset import IGNORED

if TYPE_CHECKING:
    from stages._training.losses.distill import TopK

Tensor = Any
"""A torch tensor; torch is imported only where something is trained."""


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        inputs: What the model takes, without labels.
        targets: The token that each position predicts, IGNORED without loss: (batch, length).
        weights: The weight of each prediction, in the same shape; it may be negative.
        rows: The number of the row that each target belongs to, from 0; packed rows of a block
            have numbers of their own.
        model: Gives `logits` of inputs.
        reference: Gives the logits of the reference; None without one.
        stored: What a teacher was noted to say of the positions; None without one.
        progress: The fraction of the steps that is done.
        values: Further columns of the rows, by name.
        wrapped: The model as several processes call it, where their gradients meet; None for one.
        generator: Where a loss draws from; a function of the seed, the step and the pass.
        notes: What is logged of the step beside the loss: sums, divided as the loss is.
    """

    inputs: Mapping[str, Tensor]
    targets: Tensor
    weights: Tensor
    rows: Tensor
    model: Any
    reference: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    stored: TopK | None = None
    progress: float = 0.0
    values: Mapping[str, Tensor] = field(default_factory=dict)
    wrapped: Any = None
    generator: Any = None
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def forward(self) -> Any:
        """What a forward pass with gradients calls."""
        return self.model if self.wrapped is None else self.wrapped

    @cached_property
    def logits(self) -> Tensor:
        """The model's logits of the positions that predict, in float32: (batch, length, words)."""
        return self.forward(**self.inputs, use_cache=False).logits[:, :-1].float()

    @cached_property
    def reference_logits(self) -> Tensor:
        """The same of the reference."""
        import torch

        if self.reference is None:
            raise ValueError("the loss needs a reference")
        with torch.no_grad():
            return self.reference(self.inputs)[:, :-1].float()

    @cached_property
    def scored(self) -> Tensor:
        """Which positions have a target."""
        return self.targets != IGNORED

    @cached_property
    def log_probs(self) -> Tensor:
        """The log-probability of each target, 0 where there is none."""
        return token_log_probs(self.logits, self.targets)

    def sum(self, losses: Tensor) -> Tensor:
        """The weighted sum of the losses of tokens.

        Args:
            losses: One for each position.
        """
        return (losses * self.weights * self.scored).sum()

    def by_row(self, values: Tensor) -> Tensor:
        """The sums of the scored positions of each row that has some.

        Args:
            values: One for each position.
        """
        import torch

        rows, at = self.rows[self.scored].unique(return_inverse=True)
        summed = torch.zeros(len(rows), device=values.device, dtype=values.dtype)
        return summed.index_add(0, at, values[self.scored])


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each target, 0 where it is IGNORED.

    Args:
        logits: (batch, length, words).
        targets: (batch, length).
    """
    import torch

    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -flat.view(targets.shape)


class Loss:
    """A loss over tokens, weighted; subclasses are groups of options.

    Their class attributes say what they need: `needs_reference`, to compare with the model before
    the training; `needs_pairs`, two rows in each pass that `pairs` chooses; and `noted`, the names
    of what they note beside the loss.
    """

    needs_reference = False
    needs_pairs = False
    noted: tuple[str, ...] = ()

    def columns(self) -> tuple[str, ...]:
        """The columns of the shards that it reads, beside the conversation."""
        return ()

    def rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows to encode, those of the shards or more of them.

        Args:
            rows: `id`, `messages`, perhaps `tools`, and `columns`.
        """
        return rows

    def weigh(self, rows: pl.DataFrame, encoded: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:  # noqa: ARG002
        """The encoded rows, with `weights` of their tokens where it has some of its own.

        Args:
            rows: What `rows` gave.
            encoded: The same as tokens.
            tokenizer: What made them.
        """
        return encoded

    def total(self, batch: Batch) -> Tensor:
        """The sum over all that the loss counts.

        Args:
            batch: The forward pass.
        """
        return batch.sum(-batch.log_probs)

    def count(self, targets: Tensor, weights: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """What the sums of a step are divided by, one forward pass's part of it.

        Args:
            targets: As in a `Batch`.
            weights: As in a `Batch`.
            rows: As in a `Batch`.
        """
        return (weights.abs() * (targets != IGNORED)).sum()


class RowLoss(Loss):
    """A loss over rows: each counts once, whatever its length."""

    needs_reference = True

    def count(self, targets: Tensor, weights: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """The number of rows that have a target.

        Args:
            targets: As in a `Batch`.
            weights: As in a `Batch`.
            rows: As in a `Batch`.
        """
        import torch

        return torch.tensor(float(len(rows[targets != IGNORED].unique())))


@option_group
class NLL(Loss):
    """The negative log-likelihood of the tokens that loss is on."""

    name: Literal["nll"] = "nll"


@option_group
class DFT(Loss):
    """Dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629): a token weighs its own probability.

    TRL's own. Its weights are constants to the gradient.
    """

    name: Literal["dft"] = "dft"

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass.
        """
        return batch.sum(-batch.log_probs * batch.log_probs.exp().detach())
