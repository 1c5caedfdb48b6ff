"""Intuitive fine-tuning: the model also learns to go on from its own predictions.

Intuitive fine-tuning: Intuitive Fine-Tuning: Towards Simplifying Alignment into a Single Process
(Hua et al. 2024, arXiv:2405.11870; TsinghuaC3I/Intuitive-Fine-Tuning).

As in the authors' code: a second pass reads (1 - lambda) of the embedding of the true token and
lambda of that of the model's own best prediction of it (lambda 0.2); a token weighs the
discounted sum of the losses from it to the end of its row (gamma 0.95), with mean 1 and without
gradient. Ours: the names.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import Fraction, option_group
from stages._training.dataset import IGNORED
from stages._training.losses.base import Batch, Loss, Tensor, token_log_probs


@option_group
class Intuitive(Loss):
    """Cross-entropy on inputs that are mixed with the model's own predictions (Hua et al. 2024).

    Args:
        own_fraction: The paper's lambda, how much of an input is the model's own prediction.
        gamma: How much a loss counts for the token before it; 0 weighs every token by its own
            loss, and null all alike.
    """

    name: Literal["intuitive"] = "intuitive"
    own_fraction: Fraction = 0.2
    gamma: Fraction | None = 0.95

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass.
        """
        logits = self._mixed_logits(batch) if self.own_fraction else batch.logits
        losses = -token_log_probs(logits, batch.targets)
        if self.gamma is not None:
            losses = losses * discounted_weights(losses.detach(), batch, self.gamma)
        return batch.sum(losses)

    def _mixed_logits(self, batch: Batch) -> Tensor:
        """The logits of a pass over inputs that are partly the model's own predictions."""
        import torch

        with torch.no_grad():
            best = batch.logits.argmax(-1)
        embed = batch.model.get_input_embeddings()
        ids = batch.inputs["input_ids"]
        own = ids.clone()
        # Only what loss is on is the model's to predict: position t + 1 reads what t predicts.
        own[:, 1:] = torch.where(batch.targets != IGNORED, best, ids[:, 1:])
        mixed = torch.lerp(embed(ids), embed(own), self.own_fraction)
        others = {name: value for name, value in batch.inputs.items() if name != "input_ids"}
        return batch.forward(inputs_embeds=mixed, use_cache=False, **others).logits[:, :-1].float()


def discounted_weights(losses: Tensor, batch: Batch, gamma: float) -> Tensor:
    """The discounted sums of the losses from each token to the end of its row, with mean 1.

    Args:
        losses: Of each position, without gradient.
        batch: The forward pass.
        gamma: The discount.
    """
    import torch

    sums, running = torch.zeros_like(losses), torch.zeros_like(losses[:, 0])
    rows = batch.rows
    for at in reversed(range(losses.shape[1])):
        if at + 1 < losses.shape[1]:
            running = running * (rows[:, at] == rows[:, at + 1])
        scored = batch.scored[:, at]
        running = torch.where(scored, losses[:, at] + gamma * running, running)
        sums[:, at] = running
    sums = sums * batch.scored
    means = batch.by_row(sums) / batch.by_row(torch.ones_like(sums)).clamp(min=1)
    numbers = rows[batch.scored].unique()
    return sums / means[torch.searchsorted(numbers, rows).clamp(max=len(means) - 1)].clamp(
        min=1e-12
    )
