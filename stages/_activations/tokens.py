"""The tokens of conversations whose states are measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from pipeline.errors import OptionError
from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import tokenize
from stages._activations.states import num_layers
from stages._llm.rendered import render


class Tokenized(NamedTuple):
    """Conversations as tokens.

    Attributes:
        sequences: Token ids of each row, none where it cannot be shown.
        errors: Why a row cannot be shown; None for the others.
        cut: How many rows are cut.
    """

    sequences: list[list[int]]
    errors: list[str | None]
    cut: int


def tokens_of(tokenizer: Any, rows: pl.DataFrame, limit: int) -> Tokenized:
    """Conversations as the model's chat template renders them, prompt and answers.

    Args:
        tokenizer: The model's tokenizer.
        rows: `messages`, and `tools` where rows have them.
        limit: Tokens at which a row is cut.
    """
    columns = [name for name in ("messages", "tools") if name in rows.columns]
    sequences: list[list[int]] = []
    errors: list[str | None] = []
    for row in rows.select(columns).iter_rows():
        try:
            ids, _ = tokenize(tokenizer, render(tokenizer, row[0] or [], *row[1:]).text)
        except Unrenderable as error:
            sequences.append([])
            errors.append(str(error))
            continue
        sequences.append(list(ids))
        errors.append(None if len(ids) else "the chat template gives no text")
    cut = sum(len(ids) > limit for ids in sequences)
    return Tokenized([ids[:limit] for ids in sequences], errors, cut)


def check_layer(weights: Any, layer: int) -> None:
    """Refuse a layer that a model does not have.

    Args:
        weights: A causal language model of transformers.
        layer: Index into its hidden states.

    Raises:
        OptionError: There is none.
    """
    count = num_layers(weights)
    if not -count <= layer < count:
        raise OptionError("layer", f"must be from {-count} to {count - 1}, got {layer}")
