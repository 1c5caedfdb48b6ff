"""Log-likelihoods of given tokens, packed: no padding between rows, logits only where needed.

Rows are concatenated into packs of a fixed number of tokens. Everything that works on
single tokens (projections, norms, the feed-forward part: most of the work) runs over the
complete pack; attention runs row by row, each at its own length. The last layer's states
are multiplied with the vocabulary only at scored positions, in blocks of a fixed size,
and of each row of logits only one number is kept.

So a row's floats depend on the row alone: every matrix product has a shape that no other
row influences, and the position of a row in a pack makes no difference to it. Rows of up
to `SHORT` tokens go into packs of `PACK` tokens; longer ones have packs of their own
length, rounded up to `STEP`.

Not every architecture can be run like that. Before a model is packed, two short rows are
scored packed and alone; if that fails or differs, its rows are scored one at a time,
which is slower and assumes nothing. The plain definition, one forward pass for each row,
is `alone` in tests/pipeline/models/test_likelihood.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.models.base import Scored

SHORT: Final = 512
"""Tokens of the longest row that shares a pack with others."""
PACK: Final = {"cpu": 2048, "cuda": 16_384}
"""Tokens of a shared pack, by kind of device."""
STEP: Final = 128
"""The length of a longer row's pack is a multiple of this."""
BLOCK: Final = 256
"""Positions that are multiplied with the vocabulary at a time."""
ATTENTION: Final = "gristmill_packed"

Segments = list[tuple[int, int]]
"""Start and end of the rows of a pack."""


class Likelihoods:
    """Scores token sequences with a causal language model.

    Args:
        model: A causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def score(
        self,
        sequences: Sequence[Scored],
        progress: Callable[[float, float | None], None] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Score token sequences.

        Args:
            sequences: Token ids, each with the index of its first scored token.
            progress: Called after each pack with the number of scored sequences and that
                of all sequences.

        Returns:
            For each sequence, in order, natural-log probabilities: element k is
            log p(tokens[start + k] | tokens[: start + k]). Without any token to score the
            array is empty.

        Raises:
            ValueError: A start is below 1; the first token is conditioned on nothing.
        """
        if (smallest := min((s.start for s in sequences), default=1)) < 1:
            raise ValueError(f"start must be at least 1, got {smallest}")
        scores = [np.zeros(0, dtype=np.float32) for _ in sequences]
        scorable = [i for i, s in enumerate(sequences) if s.start < len(s.tokens)]
        done = 0
        for size, members in self._batches([len(sequences[i].tokens) for i in scorable]):
            rows = [scorable[m] for m in members]
            parts = self._score([sequences[i] for i in rows], size)
            for i, part in zip(rows, parts, strict=True):
                scores[i] = part
            done += len(rows)
            if progress is not None:
                progress(done, len(scorable))
        return scores

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        if lengths and self.packs_rows:
            return packs(lengths, self.model.device.type)
        return ((length, [i]) for i, length in enumerate(lengths))

    def _score(self, rows: Sequence[Scored], size: int) -> list[NDArray[np.float32]]:
        return _packed(self.model, rows, size) if self.packs_rows else [_alone(self.model, rows[0])]

    @cached_property
    def packs_rows(self) -> bool:
        """Whether packed rows get the likelihoods of this model, by a trial of two rows."""
        vocabulary = self.model.config.get_text_config().vocab_size
        trial = [
            Scored(tuple((7 * i + length) % vocabulary for i in range(length)), 1)
            for length in (23, 40)
        ]
        return works_like(self.model, lambda: _packed(self.model, trial, STEP), trial)


