"""A reward model of transformers, ready-made: one number for each conversation.

As with every such model: `AutoModelForSequenceClassification` with one output reads the whole
conversation, and its logit is the reward. CAR and A-LoL take rewards of such models.

Ours: a conversation longer than `max_length` has no reward instead of being cut; a model whose
head is missing in its files is refused, since transformers would begin with a random one;
batches have shapes that depend on a conversation's own length alone, so that a row's reward
does too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import (
    Unrenderable,
    context_tokens,
    load_tokenizer,
    source,
)
from pipeline.models.local.literal_tokens import tokenize
from pipeline.models.local.threads import fix_threads
from pipeline.types import option_group
from schemas.turns import View, turn_text
from stages._llm.rendered import render
from stages._training.trainer import quiet

MIN_WIDTH: Final = 64
"""Tokens of the narrowest batch; lengths are padded to powers of two."""

BATCH_TOKENS: Final = 1024
"""Tokens of a batch, padding included, or one conversation."""

Inputs = Mapping[str, list[int]]
"""Tokens, and what belongs to them, of a conversation."""


@option_group
class RewardModel:
    """The reward of each conversation by a ready-made model, the option `model` of the stage.

    `learned` is null for a conversation that is too long, or has no answer.

    Args:
        form: How a conversation is shown: `chat`, as the model's chat template renders it, or
            `pair`: the prompt and the last answer as a pair of texts, for encoders without a
            template such as OpenAssistant's DeBERTa.
        max_length: Tokens of the longest conversation.
        view: What of a turn is shown under `pair`: its content, the tool calls too, or all.
    """

    name: Literal["reward_model"] = "reward_model"
    form: Literal["chat", "pair"] = "chat"
    max_length: Annotated[int, Field(ge=2)] = 2048
    view: View = "calls"


def reward(
    ctx: Context, rows: pl.DataFrame, model: LanguageModel, method: RewardModel
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The column of `RewardModel` with `error`, and the report.

    Args:
        ctx: Where progress goes.
        rows: The rows to score.
        model: The reward model.
        method: The options.

    Raises:
        UserError: The model has no trained head of one output.
    """
    weights, tokenizer = load(model)
    tokens, errors = encoded_rows(rows, model, tokenizer, method)
    result = columns_of(rewards(ctx, weights, tokens), tokens, errors)
    failed = len(rows) - result["error"].null_count()
    missing = result["learned"].null_count()
    counts = {
        "scored": len(rows) - missing,
        "failed": failed,
        "without_score": missing - failed,
    }
    return result, {"method": method.name, "rows": counts}


def columns_of(
    values: Sequence[float] | NDArray[np.float64],
    inputs: Sequence[Inputs | None],
    errors: pl.Series,
) -> pl.DataFrame:
    """`learned` and `error`: a row that was read and has no finite score fails.

    Args:
        values: The score of each row, NaN for one that was not read.
        inputs: What was read of it; None for nothing.
        errors: Why a row cannot be read.

    Example:
        >>> errors = pl.Series("error", [None, None], pl.String)
        >>> columns_of([np.nan, np.nan], [{}, None], errors).rows()
        [(None, 'the model gives no finite score'), (None, None)]
    """
    scores = pl.Series("learned", values, pl.Float64)
    lacking = pl.Series([i is not None for i in inputs], dtype=pl.Boolean) & ~scores.is_finite()
    return pl.DataFrame([scores, errors]).select(
        pl.when(pl.col("learned").is_finite()).then("learned"),
        pl.when(lacking).then(pl.lit("the model gives no finite score")).otherwise("error")
        .alias("error"),
    )  # fmt: skip


def encoded_rows(
    rows: pl.DataFrame, model: LanguageModel, tokenizer: Any, method: RewardModel
) -> tuple[list[Inputs | None], pl.Series]:
    """The inputs of the model for each row, None for none, and `error`.

    Args:
        rows: Conversations.
        model: The model, whose context is a limit too.
        tokenizer: Its tokenizer.
        method: How conversations are shown.
    """
    limit = min(method.max_length, context_tokens(model, tokenizer) or method.max_length)
    turns = rows.select("messages", "tools").iter_rows()
    encoded = [_encode(tokenizer, method, limit, *row) for row in turns]
    errors = [each if isinstance(each, str) else None for each in encoded]
    inputs = [None if isinstance(each, str) else each for each in encoded]
    return inputs, pl.Series("error", errors, pl.String)


