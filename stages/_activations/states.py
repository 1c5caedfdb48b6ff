"""Hidden states of conversations: one vector for each token, of one layer of a causal model.

A row's floats depend on that row alone. Rows are padded on the right to a width that is a
function of their own length, the number of rows of a batch is fixed for each width, and copies
of the last row fill a batch that is not full. A causal model sees nothing of what stands behind
a token, so that padding changes no state; it is cut off before anything is pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

BATCH_TOKENS: Final = {"cpu": 256, "cuda": 16_384}
"""Tokens of a batch, padding included, by kind of device."""

MIN_WIDTH: Final = 32
"""Tokens of the narrowest batch."""


class Batch(NamedTuple):
    """Rows of one width.

    Attributes:
        width: Tokens that each row is padded to.
        size: Rows that the batch is filled to.
        members: The rows' positions.
    """

    width: int
    size: int
    members: list[int]


def width_of(tokens: int) -> int:
    """The width that a row is padded to: eight widths for each doubling of the length.

    Example:
        >>> [width_of(tokens) for tokens in (1, 33, 60, 100, 2000)]
        [32, 40, 64, 104, 2048]
    """
    step = max(8, 1 << max(0, tokens.bit_length() - 4))
    return max(MIN_WIDTH, -(-tokens // step) * step)


def batches(
    lengths: Sequence[int], max_tokens: int, max_rows: int | None = None
) -> Iterator[Batch]:
    """Rows in batches, the narrowest first.

    Args:
        lengths: Tokens of each row; rows without tokens are in no batch.
        max_tokens: Tokens of a batch, padding included; a longer row has a batch of its own.
        max_rows: Rows of a batch, at most; None for no limit.

    Example:
        >>> [batch.members for batch in batches([40, 0, 600, 39], 1024)]
        [[0, 3], [2]]
    """
    by_width: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        if length:
            by_width.setdefault(width_of(length), []).append(i)
    for width, rows in sorted(by_width.items()):
        size = max(1, min(max_tokens // width, max_rows or max_tokens))
        for start in range(0, len(rows), size):
            yield Batch(width, size, rows[start : start + size])


def padded(sequences: Sequence[Sequence[int]], batch: Batch, fill: int) -> NDArray[np.int64]:
    """The sequences of a batch, padded on the right: shape (size, width).

    Args:
        sequences: All sequences.
        batch: Which of them.
        fill: What is put behind their ends.

    Example:
        >>> padded([[1, 2], [3]], Batch(3, 2, [0, 1]), -1).tolist()
        [[1, 2, -1], [3, -1, -1]]
    """
    matrix = np.full((batch.size, batch.width), fill, np.int64)
    for row in range(batch.size):
        sequence = sequences[batch.members[min(row, len(batch.members) - 1)]]
        matrix[row, : len(sequence)] = sequence
    return matrix


def hidden_states(
    weights: Any, sequences: Sequence[Sequence[int]], layer: int
) -> Iterator[tuple[int, Matrix]]:
    """The states of every token of each sequence.

    Args:
        weights: A causal language model of transformers.
        sequences: Token ids of the rows; one without tokens is left out.
        layer: Index into the model's hidden states: 0 for the embeddings, -1 for the last
            layer's, behind the last norm.

    Yields:
        (position of the row, its states: float32 of shape (tokens, width of the model)).
    """
    import torch

    device = next(weights.parameters()).device
    max_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    for batch in batches([len(s) for s in sequences], max_tokens):
        ids = torch.from_numpy(padded(sequences, batch, 0)).to(device)
        with torch.inference_mode():
            output = weights.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
            states = output.hidden_states[layer].float().cpu().numpy()
        for row, position in enumerate(batch.members):
            yield position, states[row, : len(sequences[position])]


def num_layers(weights: Any) -> int:
    """How many hidden states a model has: those of its layers, and of the embeddings."""
    return int(weights.config.get_text_config().num_hidden_layers) + 1
