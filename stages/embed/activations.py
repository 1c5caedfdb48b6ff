"""Vectors of conversations from the hidden states of a causal language model.

The states are those of the tokens of the whole conversation, prompt and answers, as the model's
chat template renders it; padding is never among them.

RDS+: Large-Scale Data Selection for Instruction Tuning (Ivison et al. 2025, arXiv:2503.01807;
hamishivi/automated-instruction-selection).

As in the paper: `pooling: weighted_mean`, the mean of the last layer's states with the weights
1..T over all T tokens, so that later tokens, which have seen more, count more; the vectors have
length 1. `select.target` with `order: turns` is its selection.

Ours: rows of different lengths share batches; in the authors' code a batch is one row, since its
pooling has no mask.

Monosemantic activations: Task-Specific Data Selection for Instruction Tuning via Monosemantic
Neuronal Activations (Ma et al. 2025, arXiv:2503.15573).

As in the paper: `pooling: features`, the features of a TopK sparse autoencoder, averaged over
the tokens (a sum would favor long rows), as they are: `normalize: false`. `select.target` with
`method: jaccard` is its selection.

Ours: the autoencoder is trained here (`train.autoencoder`), on the states of the pool.

DiverseEvol: Self-Evolved Diverse Data Sampling for Efficient Instruction Tuning (Wu et al. 2023,
arXiv:2311.08182; OFA-Sys/DiverseEvol).

As in the authors' code: `pooling: mean` of the last layer over all tokens, with the model that
the last round trained; `select.diverse` with `k_center` is its selection.

Ours: chat templates in the place of the authors' prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.models.counting import CountingEncoder
from pipeline.stage import Edges, Files, Records, stage
from pipeline.types import Count
from stages._activations.autoencoder import Autoencoder
from stages._activations.states import hidden_states
from stages._activations.tokens import check_layer, tokens_of
from stages._common.edges import require_input
from stages.embed._unit import NOT_FINITE, unit

Pooling = Literal["last", "mean", "weighted_mean", "features"]


def _adds(options: Any, edges: Edges) -> Mapping[str, Any]:
    _check_inputs(options.pooling, edges)
    return {"vector": pl.List(pl.Float32)}


def _check_inputs(pooling: Pooling, edges: Mapping[str, Any]) -> None:
    with_features = pooling == "features"
    require_input(edges, "autoencoder", f"pooling: {pooling}", connected=with_features)


@stage(version=2, scope="row", reads=["messages", "tools"], adds=_adds)
def activations(
    ctx: Context,
    rows: Records,
    autoencoder: Files | None = None,
    *,
    model: LanguageModel,
    pooling: Pooling = "weighted_mean",
    layer: int = -1,
    max_length: Count = 2048,
    normalize: bool = True,
) -> pl.DataFrame:
    """Add the `vector` of each row: List(Float32), pooled over the row's tokens.

    A row that the chat template cannot show, or that the model gives no finite states for, fails.
    Rows that are cut are counted (`rows_cut`).

    Args:
        rows: The conversations.
        autoencoder: What `train.autoencoder` wrote, for `pooling: features`.
        model: The model whose states are read; its engine must be transformers.
        pooling: `last`: the last token's state. `mean`: the mean over tokens. `weighted_mean`:
            the mean with the weights 1..T. `features`: the mean of the autoencoder's features.
        layer: Index into the model's hidden states: 0 for the embeddings, 1 for the first
            layer's, -1 for the last layer's, behind the last norm.
        max_length: Tokens at which a row is cut, at the end.
        normalize: Scale the vectors to length 1, so that dot products are cosines.

    Example:
        ```yaml
        vectors: {uses: embed.activations, needs: pool, with: {model: base}}
        ```
    """
    _check_inputs(pooling, {"autoencoder": autoencoder})
    engine = ctx.open(model)
    if engine.weights is None:  # requests are counted, and there are none
        return pl.DataFrame({"vector": CountingEncoder().encode(rows["id"].to_list()).tolist()})
    check_layer(engine.weights, layer)
    features = None if autoencoder is None else _matching(autoencoder, engine.weights, layer)
    limit = min(max_length, engine.context_tokens or max_length)
    tokenized = tokens_of(engine.tokenizer, rows, limit)
    ctx.count(tokens=sum(map(len, tokenized.sequences)), rows_cut=tokenized.cut)
    vectors: list[list[float] | None] = [None] * len(rows)
    errors = tokenized.errors
    every = hidden_states(engine.weights, tokenized.sequences, layer)
    for done, (position, states) in enumerate(every, 1):
        pooled = pool(states, pooling) if features is None else features.mean_features(states)
        if np.isfinite(pooled).all():
            vectors[position] = (unit(pooled) if normalize else pooled).tolist()
        else:
            errors[position] = NOT_FINITE
        ctx.progress(done, len(rows))
    return pl.DataFrame(
        {"vector": vectors, "error": errors},
        schema={"vector": pl.List(pl.Float32), "error": pl.String},
    )


def pool(states: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """One vector for the states of a row's tokens.

    Args:
        states: Shape (tokens, width), one token at least.
        pooling: How.

    Example:
        >>> states = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], np.float32)
        >>> (pool(states, "weighted_mean") * 6).tolist()
        [7.0, 8.0]
    """
    if pooling == "last":
        last: NDArray[np.float32] = states[-1]
        return last
    weights = np.ones(len(states))
    if pooling == "weighted_mean":
        weights = np.arange(1.0, len(states) + 1)
    pooled: NDArray[np.float32] = ((weights / weights.sum()) @ states).astype(np.float32)
    return pooled


def _matching(folder: Any, weights: Any, layer: int) -> Autoencoder:
    """The autoencoder, if it reads this layer of a model of this width."""
    autoencoder = Autoencoder.load(folder)
    meta, width = autoencoder.meta, weights.config.get_text_config().hidden_size
    if meta.layer != layer:
        raise OptionError(
            "layer", f"must be that of the autoencoder, {meta.layer}, got {layer}",
            why="its features are those of the states that it was trained on",
        )  # fmt: skip
    if meta.width != width:
        raise OptionError(
            "model", f"must have states of {meta.width} values, as the autoencoder, got {width}",
            hint="name the model that train.autoencoder was given",
        )  # fmt: skip
    return autoencoder
