"""Losses that take a teacher's distribution as the target.

Teacher worth a million instructions: A Teacher Is Worth A Million Instructions (Kothari et al.
2024, arXiv:2406.19112; flipkart-incubator/kd-dae).

As in the paper: (1 - lambda) of the cross-entropy and lambda of T squared times KL(teacher ||
student) of the response's tokens, lambda 1 and T 1. Ours: the mask is shifted with the labels, so
that the first token of a response is distilled; the authors' code leaves it out. Left out: the
term of the attention maps, for which both models must have the same depth.

Small-LM help (SALT): A Little Help Goes a Long Way: Efficient LLM Training by Leveraging Small LMs
(Rawat et al. 2024, arXiv:2410.18779).

As in the paper: a small model's distribution is the target in a first phase, and the rows alone in
the second. Ours: the weight 0.667 in the first phase is from memory; rows are chosen before
(`select.top`).

Weak-to-strong: Weak-to-Strong Generalization: Eliciting Strong Capabilities With Weak Supervision
(Burns et al. 2023, arXiv:2312.09390; openai/weak-to-strong).

As in the paper: the target is (1 - c) of the weak model's distribution and c of the strong model's
own hardened prediction, c rising to 0.5 over the first tenth of the steps. Ours: the prediction of
a token is its argmax, since the threshold that keeps classes balanced is one of two classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.types import Fraction, PositiveFloat, option_group
from stages._training.losses.base import Batch, Loss, Tensor


@dataclass(frozen=True)
class TopK:
    """The most likely words of a teacher, and how likely all others are together.

    Attributes:
        ids: The words: (batch, length, k).
        log_probs: Their log-probabilities.
        tail: The log-probability of all others: (batch, length).
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor

    def grouped(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's and a student's log-probabilities of these words and of all others.

        Args:
            log_probs: The student's of all words: (batch, length, words).
        """
        import torch

        own = log_probs.gather(-1, self.ids)
        if self.ids.shape[-1] == log_probs.shape[-1]:
            return self.log_probs, own  # nothing is left for the others
        rest = log_probs.scatter(-1, self.ids, float("-inf")).logsumexp(-1, keepdim=True)
        return torch.cat([self.log_probs, self.tail[..., None]], -1), torch.cat([own, rest], -1)


def top_k(logits: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """The k most likely words of each position.

    Args:
        logits: (batch, length, words).
        k: How many.
        temperature: What the logits are divided by.
    """
    log_probs = (logits / temperature).log_softmax(-1)
    best, ids = log_probs.topk(min(k, logits.shape[-1]), -1)
    rest = log_probs.scatter(-1, ids, float("-inf")).logsumexp(-1)
    return TopK(ids, best, rest.clamp(min=-80.0))


def both(batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """The log-probabilities of teacher and student, of all words or of the teacher's best.

    Args:
        batch: The forward pass.
        temperature: What logits are divided by; what is stored has been.
    """
    if batch.stored is not None:
        return batch.stored.grouped((batch.logits / temperature).log_softmax(-1))
    # Models of one family may have heads of different widths, padded beyond the words.
    words = min(batch.logits.shape[-1], batch.reference_logits.shape[-1])
    teacher, student = batch.reference_logits[..., :words], batch.logits[..., :words]
    return (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)


@option_group
class Logits(Loss):
    """Cross-entropy and T squared times KL(teacher || student) (Kothari et al. 2024).

    Args:
        weight: The paper's lambda, the weight of the divergence; the cross-entropy has the rest.
        temperature: T, what the logits of both are divided by.
        phase: The fraction of the steps with a teacher, at the beginning; the rest has the
            cross-entropy alone (SALT).
    """

    name: Literal["logits"] = "logits"
    weight: Fraction = 1.0
    temperature: PositiveFloat = 1.0
    phase: Fraction = 1.0
    noted = ("kl",)

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens; the divergence is noted as `kl`.

        Args:
            batch: The forward pass.
        """
        plain = super().total(batch)
        if batch.progress >= self.phase or not self.weight:
            batch.notes["kl"] = plain.detach() * 0
            return plain
        teacher, student = both(batch, self.temperature)
        divergence = batch.sum((teacher.exp() * (teacher - student)).sum(-1))
        batch.notes["kl"] = divergence.detach()
        return (1 - self.weight) * plain + self.weight * self.temperature**2 * divergence


@option_group
class Confidence(Loss):
    """Cross-entropy to a weak teacher and to the student's own best prediction (Burns et al. 2023).

    Args:
        weight: The highest c, the weight of the student's own prediction.
        warmup: The fraction of the steps over which c rises from 0.
    """

    name: Literal["confidence"] = "confidence"
    weight: Fraction = 0.5
    warmup: Fraction = 0.1
    temperature = 1.0

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass.
        """
        own = self.weight * (min(batch.progress / self.warmup, 1.0) if self.warmup else 1.0)
        teacher, student = both(batch, 1.0)
        weak = -(teacher.exp() * student).sum(-1)
        hardened = -batch.logits.log_softmax(-1).amax(-1)
        return batch.sum((1 - own) * weak + own * hardened)


DistillLoss = Annotated[Logits | Confidence, Field(discriminator="name")]
"""What `train.distill` can minimise."""
