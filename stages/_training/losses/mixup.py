"""SFTMix: rows that a model is sure of and rows that it is not, mixed.

SFTMix: SFTMix: Elevating Language Model Instruction Tuning with Mixup Recipe (Xiao et al. 2024,
arXiv:2410.05248).

As in the paper: rows are halved at the median of a confidence (the paper's: the negative mean
perplexity over the checkpoints of a plain training), each pass has as many of either half, the
last hidden states and the targets of a pair are mixed by lambda ~ Beta(0.5, 0.5), and 0.2 of that
loss is added to the plain one. Ours: responses of a pair are cut to the shorter one; the number
of pairs is that of the smaller half in each pass.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import NonEmpty, NonNegativeFloat, PositiveFloat, option_group
from stages._training.dataset import passes
from stages._training.losses.base import Batch, Loss, Tensor


@option_group
class Mixup(Loss):
    """Cross-entropy plus mu times that of mixed hidden states (Xiao et al. 2024).

    Args:
        perplexities: The columns of the shards with the perplexity of each row by checkpoints of
            a plain training; the mean of them, negated, is the confidence.
        mu: The weight of the second term.
        alpha: Of the Beta distribution that lambda is drawn from.
    """

    name: Literal["mixup"] = "mixup"
    perplexities: Annotated[tuple[str, ...], NonEmpty]
    mu: NonNegativeFloat = 0.2
    alpha: PositiveFloat = 0.5
    needs_pairs = True

    def columns(self) -> tuple[str, ...]:
        """The columns of the perplexities."""
        return self.perplexities

    def pairs(self, rows: pl.DataFrame, count: int, seed: int) -> NDArray[np.int64]:
        """Positions of rows, a sure one and an unsure one in turn.

        Args:
            rows: The rows, with the perplexities.
            count: How many positions to give.
            seed: Of the order.

        Raises:
            UserError: There is no pair, or a row has no perplexity.
        """
        every = [pl.col(name).cast(pl.Float64) for name in self.perplexities]
        confidence = rows.select(-sum(every[1:], every[0]) / len(every)).to_series()
        unknown = rows["id"].filter(~confidence.is_finite().fill_null(value=False))
        if len(unknown) or len(rows) < 2:
            what = f"{len(unknown)} have none" if len(unknown) else f"there is {len(rows)}"
            raise UserError(
                f"mixup must have two rows or more, each with its perplexities: {what}",
                where=f"row {unknown[0]}" if len(unknown) else None,
                why=f"rows are halved at the median of {', '.join(self.perplexities)}",
                hint="score them before they are exported, or drop these rows",
            )
        ranks = confidence.rank("ordinal").to_numpy()
        sure = np.flatnonzero(ranks > len(rows) / 2)
        unsure = np.flatnonzero(ranks <= len(rows) / 2)
        half = -(-count // 2)
        first = sure[passes(len(sure), half, seed)]
        second = unsure[passes(len(unsure), half, seed + 1)]
        return np.column_stack([first, second]).reshape(-1)[:count].astype(np.int64)

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass: rows 0 and 1 are a pair, 2 and 3, and so on.
        """
        outputs = batch.forward(**batch.inputs, use_cache=False, output_hidden_states=True)
        batch.__dict__["logits"] = outputs.logits[:, :-1].float()
        plain = super().total(batch)
        mixed, tokens = self._mixed(batch, outputs.hidden_states[-1][:, :-1])
        return plain + self.mu * mixed / max(tokens, 1) * batch.scored.sum()

    def _mixed(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, int]:
        """The summed loss of the mixed pairs, and the number of their tokens."""
        import torch

        head, total, tokens = batch.model.get_output_embeddings(), hidden.sum() * 0, 0
        for one in range(0, len(hidden) - 1, 2):
            at = [torch.nonzero(batch.scored[row]).flatten() for row in (one, one + 1)]
            length = min(len(positions) for positions in at)
            first, second = (positions[:length] for positions in at)
            part = _beta(self.alpha, batch.generator)
            logits = head(part * hidden[one, first] + (1 - part) * hidden[one + 1, second]).float()
            for share, row, positions in ((part, one, first), (1 - part, one + 1, second)):
                targets = batch.targets[row, positions]
                total = total + share * torch.nn.functional.cross_entropy(
                    logits, targets, reduction="sum"
                )
            tokens += length
        return total, tokens


def _beta(alpha: float, generator: Tensor) -> float:
    """One draw of Beta(alpha, alpha)."""
    import torch

    number = int(torch.randint(2**31, (1,), generator=generator))
    return float(np.random.default_rng(number).beta(alpha, alpha))