def works_like(
    model: Any, score: Callable[[], list[NDArray[np.float32]]], rows: Sequence[Scored]
) -> bool:
    """Whether another way to score rows gives what each row alone gives; if not, it is logged.

    Args:
        model: A causal language model of transformers.
        score: The other way.
        rows: What it scores.
    """
    try:
        scores = score()
    except (AttributeError, RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = str(error)
    else:
        alone = [_alone(model, row) for row in rows]
        tolerance = 1e-3 if model.dtype == torch.float32 else 0.3
        difference = max(float(abs(s - a).max()) for s, a in zip(scores, alone, strict=True))
        if difference <= tolerance:
            return True
        reason = f"likelihoods differ by {difference:.2g}"
    logging.getLogger(__name__).warning("rows are scored one at a time: %s", reason)
    return False


def packs(lengths: Sequence[int], device: str) -> Iterator[tuple[int, list[int]]]:
    """Assign rows to packs: longest row first, each into the first pack that it fits into.

    Args:
        lengths: Tokens of the rows.
        device: Kind of device, such as "cpu".

    Yields:
        (tokens of the pack, indices of its rows).

    Example:
        >>> list(packs([100, 600, 2000, 50], "cpu"))
        [(2048, [2]), (640, [1]), (2048, [0, 3])]
    """
    size = PACK.get(device, 2048)
    remaining: list[int] = []
    members: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > SHORT:
            yield -(-lengths[i] // STEP) * STEP, [i]
            continue
        pack = next((p for p, n in enumerate(remaining) if n >= lengths[i]), len(remaining))
        if pack == len(remaining):
            remaining.append(size)
            members.append([])
        remaining[pack] -= lengths[i]
        members[pack].append(i)
    yield from ((size, rows) for rows in members)


@torch.inference_mode()
def packed_states(model: Any, rows: Sequence[Scored], size: int) -> tuple[Tensor, Tensor]:
    """The last layer's states from which scored tokens are predicted, and these tokens.

    Args:
        model: A causal language model of transformers that can be packed.
        rows: The rows of one pack.
        size: Its tokens.

    Returns:
        Shapes (scored tokens, width) and (scored tokens,), row by row.
    """
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
    with attention_of(model, ATTENTION):
        states = model.base_model(
            input_ids=tokens[None].to(model.device),
            position_ids=positions[None].to(model.device),
            use_cache=False,
            segments=segments,
        ).last_hidden_state[0]
    scored_at = torch.tensor(scored)
    return states[scored_at - 1], tokens[scored_at].to(model.device)


@torch.inference_mode()
def _packed(model: Any, rows: Sequence[Scored], size: int) -> list[NDArray[np.float32]]:
    scores = token_scores(model, *packed_states(model, rows, size))
    return np.split(scores, np.cumsum([len(r.tokens) - r.start for r in rows])[:-1])


def token_scores(model: Any, states: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """log p(target | state).

    Args:
        model: A causal language model of transformers.
        states: Last hidden states, shape (n, width).
        targets: Token ids, shape (n,).
    """
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
def attention_of(model: Any, name: str) -> Iterator[None]:
    """Run a model with another attention.

    Args:
        model: A causal language model of transformers.
        name: Under which the attention is registered.
    """
    original = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(original)


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
    """Causal attention within each segment; zeros after the last one.

    Args:
        module: The attention layer.
        query: Of shape (1, heads, tokens, width), as are `key` and `value`.
        key: See `query`.
        value: See `query`.
        _mask: Ignored: each segment is causal.
        segments: Start and end of the rows.
        sliding_window: How many tokens a token attends to; None for all.
        **kwargs: Passed on to scaled dot-product attention.

    Returns:
        A tensor of shape (1, tokens, heads, width), and no weights.
    """
    parts = []
    for start, end in segments:
        row = slice(start, end)
        mask = _window(end - start, sliding_window, query.device)
        part, _ = sdpa_attention_forward(
            module, query[:, :, row], key[:, :, row], value[:, :, row], mask, **kwargs
        )
        parts.append(part)
    padding = query.shape[2] - segments[-1][1]
    parts.append(parts[0].new_zeros(1, padding, *parts[0].shape[2:]))
    return torch.cat(parts, 1), None


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """The mask of a sliding window that is shorter than the row; None: causality is enough."""
    if sliding_window is None or length <= sliding_window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return ((distance >= 0) & (distance < sliding_window))[None, None]


AttentionInterface.register(ATTENTION, _attend)
