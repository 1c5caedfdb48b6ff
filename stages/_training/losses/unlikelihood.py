"""Unlikelihood: what an answer has said already is made less likely.

Unlikelihood: Neural Text Generation with Unlikelihood Training (Welleck et al. 2019,
arXiv:1908.04319; facebookresearch/unlikelihood_training).

As in the paper: cross-entropy plus alpha times -log(1 - p(c)) over the negative candidates c of
each position, the tokens of the answer before it except its own target. Ours: candidates are
taken from the tokens of the row that loss is on.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import NonNegativeFloat, option_group
from stages._training.losses.base import Batch, Loss, Tensor


@option_group
class Unlikelihood(Loss):
    """Cross-entropy plus alpha times -log(1 - p) of each earlier token (Welleck et al. 2019).

    Args:
        alpha: The weight of the second term.
    """

    name: Literal["unlikelihood"] = "unlikelihood"
    alpha: NonNegativeFloat = 1.0

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass.
        """
        import torch

        likelihood = super().total(batch)
        if not self.alpha:
            return likelihood
        probabilities = batch.logits.softmax(-1)
        losses = torch.zeros_like(batch.weights)
        for row in batch.rows[batch.scored].unique():
            block, at = torch.nonzero((batch.rows == row) & batch.scored, as_tuple=True)
            targets = batch.targets[block, at]
            earlier = _first_earlier(targets)
            # (positions, positions): the probability of each earlier token at each position.
            spread = probabilities[block, at][:, targets]
            terms = -torch.log1p(-spread.clamp(max=1 - 1e-5)) * earlier
            losses = losses.index_put((block, at), terms.sum(1))
        return likelihood + self.alpha * batch.sum(losses)


def _first_earlier(targets: Tensor) -> Tensor:
    """Whether token j is a candidate at i: earlier, another than i's, and the first of its kind."""
    import torch

    equal = targets[:, None] == targets[None, :]
    before = torch.ones_like(equal).tril(-1)
    is_first = ~(equal & before).any(1)
    return before & ~equal & is_first[None, :]
