"""MinorSFT: a row weighs the less, the further the model has left the base on it.

MinorSFT: Minor SFT loss for LLM fine-tune to increase performance and reduce model deviation
(Xie et al. 2024, arXiv:2408.10642).

As in the paper: -log sigmoid(beta (log p - log p of the base)) of a row's answer. Ours: that
`per_token` takes means in place of sums, since the paper's normalisation was not to be found.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import PositiveFloat, option_group
from stages._training.losses.base import Batch, RowLoss, Tensor, token_log_probs


@option_group
class Minor(RowLoss):
    """-log sigmoid(beta (log p - log p of the base)), of each row (Xie et al. 2024).

    Args:
        beta: How fast a row's gradient fades as the row is learned.
        per_token: Take the mean log-probability of a row's tokens, not their sum.
    """

    name: Literal["minor"] = "minor"
    beta: PositiveFloat = 0.1
    per_token: bool = False

    def total(self, batch: Batch) -> Tensor:
        """The sum over the rows.

        Args:
            batch: The forward pass.
        """
        from torch.nn.functional import logsigmoid

        return -(logsigmoid(self.beta * row_ratios(batch, per_token=self.per_token))).sum()


def row_ratios(batch: Batch, *, per_token: bool = False) -> Tensor:
    """log p - log p of the reference, of each row.

    Args:
        batch: The forward pass.
        per_token: Means over the tokens, not sums.
    """
    reference = token_log_probs(batch.reference_logits, batch.targets)
    sums = batch.by_row((batch.log_probs - reference) * batch.weights)
    if not per_token:
        return sums
    return sums / batch.by_row(batch.weights).clamp(min=1e-9)  # a row of weight 0 says nothing
