"""Likelihoods behind a prefix that many sequences share, which is computed once.

The prefixes of a pack are read first, and what the attention of each layer makes of them, the
keys and values, is kept. The sequences behind them are packed like any other rows; their
attention sees the kept keys and values of their own prefix in front of their own. So nothing is
padded, and `n` sequences of `a` tokens behind a prefix of `c` cost `c + n * a` tokens in place of
`n * (c + a)`.

As in `likelihood`, every matrix product has a shape that no other row influences, and the
position of a row in a pack makes no difference to it. The plain definition is the sequence
behind its prefix as one row, and that is what is scored for architectures that cannot be run
like this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.models.base import Scored
from pipeline.models.local.likelihood import (
    STEP,
    Likelihoods,
    attention_of,
    packs,
    token_scores,
    works_like,
)

ATTENTION: Final = "gristmill_prefixed"

Progress = Callable[[float, float | None], None]


@dataclass
class Memory:
    """What the layers computed of the prefixes of a pack.

    Attributes:
        layers: For each layer the keys and the values of each prefix, of shape (1, heads, tokens,
            width).
        masks: Which tokens may attend to which, by the lengths and the window.
    """

    layers: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """A row of a pack.

    Attributes:
        start: Its first token in the pack.
        end: The token behind its last one.
        prefix: Which of the prefixes stands before it; None for a prefix itself.
    """

    start: int
    end: int
    prefix: int | None = None


class PrefixedLikelihoods:
    """Scores token sequences behind prefixes with a causal language model.

    Args:
        likelihoods: Scores sequences without a prefix, of the same model.
    """

    def __init__(self, likelihoods: Likelihoods) -> None:
        self.likelihoods = likelihoods
        self.model = likelihoods.model

    def score(
        self, sequences: Sequence[Scored], progress: Progress | None = None
    ) -> list[NDArray[np.float32]]:
        """Score token sequences, with a prefix or without.

        Args:
            sequences: Token ids, each with the index of its first scored token and what stands
                before it.
            progress: Called after each pack with the number of scored sequences and that of all.

        Returns:
            For each sequence, in order, natural-log probabilities as `Likelihoods.score` gives
            them, each conditioned on the prefix as well.

        Raises:
            ValueError: A start is below 1.
        """
        if not any(s.prefix for s in sequences):
            return self.likelihoods.score(sequences, progress)
        if not self._shares:
            return self.likelihoods.score([s.joined() for s in sequences], progress)
        scores = self.likelihoods.score([s if not s.prefix else _EMPTY for s in sequences])
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            if sequence.start < 1:
                raise ValueError(f"start must be at least 1, got {sequence.start}")
            if sequence.prefix and sequence.start < len(sequence.tokens):
                by_prefix.setdefault(sequence.prefix, []).append(i)
        prefixes, done = list(by_prefix), 0
        for size, members in packs([len(p) for p in prefixes], self.model.device.type):
            rows = [(i, at) for at, m in enumerate(members) for i in by_prefix[prefixes[m]]]
            shared = self._memory([prefixes[m] for m in members], size)
            for i, part in self._behind(shared, rows, sequences):
                scores[i] = part
            done += len(rows)
            if progress is not None:
                progress(done, len(sequences))
        return scores

    def _memory(self, prefixes: Sequence[tuple[int, ...]], size: int) -> Memory:
        """The keys and values of the prefixes of one pack."""
        memory = Memory()
        _states(self.model, [(tokens, None, 0) for tokens in prefixes], size, memory)
        return memory

    def _behind(
        self, memory: Memory, rows: list[tuple[int, int]], sequences: Sequence[Scored]
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """The scores of the rows behind these prefixes, each with the row's index.

        Args:
            memory: What is kept of the prefixes.
            rows: The index of each sequence and that of its prefix.
            sequences: All sequences.
        """
        scored = []
        lengths = [len(sequences[i].tokens) for i, _ in rows]
        for size, members in packs(lengths, self.model.device.type):
            pieces = [(sequences[rows[m][0]], rows[m][1]) for m in members]
            parts = _scored(self.model, pieces, size, memory)
            scored += [(rows[m][0], part) for m, part in zip(members, parts, strict=True)]
        return scored

    @cached_property
    def _shares(self) -> bool:
        """Whether rows behind a kept prefix get the likelihoods of this model, by a trial."""
        if not self.likelihoods.packs_rows:
            return False
        vocabulary = self.model.config.get_text_config().vocab_size
        tokens = [(7 * i + 5) % vocabulary for i in range(45)]
        trial = [Scored(tuple(tokens[19:end]), 1, tuple(tokens[:19])) for end in (30, 45)]

        def behind() -> list[NDArray[np.float32]]:
            memory = self._memory([trial[0].prefix], STEP)
            return _scored(self.model, [(row, 0) for row in trial], STEP, memory)

        return works_like(self.model, behind, [row.joined() for row in trial])


_EMPTY: Final = Scored((0,), 1)
"""Stands for a sequence that is scored elsewhere: nothing of it is."""


@torch.inference_mode()
def _scored(
    model: Any, pieces: Sequence[tuple[Scored, int]], size: int, memory: Memory
) -> list[NDArray[np.float32]]:
    """The scores of the sequences of a pack, each behind the prefix of its number."""
    states = _states(
        model, [(row.tokens, prefix, len(row.prefix)) for row, prefix in pieces], size, memory
    )
    tokens = torch.tensor([token for row, _ in pieces for token in row.tokens])
    scored: list[int] = []
    end = 0
    for row, _ in pieces:
        start, end = end, end + len(row.tokens)
        scored.extend(range(start + row.start, end))
    scored_at = torch.tensor(scored)
    scores = token_scores(model, states[scored_at - 1], tokens[scored_at].to(model.device))
    return np.split(scores, np.cumsum([len(row.tokens) - row.start for row, _ in pieces])[:-1])


@torch.inference_mode()
def _states(
    model: Any,
    rows: Sequence[tuple[tuple[int, ...], int | None, int]],
    size: int,
    memory: Memory,
) -> Tensor:
    """The last hidden states of a pack, shape (size, width).

    Args:
        model: A causal language model of transformers.
        rows: The tokens of each row, which prefix stands before it, and that one's length.
        size: Tokens of the pack.
        memory: Filled where no prefix stands before the rows, read where one does.
    """
    tokens = torch.zeros(size, dtype=torch.long)
    positions = torch.zeros(size, dtype=torch.long)
    segments, end = [], 0
    for ids, prefix, offset in rows:
        start, end = end, end + len(ids)
        tokens[start:end] = torch.tensor(ids)
        positions[start:end] = torch.arange(offset, offset + end - start)
        segments.append(Segment(start, end, prefix))
    with attention_of(model, ATTENTION):
        states: Tensor = model.base_model(
            input_ids=tokens[None].to(model.device),
            position_ids=positions[None].to(model.device),
            use_cache=False,
            segments=segments,
            memory=memory,
        ).last_hidden_state[0]
    return states


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    segments: list[Segment],
    memory: Memory,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment and to its prefix; zeros after the last segment."""
    kept = memory.layers.setdefault(module.layer_idx, [])
    attend = partial(sdpa_attention_forward, module, **kwargs)
    parts = []
    for segment in segments:
        row = slice(segment.start, segment.end)
        keys, values = key[:, :, row], value[:, :, row]
        if segment.prefix is None:
            kept.append((keys, values))
        else:
            before = kept[segment.prefix]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        mask = _mask_of(memory, segment, keys.shape[2], sliding_window, query.device)
        parts.append(attend(query[:, :, row], keys, values, mask)[0])
    padding = query.shape[2] - segments[-1].end
    parts.append(parts[0].new_zeros(1, padding, *parts[0].shape[2:]))
    return torch.cat(parts, 1), None


def _mask_of(
    memory: Memory, segment: Segment, length: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Which of `length` tokens those of the segment attend to; None: causality is enough."""
    rows = segment.end - segment.start
    window = window if window is not None and length > window else None
    if segment.prefix is None and window is None:
        return None
    shape = rows, length, window
    if shape not in memory.masks:
        distance = torch.arange(length - rows, length, device=device)[:, None]
        distance = distance - torch.arange(length, device=device)[None, :]
        near = distance < (length if window is None else window)
        memory.masks[shape] = ((distance >= 0) & near)[None, None]
    return memory.masks[shape]


AttentionInterface.register(ATTENTION, _attend)
