"""FIGA: of a revised answer only what was changed is learned, and what it replaced unlearned.

FIGA: Beyond Imitation: Leveraging Fine-grained Quality Signals for Alignment (Guo et al. 2023,
arXiv:2311.04072; RUCAIBox/FIGA).

As in the paper: tokens are compared by their edit distance; those that a revision inserted or
put in the place of others weigh 1 in the revised answer, those that it deleted or replaced weigh
-beta in the first one. As in the authors' code: the end token weighs 1; a deleted token counts
only where its loss is at most 0.6; the sum is divided by the number of tokens that weigh
anything. Ours: the first answer is a column of the shards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from pipeline.types import NonNegativeFloat, PositiveFloat, option_group
from stages._training.dataset import IGNORED
from stages._training.losses.base import Batch, Loss, Tensor

FIRST = "first_answer"
"""Marks the rows that end with the first answer."""


@option_group
class FIGA(Loss):
    """Token weights from the difference between a first and a revised answer (Guo et al. 2023).

    Args:
        initial: The column of the shards with the first answer, or `extra.NAME` for a field of the
            column `extra` (`extra.original` after `rewrite.revise`); the conversation ends with
            the revised one. A row without one is learned whole, and so is one that ends with
            another turn than an answer.
        beta: The weight with which what was deleted is unlearned.
        max_loss: A token is unlearned only where its loss is at most this.
    """

    name: Literal["figa"] = "figa"
    initial: str
    beta: NonNegativeFloat = 0.5
    max_loss: PositiveFloat = 0.6

    def columns(self) -> tuple[str, ...]:
        """The column of the first answers."""
        return (self.initial.partition(".")[0],)

    def rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, and each with its first answer in the place of the last turn's.

        Args:
            rows: `id`, `messages` and the column of the first answers.
        """
        column, _, name = self.initial.partition(".")
        texts = pl.Series([first_answer(value, name) for value in rows[column]], dtype=pl.String)
        last = rows["messages"].list.last().struct.field("role")
        is_there = texts.is_not_null() & (texts != "") & (last == "assistant")
        first = rows.filter(is_there)
        conversations = [
            [*turns[:-1], {**turns[-1], "content": text}]
            for turns, text in zip(first["messages"].to_list(), texts.filter(is_there), strict=True)
        ]
        messages = pl.Series("messages", conversations, dtype=rows["messages"].dtype)
        both = [rows.with_columns(pl.lit(False).alias(FIRST))]
        return pl.concat([*both, first.with_columns(messages, pl.lit(True).alias(FIRST))])

    def weigh(self, rows: pl.DataFrame, encoded: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:  # noqa: ARG002
        """The weights of both answers' tokens; a row whose other one is refused weighs 1 or 0.

        Args:
            rows: What `rows` gave.
            encoded: The same as tokens.
            tokenizer: What made them.
        """
        labels = encoded["labels"].to_list()
        keys = list(zip(rows["id"], rows[FIRST], strict=True))
        by_key = dict(zip(keys, labels, strict=True))
        weights: list[list[float] | None] = []
        for (id_, is_first), own in zip(keys, labels, strict=True):
            other = by_key.get((id_, not is_first))
            if own is None:
                weights.append(None)
            elif other is None:
                weights.append([0.0 if is_first else 1.0] * len(own))
            elif is_first:
                weights.append(changed(other, own, end=False, weight=-self.beta))
            else:
                weights.append(changed(other, own, end=True, weight=1.0))
        return encoded.with_columns(pl.Series("weights", weights, dtype=pl.List(pl.Float32)))

    def total(self, batch: Batch) -> Tensor:
        """The sum over the tokens.

        Args:
            batch: The forward pass.
        """
        losses = -batch.log_probs
        unlearned = (batch.weights >= 0) | (losses.detach() <= self.max_loss)
        return batch.sum(losses * unlearned)

    def count(self, targets: Tensor, weights: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """The number of tokens that weigh anything.

        Args:
            targets: As in a `Batch`.
            weights: As in a `Batch`.
            rows: As in a `Batch`.
        """
        return ((weights != 0) & (targets != IGNORED)).sum()


def first_answer(value: str | None, name: str) -> str | None:
    """The first answer that a row has, None without one.

    Args:
        value: The answer; or JSON with a field that is an answer, or the turns of a conversation.
        name: The field; empty for the answer itself.

    Example:
        >>> first_answer('{"original": [{"role": "assistant", "content": "Yes."}]}', "original")
        'Yes.'
    """
    if not name or value is None:
        return value
    field = json.loads(value).get(name)
    if isinstance(field, list):
        said = [turn.get("content") for turn in field if turn.get("role") == "assistant"]
        field = said[-1] if said else None
    return field if isinstance(field, str) else None


def changed(
    other: Sequence[int], labels: Sequence[int], *, end: bool, weight: float
) -> list[float]:
    """The weights of a row's tokens: of those that the other answer has not, and of the end.

    Args:
        other: The labels of the other answer.
        labels: The labels of this one.
        end: Whether the last token that loss is on weighs too.
        weight: Their weight; all others weigh 0.

    Example:
        >>> changed([1, 2, 3, 9], [1, 4, 3, 5, 9], end=True, weight=1.0)
        [0.0, 1.0, 0.0, 1.0, 1.0]
    """
    from rapidfuzz.distance import Levenshtein

    at = [i for i, label in enumerate(labels) if label != IGNORED]
    own_tokens = [labels[i] for i in at]
    other_tokens = [label for label in other if label != IGNORED]
    weights = [0.0] * len(labels)
    for step in Levenshtein.opcodes(other_tokens, own_tokens):
        if step.tag in ("insert", "replace"):
            for i in at[step.dest_start : step.dest_end]:
                weights[i] = weight
    if end and at:
        weights[at[-1]] = weight
    return weights
