"""Losses of preferences that TRL has not, over rows: each side of a pair is one.

UFT: UFT: Unifying Fine-Tuning of SFT and RLHF/DPO/UNA through a Generalized Implicit Reward
Function (Wang et al. 2024, arXiv:2410.21438).

As in the paper: one loss for rows to imitate and rows with feedback: the implicit reward beta (log
p - log p of the reference) is to be the feedback, and rows to imitate have the highest. Ours: the
squared difference of sigmoid(reward) from 1 (chosen, or to imitate) or 0 (rejected).

LoBaSS: DavIR: Data Selection via Implicit Reward for Large Language Models (Zhou et al. 2023,
arXiv:2310.13008).

As in the paper: DavIR-DPO divides the difference from the reference, of each side, by the loss of
the reference, in place of a length. Ours: beta's default, as the paper's was not to be found.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import PositiveFloat, option_group
from stages._training.losses.base import Batch, RowLoss, Tensor, token_log_probs
from stages._training.losses.minor import row_ratios


@option_group
class UFT(RowLoss):
    """One loss for answers to imitate and answers with feedback (Wang et al. 2024).

    Each side counts by itself: a pair with a chosen side alone is an answer to imitate.

    Args:
        beta: How much it costs to leave the reference.
    """

    name: Literal["uft"] = "uft"
    beta: PositiveFloat = 0.1

    def total(self, batch: Batch) -> Tensor:
        """The sum over the rows; `row_target` is the feedback of each.

        Args:
            batch: The forward pass.
        """
        rewards = (self.beta * row_ratios(batch)).sigmoid()
        targets = batch.values["row_target"][batch.rows[batch.scored].unique()]
        return (rewards - targets.to(rewards.dtype)).square().sum()


@option_group
class DavIR(RowLoss):
    """DPO of differences that are divided by the reference's loss (DavIR-DPO, Zhou et al. 2023).

    Args:
        beta: How steep the loss is.
    """

    name: Literal["davir"] = "davir"
    beta: PositiveFloat = 1.0
    noted = ("margin",)

    def total(self, batch: Batch) -> Tensor:
        """Twice the sum over the pairs, of which a row is half; rows 0 and 1 are a pair, and so on.

        Args:
            batch: The forward pass.
        """
        from torch.nn.functional import logsigmoid

        reference = token_log_probs(batch.reference_logits, batch.targets)
        ratios = row_ratios(batch) / -batch.by_row(reference)
        margins = self.beta * (ratios[0::2] - ratios[1::2])
        batch.notes["margin"] = 2 * margins.detach().sum()
        return -2 * logsigmoid(margins).sum()
