"""A sparse autoencoder over a language model's hidden states: features that mean one thing each.

Monosemantic activations: Task-Specific Data Selection for Instruction Tuning via Monosemantic
Neuronal Activations (Ma et al. 2025, arXiv:2503.15573).

As in the paper: z = TopK(W (h - b)) over the states h of one layer, with many more features than
the model is wide.

Ours: it is trained here, on tokens of the rows (the paper takes a published one); squared error
alone, Adam, decoder columns of length 1, sizes and steps; what is below 0 counts as 0. Features
that no token activates are not revived.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.models.local.threads import fix_threads
from pipeline.stage import Records, stage
from pipeline.types import Count, PositiveFloat
from stages._activations.autoencoder import Meta, fit_autoencoder
from stages._activations.states import hidden_states
from stages._activations.tokens import check_layer, tokens_of
from stages._training.loop_checkpoints import LoopCheckpoints
from stages._training.trainer import write_json


def _check(options: SimpleNamespace) -> None:
    if options.k > options.num_features:
        raise OptionError(
            "k", f"must be at most num_features, {options.num_features}, got {options.k}"
        )


@stage(version=1, scope="set", reads=["messages", "tools"], check=_check)
def autoencoder(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    layer: int = -1,
    num_features: Annotated[int, Field(ge=2)] = 16_384,
    k: Count = 32,
    max_steps: Count = 2000,
    batch_size: Count = 1024,
    learning_rate: PositiveFloat = 1e-3,
    max_length: Count = 2048,
    max_tokens: Count = 1_000_000,
    seed: int = 0,
) -> None:
    """Train a TopK sparse autoencoder on the hidden states of rows.

    Writes `autoencoder.safetensors`, `autoencoder.json` (its shape, and the layer) and
    `metrics.json`: `rows`, `tokens`, and per step the part of the states' variance that is left
    `unexplained`. The states of `max_tokens` tokens are held in memory: 4 bytes for each value.

    Args:
        rows: The conversations whose states are learned, as a rule the pool.
        model: The model whose states are read; its engine must be transformers.
        layer: Index into the model's hidden states, as in `embed.activations`.
        num_features: Features of the autoencoder; several times the model's width.
        k: Features that are active for a token.
        max_steps: Steps of Adam.
        batch_size: Tokens of a step.
        learning_rate: Adam's learning rate.
        max_length: Tokens at which a row is cut, at the end.
        max_tokens: Tokens that are learned from: those of the first rows in an order that the
            seed shuffles.
        seed: Of the rows' order, the first weights and the order of tokens.

    Raises:
        UserError: No row can be shown by the chat template, the model gives states that are not
            finite, or the training diverges.

    Example:
        ```yaml
        features: {uses: train.autoencoder, needs: pool, with: {model: base, layer: 6}}
        vectors:
          uses: embed.activations
          needs: {rows: pool, autoencoder: features}
          with: {model: base, layer: 6, pooling: features, normalize: false}
        ```
    """
    engine = ctx.open(model)
    if engine.weights is None:  # requests are counted, and there are none
        return
    fix_threads()
    check_layer(engine.weights, layer)
    limit = min(max_length, engine.context_tokens or max_length)
    shuffled = rows.sort("id").sample(fraction=1.0, shuffle=True, seed=seed)
    sequences = _first_tokens(tokens_of(engine.tokenizer, shuffled, limit).sequences, max_tokens)
    if not sequences:
        raise UserError("there is no token to learn from", hint="see what drops the rows before")
    states = _states(engine.weights, sequences, layer)
    if not np.isfinite(states).all():
        raise UserError(
            f"the hidden states of layer {layer} must be finite, got NaN or infinity",
            where=model.model,
            hint="try another dtype, such as float32 or bfloat16",
        )
    ctx.count(tokens=len(states))
    meta = Meta(layer, states.shape[1], num_features, k)
    trained, unexplained = fit_autoencoder(
        states,
        meta,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        step_done=lambda step: ctx.progress(step, max_steps),
        checkpoints=LoopCheckpoints(ctx.work / "checkpoints"),
    )
    trained.save(ctx.files)
    counts = {"rows": len(sequences), "tokens": len(states)}
    write_json(ctx.files / "metrics.json", {**counts, "unexplained": unexplained})


def _first_tokens(sequences: list[list[int]], limit: int) -> list[list[int]]:
    """The first sequences that are not empty, up to a number of tokens in all."""
    shown = [ids for ids in sequences if ids]
    ends = np.cumsum([len(ids) for ids in shown])
    return shown[: max(1, int((ends <= limit).sum()))]


def _states(weights: Any, sequences: list[list[int]], layer: int) -> NDArray[np.float32]:
    """The states of all tokens, in the order of the sequences."""
    parts = sorted(hidden_states(weights, sequences, layer), key=lambda part: part[0])
    return np.concatenate([states for _, states in parts])
