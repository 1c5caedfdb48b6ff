"""A reward model of transformers, ready-made: one number for each conversation.

As with every such model: `AutoModelForSequenceClassification` with one output reads the whole
conversation, and its logit is the reward. CAR and A-LoL take rewards of such models.

Ours: a conversation longer than `max_length` has no reward instead of being cut; a model whose
head is missing in its files is refused, since transformers would begin with a random one;
batches have shapes that depend on a conversation's own length alone, so that a row's reward
does too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
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
    limit = min(method.max_length, context_tokens(model, tokenizer) or method.max_length)
    turns = rows.select("messages", "tools").iter_rows()
    encoded = [_encode(tokenizer, method, limit, *row) for row in turns]
    tokens = [e if isinstance(e, Mapping) else None for e in encoded]
    values = rewards(ctx, weights, tokens)
    learned = pl.Series("learned", values, pl.Float64).fill_nan(None)
    errors = pl.Series("error", [e if isinstance(e, str) else None for e in encoded], pl.String)
    failed = len(errors) - errors.null_count()
    counts = {
        "scored": len(rows) - learned.null_count(),
        "failed": failed,
        "without_score": learned.null_count() - failed,
    }
    return pl.DataFrame([learned, errors]), {"method": method.name, "rows": counts}


def load(model: LanguageModel) -> tuple[Any, Any]:
    """A reward model and its tokenizer, on a GPU where there is one.

    Args:
        model: The model.

    Raises:
        UserError: It has more outputs than one, or its files lack the head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    fix_threads()
    tokenizer = load_tokenizer(model)
    with quiet():
        weights, info = AutoModelForSequenceClassification.from_pretrained(
            **source(model), dtype=getattr(torch, model.dtype), output_loading_info=True
        )
    if weights.config.num_labels != 1:
        raise UserError(
            f"model must have one output to be a reward model, got {weights.config.num_labels}",
            where=model.model,
        )
    if missing := sorted(info["missing_keys"]):
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
) -> Mapping[str, list[int]] | str | None:
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


def rewards(
    ctx: Context, weights: Any, inputs: Sequence[Mapping[str, list[int]] | None]
) -> list[float]:
    """The logit of each conversation, NaN for None.

    Args:
        ctx: Where progress goes.
        weights: The model.
        inputs: Tokens, and what belongs to them, of each conversation.
    """
    import torch

    config = weights.config.get_text_config()
    named = config.pad_token_id
    widths = [0 if i is None else _width(len(i["input_ids"])) for i in inputs]
    result = np.full(len(inputs), np.nan)
    done = 0
    for width in sorted({*widths} - {0}):
        rows = [i for i, w in enumerate(widths) if w == width]
        size = max(1, BATCH_TOKENS // width)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            chosen = [inputs[i] or {} for i in part]
            # The model reads the last token that is not padding, and finds it by this id.
            config.pad_token_id = _other_token(chosen) if named is None else named
            batch = _batch(chosen, size, width, config.pad_token_id)
            on_device = {name: tensor.to(weights.device) for name, tensor in batch.items()}
            with torch.inference_mode():
                logits = weights(**on_device).logits[: len(part), 0]
            result[part] = logits.float().cpu().numpy()
            done += len(part)
            ctx.progress(done, len(inputs))
    return result.tolist()


def _width(tokens: int) -> int:
    return max(MIN_WIDTH, 1 << (tokens - 1).bit_length())


def _other_token(rows: Sequence[Mapping[str, list[int]]]) -> int:
    """A token that none of the conversations ends with, for models without a padding token."""
    last = {row["input_ids"][-1] for row in rows}
    return next(token for token in range(len(rows) + 1) if token not in last)


def _batch(
    rows: Sequence[Mapping[str, list[int]]], size: int, width: int, padding: int
) -> dict[str, Any]:
    """Inputs of one width; copies of the first row fill a batch that is not full."""
    import torch

    full = [*rows, *[rows[0]] * (size - len(rows))]
    fills = {"input_ids": padding}
    return {
        name: torch.tensor([r[name] + [fills.get(name, 0)] * (width - len(r[name])) for r in full])
        for name in full[0]
    }
