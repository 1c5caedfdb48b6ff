"""How much of a layer's attention goes from some tokens of a text to others.

Fused attention gives no weights: this runs one row at a time with the eager implementation, and
keeps the weights of one layer for as long as they are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import UserError

Span = tuple[int, int]


class Attending(NamedTuple):
    """A text of which some spans look at others.

    Attributes:
        tokens: Token ids.
        spans: Start and end of each span whose tokens attend.
        targets: The positions of the tokens that are attended to.
    """

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]
    targets: tuple[int, ...]


@torch.inference_mode()
def attention_mass(model: Any, rows: Sequence[Attending], layer: int) -> Iterator[list[float]]:
    """The attention of each span to the targets, of the head that looks at them most.

    Args:
        model: A causal language model of transformers.
        rows: The texts.
        layer: The layer, from 0.

    Yields:
        For each text one value per span: the mean over its tokens of the maximum over the heads
        of the sum over the targets.

    Raises:
        UserError: The model has no such layer, or one that gives no weights.
    """
    with _weights(model, layer) as seen:
        for row in rows:
            tokens = torch.tensor([row.tokens], device=model.device)
            model.base_model(input_ids=tokens, use_cache=False)
            weights = seen.pop()[0]
            mass = weights[:, :, list(row.targets)].float().sum(-1).amax(0)
            yield [float(mass[start:end].mean()) for start, end in row.spans]


@contextmanager
def _weights(model: Any, layer: int) -> Iterator[list[Tensor]]:
    """The attention weights of a layer, of shape (1, heads, tokens, tokens), as a pass ends."""
    modules = [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    of_layer = [m for m in modules if getattr(m, "layer_idx", None) == layer]
    if len(of_layer) != 1:
        last = model.config.get_text_config().num_hidden_layers - 1
        raise UserError(f"layer must be one from 0 to {last} with attention, got {layer}")
    seen: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
        if not isinstance(output, tuple) or output[1] is None:
            raise UserError(f"the attention of layer {layer} gives no weights")
        seen.append(output[1])

    implementation = model.config._attn_implementation
    handle = of_layer[0].register_forward_hook(keep)
    model.set_attn_implementation("eager")
    try:
        yield seen
    finally:
        handle.remove()
        model.set_attn_implementation(implementation)
