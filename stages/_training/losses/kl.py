"""KL to the base: cross-entropy, and what it costs to leave the model before the training.

Instruction Modelling: Instruction Tuning With Loss Over Instructions (Shi et al. 2024,
arXiv:2405.14394; ZhengxiangShi/InstructionModelling).

As in the paper: the regulariser is added to the loss with a coefficient. As in the authors' code:
nothing; its "KL" is the signed difference of log-probabilities of the targets. Ours: the true
divergence KL(base || model) over the whole vocabulary at every position that has a target, and
the coefficient's default.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import NonNegativeFloat, option_group
from stages._training.losses.base import Batch, Loss, Tensor


@option_group
class KL(Loss):
    """Cross-entropy plus beta times KL(base || model), per token that loss is on.

    The base is the model before the training; beneath an adapter, the same weights without it.

    Args:
        beta: The weight of the divergence.
    """

    name: Literal["kl"] = "kl"
    beta: NonNegativeFloat = 0.1
    needs_reference = True
    noted = ("kl",)

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens; the divergence is noted as `kl`.

        Args:
            batch: The forward pass.
        """
        divergence = batch.sum(forward_kl(batch.reference_logits, batch.logits))
        batch.notes["kl"] = divergence.detach()
        return super().total(batch) + self.beta * divergence


def forward_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of each position, in nats.

    Args:
        teacher: Logits: (batch, length, words).
        student: Logits of the same shape.
        temperature: What both are divided by.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([2.0, 0, -1]), torch.tensor([1.0, 1, 0])
        >>> round(float(forward_kl(teacher, student, 2.0)), 5)
        0.1227
    """
    student_log = (student / temperature).log_softmax(-1)
    teacher_log = (teacher / temperature).log_softmax(-1)
    return (teacher_log.exp() * (teacher_log - student_log)).sum(-1)
