"""Noise on what a model reads while it is trained; what it is to say stays.

NEFTune: NEFTune: Noisy Embeddings Improve Instruction Finetuning (Jain et al. 2023,
arXiv:2310.05914).

As in the paper: uniform noise of alpha / sqrt(length x width) on the embeddings, by the library's
own option. Ours: nothing; the library takes the length of the longest row of a pass, which is
the paper's where a pass has one row.

Masked Thought: Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical
Reasoning Learning of Language Models (Chen et al. 2024, arXiv:2403.02178;
ChangyuChen347/MaskedThought).

As in the paper: tokens of the answer are masked on the input side, each by itself, and the labels
stay. As in the authors' code: the rate rises linearly over the first two thirds of the steps; 0.4
for GSM8K and 0.2 for MATH. Ours: a tokenizer without a mask token masks with its padding.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.types import Fraction, PositiveFloat, option_group
from stages._training.dataset import IGNORED


@option_group
class NEFTune:
    """Uniform noise on the embeddings (Jain et al. 2023, arXiv:2310.05914). Needs `packing: false`.

    Args:
        alpha: The size of the noise, the library's `neftune_noise_alpha`.
    """

    name: Literal["neftune"] = "neftune"
    alpha: PositiveFloat = 5.0


@option_group
class Masked:
    """Masks tokens of the answers on the input side (Masked Thought, Chen et al. 2024).

    Args:
        rate: The fraction of them that is masked once the ramp has ended.
        ramp: The fraction of the steps over which the rate rises from 0; 0 for the full rate at
            once.
    """

    name: Literal["masked"] = "masked"
    rate: Fraction = 0.4
    ramp: Fraction = 2 / 3

    def rate_at(self, progress: float) -> float:
        """The rate where a fraction of the steps is done.

        Args:
            progress: The fraction.

        Example:
            >>> [round(Masked(rate=0.4).rate_at(done), 3) for done in (0, 1 / 3, 2 / 3, 1)]
            [0.0, 0.2, 0.4, 0.4]
        """
        return self.rate * (min(progress / self.ramp, 1.0) if self.ramp else 1.0)

    def masked(
        self, ids: Any, labels: Any, mask_token: int, *, progress: float, generator: Any
    ) -> Any:
        """The tokens with some of the answers' masked.

        Args:
            ids: What the model reads.
            labels: The same tokens where loss is on them.
            mask_token: What stands in the place of a masked one.
            progress: The fraction of the steps that is done.
            generator: Where the positions are drawn from.
        """
        import torch

        drawn = torch.rand(ids.shape, generator=generator).to(ids.device)
        hidden = (labels != IGNORED) & (drawn < self.rate_at(progress))
        return ids.masked_fill(hidden, mask_token)


Noise = Annotated[NEFTune | Masked, Field(discriminator="name")]
