"""Texts from what one model says more than another: one key-value cache for each model.

Both models read the same tokens. Of the tokens that the tuned one finds plausible, each is drawn
with a probability in proportion to how much more likely the tuned model makes it than the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schemas.records import digest

BATCH: Final = 16
"""Texts that are written at once."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Contrast:
    """How a token is drawn.

    Attributes:
        alpha: The plausible tokens have at least this times the probability of the most probable
            one under the tuned model.
        temperature: Divides the scores.
    """

    alpha: float
    temperature: float

    def scores(self, tuned: Any, base: Any) -> Any:
        """log p_tuned - log p_base, and minus infinity for what is not plausible.

        Args:
            tuned: Logits, shape (texts, vocabulary).
            base: The same of the base model.

        Example:
            >>> import torch
            >>> logits = torch.tensor([[0.0, 0.0, -9.0]])
            >>> Contrast(0.1, 1.0).scores(logits, logits).tolist()
            [[0.0, 0.0, -inf]]
        """
        tuned, base = (logits.double().log_softmax(-1) for logits in (tuned, base))
        least = tuned.amax(-1, keepdim=True) + np.log(self.alpha)
        return (tuned - base).masked_fill(tuned < least, -np.inf)


@dataclass(frozen=True)
class Writers:
    """The two models, and what ends a text.

    Attributes:
        tuned: The tuned model.
        base: The base model.
        ends: Ids of tokens that end a text.
        context: The tokens that both can read.
    """

    tuned: Any
    base: Any
    ends: frozenset[int]
    context: int


def write(
    writers: Writers,
    prompts: Sequence[Tokens],
    names: Sequence[str],
    contrast: Contrast | None,
    max_tokens: int,
    done: Callable[[int, int], None],
    temperature: float = 1.0,
) -> list[Tokens]:
    """Continue prompts.

    Args:
        writers: The models.
        prompts: Token ids, at least one each.
        names: What each text's random numbers are drawn from.
        contrast: How tokens are drawn; None for the tuned model's own probabilities.
        max_tokens: The longest continuation.
        done: Called after each batch with the number of texts so far and its tokens.
        temperature: Of the tuned model's own probabilities.

    Returns:
        The tokens of each continuation, with the one that ends it, if one does.
    """
    texts: list[Tokens] = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        batch = _Batch(writers, prompts[part], names[part], max_tokens)
        written = batch.run(contrast, temperature)
        texts += written
        done(len(texts), sum(map(len, written)))
    return texts


class _Batch:
    """Some texts that are written together, padded on the left."""

    def __init__(
        self, writers: Writers, prompts: Sequence[Tokens], names: Sequence[str], max_tokens: int
    ) -> None:
        import torch

        from pipeline.models.local.sampling import uniforms

        self.writers, self.count = writers, len(prompts)
        self.device = writers.tuned.device
        width = max(map(len, prompts))
        self.steps = max(1, min(max_tokens, writers.context - width))
        self.tokens = torch.zeros(self.count, width, dtype=torch.long)
        self.mask = torch.zeros(self.count, width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            self.tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            self.mask[i, width - len(prompt) :] = 1
        numbers = [uniforms(digest(name), self.steps) for name in names]
        self.uniforms = torch.from_numpy(np.stack(numbers))

    def run(self, contrast: Contrast | None, temperature: float) -> list[Tokens]:
        """The continuations."""
        import torch

        with torch.inference_mode():
            return self._run(contrast, temperature)

    def _run(self, contrast: Contrast | None, temperature: float) -> list[Tokens]:
        import torch

        models = [self.writers.tuned, *([self.writers.base] if contrast else [])]
        caches: list[Any] = [None] * len(models)
        inputs, mask = self.tokens.to(self.device), self.mask.to(self.device)
        written: list[list[int]] = [[] for _ in range(self.count)]
        open_texts = set(range(self.count))
        for step in range(self.steps):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
            logits = []
            for i, model in enumerate(models):
                result = model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=caches[i],
                    use_cache=True,
                    logits_to_keep=1,
                )
                caches[i] = result.past_key_values
                logits.append(result.logits[:, -1].float())
            if contrast:
                scores = contrast.scores(*logits) / contrast.temperature
            else:
                scores = logits[0].double() / temperature
            chosen = _drawn(scores, self.uniforms[:, step].to(self.device))
            for i in sorted(open_texts):
                written[i].append(int(chosen[i]))
                if written[i][-1] in self.writers.ends:
                    open_texts.remove(i)
            if not open_texts:
                break
            inputs = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(self.count, 1)], 1)
        return [tuple(tokens) for tokens in written]


def _drawn(scores: Any, uniform: Any) -> Any:
    """For each text the token at which the cumulative probability exceeds its number."""
    import torch

    mass = torch.softmax(scores, -1).cumsum(-1)
    index = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)
    return index.clamp_(max=mass.shape[1] - 1).squeeze(1)
