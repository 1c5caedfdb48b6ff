"""Log-likelihoods of given tokens, packed: no padding between rows, logits only where asked for.

Rows are laid end to end into packs of a fixed number of tokens. All that works on
single tokens (projections, norms, the feed-forward part: most of the work) runs
over the whole pack; attention runs row by row, each at its own length. The last
layer's states are multiplied with the vocabulary only at the scored places, in
blocks of a fixed size, and of each row of logits only one number is kept.

So a row's floats depend on the row alone: every matrix product has a shape that
no other row influences, and where in a pack a row lies makes no difference to it.
Up to `SHORT` tokens a row goes into packs of `PACK` tokens; longer ones have packs
of their own length, rounded up to `STEP`.

Not every architecture can be taken apart like that. Before a model is trusted to
it, two short rows are scored packed and alone; if that fails or differs, its rows
are scored one at a time, whole, which is slower and needs no trust.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.context import Report
from pipeline.models.base import Scored

SHORT: Final = 512
PACK: Final = {"cpu": 2048, "cuda": 16_384}
STEP: Final = 128
BLOCK: Final = 256
ATTENTION: Final = "gristmill_packed"

Segments = list[tuple[int, int]]
"""Where the rows of a pack begin and end."""


class Likelihoods:
    """Scores token sequences with a causal language model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def score(
        self, sequences: Sequence[Scored], progress: Report | None = None
    ) -> list[NDArray[np.float32]]:
        """Natural-log probabilities of tokens start..end of each sequence, in order.

        Element k of a result is log p(tokens[start + k] | tokens[: start + k]). A
        sequence with nothing to score gives an empty array. Raises ValueError for
        start < 1: the first token has nothing to be conditioned on.

        progress: told after each pack how many of the sequences are scored.
        """
        if any(s.start < 1 for s in sequences):
            raise ValueError("the first token of a sequence has no likelihood: start must be >= 1")
        scores = [np.zeros(0, dtype=np.float32) for _ in sequences]
        asked = [i for i, s in enumerate(sequences) if s.start < len(s.tokens)]
        done = 0
        for size, members in self._batches([len(sequences[i].tokens) for i in asked]):
            rows = [asked[m] for m in members]
            parts = self._score([sequences[i] for i in rows], size)
            for i, part in zip(rows, parts, strict=True):
                scores[i] = part
            done += len(rows)
            if progress is not None:
                progress(done, len(asked))
        return scores

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        if lengths and self._packs:
            return packs(lengths, self.model.device.type)
        return ((length, [i]) for i, length in enumerate(lengths))

    def _score(self, rows: Sequence[Scored], size: int) -> list[NDArray[np.float32]]:
        return _packed(self.model, rows, size) if self._packs else [_alone(self.model, rows[0])]

    @cached_property
    def _packs(self) -> bool:
        """Whether packing gives this model's likelihoods."""
        vocabulary = self.model.config.get_text_config().vocab_size
        trial = [
            Scored(tuple((7 * i + length) % vocabulary for i in range(length)), 1)
            for length in (23, 40)
        ]
        try:
            packed = _packed(self.model, trial, STEP)
        except (AttributeError, RuntimeError, TypeError, ValueError, KeyError) as error:
            reason = str(error)
        else:
            alone = [_alone(self.model, row) for row in trial]
            tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.3
            apart = max(float(abs(p - a).max()) for p, a in zip(packed, alone, strict=True))
            if apart <= tolerance:
                return True
            reason = f"likelihoods differ by {apart:.2g}"
        logging.getLogger(__name__).warning("rows are scored one at a time: %s", reason)
        return False


def packs(lengths: Sequence[int], device: str) -> Iterator[tuple[int, list[int]]]:
    """Packs as (tokens, rows): longest row first, each into the first pack with room."""
    size = PACK.get(device, 2048)
    room: list[int] = []
    members: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > SHORT:
            yield -(-lengths[i] // STEP) * STEP, [i]
            continue
        place = next((p for p, left in enumerate(room) if left >= lengths[i]), len(room))
        if place == len(room):
            room.append(size)
            members.append([])
        room[place] -= lengths[i]
        members[place].append(i)
    yield from ((size, rows) for rows in members)


@torch.inference_mode()
def _packed(model: Any, rows: Sequence[Scored], size: int) -> list[NDArray[np.float32]]:
    tokens = torch.zeros(size, dtype=torch.long)
    positions = torch.zeros(size, dtype=torch.long)
    segments: Segments = []
    scored: list[int] = []
    end = 0
    for row in rows:
        start, end = end, end + len(row.tokens)
        tokens[start:end] = torch.tensor(row.tokens)
        positions[start:end] = torch.arange(end - start)
        segments.append((start, end))
        scored.extend(range(start + row.start, end))
    with _attention(model):
        states = model.base_model(
            input_ids=tokens[None].to(model.device),
            position_ids=positions[None].to(model.device),
            use_cache=False,
            segments=segments,
        ).last_hidden_state[0]
    place = torch.tensor(scored)
    scores = _token_scores(model, states[place - 1], tokens[place].to(model.device))
    return np.split(scores, np.cumsum([len(r.tokens) - r.start for r in rows])[:-1])


def _token_scores(model: Any, states: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """log p(target | state) for states of shape (n, width) and targets of shape (n,)."""
    head = model.get_output_embeddings()
    scores = []
    for start in range(0, len(states), BLOCK):
        block = states.new_zeros(BLOCK, states.shape[1])
        part = states[start : start + BLOCK]
        block[: len(part)] = part
        logits = head(block)[: len(part)].float()
        scores.append(_gathered(logits, targets[start : start + BLOCK]))
    return np.concatenate(scores)


@torch.inference_mode()
def _alone(model: Any, row: Scored) -> NDArray[np.float32]:
    tokens = torch.tensor(row.tokens, device=model.device)
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, row.start - 1 : -1]
    return _gathered(logits.float(), tokens[row.start :])


def _gathered(logits: Tensor, targets: Tensor) -> NDArray[np.float32]:
    scores = torch.log_softmax(logits, -1).gather(1, targets[:, None]).squeeze(1)
    return scores.cpu().numpy()


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    usual = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    segments: Segments,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment; what lies behind the last one is left zero.

    query, key, value: (1, heads, tokens, width). Returns (1, tokens, heads, width).
    """
    parts = []
    for start, end in segments:
        cut = slice(start, end)
        mask = _window(end - start, sliding_window, query.device)
        part, _ = sdpa_attention_forward(
            module, query[:, :, cut], key[:, :, cut], value[:, :, cut], mask, **kwargs
        )
        parts.append(part)
    behind = query.shape[2] - segments[-1][1]
    parts.append(parts[0].new_zeros(1, behind, *parts[0].shape[2:]))
    return torch.cat(parts, 1), None


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """The mask of a sliding window that is shorter than the row; else plain causality will do."""
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    return ((back >= 0) & (back < sliding_window))[None, None]


AttentionInterface.register(ATTENTION, _attend)