def load(model: LanguageModel, *, trained: bool = True) -> tuple[Any, Any]:
    """A model of one output and its tokenizer, on a GPU where there is one.

    Args:
        model: The model.
        trained: Whether its files must have the head; else one that they lack begins at random.

    Raises:
        UserError: It has more outputs than one, or its files lack the head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    fix_threads()
    tokenizer = load_tokenizer(model)
    options: dict[str, Any] = {} if trained else {"num_labels": 1}
    with quiet():
        weights, info = AutoModelForSequenceClassification.from_pretrained(
            **source(model),
            dtype=getattr(torch, model.dtype),
            output_loading_info=True,
            **options,
        )
    if weights.config.num_labels != 1:
        raise UserError(
            f"model must have one output to be a reward model, got {weights.config.num_labels}",
            where=model.model,
        )
    if trained and (missing := sorted(info["missing_keys"])):
        raise UserError(
            f"model must be a trained reward model, got weights without {', '.join(missing)}",
            where=model.model,
            why="a head that begins at random gives numbers that mean nothing",
            hint="name a model for sequence classification, or train a head with method: pairs",
        )
    device = model.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return weights.to(device).eval(), tokenizer


def _encode(
    tokenizer: Any,
    method: RewardModel,
    limit: int,
    messages: Sequence[Any] | None,
    tools: str | None,
) -> Inputs | str | None:
    """The inputs of the model; an error, or None for a conversation that has no score."""
    turns = messages or []
    if not turns or turns[-1]["role"] != "assistant" or not turn_text(turns[-1], "all").strip():
        return None
    if method.form == "pair":
        prompt = "\n".join(turn_text(turn, method.view) for turn in turns[:-1])
        pair = dict(tokenizer(prompt, turn_text(turns[-1], method.view)))
        return pair if len(pair["input_ids"]) <= limit else None
    try:
        ids, _ = tokenize(tokenizer, render(tokenizer, turns, tools).text)
    except Unrenderable as error:
        return str(error)
    if len(ids) > limit:
        return None
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids)}


def rewards(ctx: Context, weights: Any, inputs: Sequence[Inputs | None]) -> list[float]:
    """The logit of each conversation, NaN for None.

    Args:
        ctx: Where progress goes.
        weights: The model.
        inputs: Tokens, and what belongs to them, of each conversation.
    """
    import torch

    widths = [0 if i is None else _width(len(i["input_ids"])) for i in inputs]
    result = np.full(len(inputs), np.nan)
    done = 0
    for width in sorted({*widths} - {0}):
        rows = [i for i, w in enumerate(widths) if w == width]
        size = max(1, BATCH_TOKENS // width)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            chosen = [inputs[i] or {} for i in part]
            with torch.inference_mode(), batch_of(weights, chosen, size) as batch:
                logits = weights(**batch).logits[: len(part), 0]
            result[part] = logits.float().cpu().numpy()
            done += len(part)
            ctx.progress(done, len(inputs))
    return result.tolist()


@contextmanager
def batch_of(weights: Any, rows: Sequence[Inputs], size: int) -> Iterator[dict[str, Any]]:
    """Inputs of one width on the model's device; copies of the first row fill it.

    The model reads the last token that is not padding, and finds it by the id of padding: a model
    without one has one while the batch is read, which no conversation ends with.

    Args:
        weights: The model.
        rows: What it reads.
        size: Rows of the batch.
    """
    import torch

    config = weights.config.get_text_config()
    named = config.pad_token_id
    last = {row["input_ids"][-1] for row in rows}
    padding = next(token for token in range(len(rows) + 1) if token not in last)
    padding = padding if named is None else named
    width = _width(max(len(row["input_ids"]) for row in rows))
    full, fills = [*rows, *[rows[0]] * (size - len(rows))], {"input_ids": padding}
    config.pad_token_id = padding
    try:
        yield {
            name: torch.tensor(
                [r[name] + [fills.get(name, 0)] * (width - len(r[name])) for r in full],
                device=weights.device,
            )
            for name in rows[0]
        }
    finally:
        config.pad_token_id = named


def _width(tokens: int) -> int:
    return max(MIN_WIDTH, 1 << (tokens - 1).bit_length())
