"""The divergence of the next-token distributions of two models, at every position of a text.

The Jensen-Shannon divergence in nats: 0 for equal distributions, ln 2 for ones without a common
token. Rows are packed as for likelihoods (`likelihood.py`), so that a row's floats depend on the
row alone; of two vocabularies of logits only one number a position is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.base import Scored
from pipeline.models.local.likelihood import Likelihoods, packed_states, packs

BLOCK: Final = 64
"""Positions that are multiplied with both vocabularies at a time."""


@torch.inference_mode()
def divergences(
    models: tuple[Any, Any],
    texts: Sequence[tuple[int, ...]],
    progress: Callable[[float, float | None], None] | None = None,
) -> list[NDArray[np.float32]]:
    """The divergences of two models' next-token distributions.

    Args:
        models: Two causal language models of transformers.
        texts: Token ids.
        progress: Called after each pack with the number of texts done and that of all.

    Returns:
        For each text one value per token: of the distributions after it.

    Raises:
        UserError: Their vocabularies differ.
    """
    sizes = [model.get_output_embeddings().weight.shape[0] for model in models]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"both models must have one vocabulary, got {sizes[0]:,} and {sizes[1]:,} tokens",
            where=str(models[1].name_or_path),
        )
    first, second = map(Likelihoods, models)
    results = [np.zeros(0, dtype=np.float32) for _ in texts]
    some = [i for i, text in enumerate(texts) if text]
    done = 0
    for size, members in _batches(first, second, [len(texts[i]) + 1 for i in some]):
        rows = [some[m] for m in members]
        # What is scored is the token after each position; the last one needs some token.
        scored = [Scored((*texts[i], 0), 1) for i in rows]
        packed = first.packs_rows and second.packs_rows
        blocks = _packed(first, second, scored, size) if packed else _alone(first, second, scored)
        values = np.concatenate([_jensen_shannon(*pair) for pair in blocks])
        ends = np.cumsum([len(texts[i]) for i in rows])[:-1]
        for i, part in zip(rows, np.split(values, ends), strict=True):
            results[i] = part
        done += len(rows)
        if progress is not None:
            progress(done, len(some))
    return results


def _batches(
    first: Likelihoods, second: Likelihoods, lengths: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    if lengths and first.packs_rows and second.packs_rows:
        return packs(lengths, first.model.device.type)
    return ((length, [i]) for i, length in enumerate(lengths))


def _packed(
    first: Likelihoods, second: Likelihoods, rows: Sequence[Scored], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of both in blocks of positions, each multiplied at one fixed size."""
    states = [packed_states(one.model, rows, size)[0] for one in (first, second)]
    for start in range(0, len(states[0]), BLOCK):
        yield tuple(  # type: ignore[misc]
            _logits(one.model, part[start : start + BLOCK])
            for one, part in zip((first, second), states, strict=True)
        )


def _logits(model: Any, states: Tensor) -> Tensor:
    block = states.new_zeros(BLOCK, states.shape[1])
    block[: len(states)] = states
    logits: Tensor = model.get_output_embeddings()(block)[: len(states)]
    return logits.float()


def _alone(
    first: Likelihoods, second: Likelihoods, rows: Sequence[Scored]
) -> Iterator[tuple[Tensor, Tensor]]:
    for row in rows:
        tokens = torch.tensor([row.tokens[:-1]])
        yield tuple(
            one.model(input_ids=tokens.to(one.model.device), use_cache=False).logits[0].float()
            for one in (first, second)
        )


def _jensen_shannon(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    p, q = (logits.log_softmax(-1) for logits in (first, second.to(first.device)))
    mean = torch.logaddexp(p, q) - math.log(2)
    halves = [torch.where(one > -torch.inf, one.exp() * (one - mean), 0).sum(-1) for one in (p, q)]
    return (0.5 * (halves[0] + halves[1])).clamp(min=0).cpu().numpy()
