"""The gradient of each row's loss, by vmap.

A row's loss is the mean over its answer tokens (nats per token), so that short rows have large
gradients. Short rows of about one length are differentiated together, each padded on the right
with tokens that no loss is on; the shape of a batch is a function of the row's own length, so
that a row's floats depend on that row alone. Long rows, which gain nothing from company, are
differentiated one by one.

Memory: the activations of a batch of `BATCH_TOKENS` tokens; and of gradients, 4 bytes for each
value, as many rows as `ROWS_BYTES` hold, twice: those of a batch, and those that are given out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages._activations.states import batches, padded
from stages._gradients.parameters import Differentiable

Matrix = NDArray[np.float32]

IGNORED: Final = -100
"""The label of a token that no loss is on."""

SHORT: Final = {"cpu": 64, "cuda": 1024}
"""Tokens of a row that shares a batch, at most, by kind of device."""

BATCH_TOKENS: Final = {"cpu": 256, "cuda": 8192}
"""Tokens of a batch, padding included, by kind of device."""

ROWS_BYTES: Final = 256 << 20
"""Bytes of the gradients that are held at once."""

MAX_ROWS: Final = 32
"""Rows whose gradients are given out at once, at most."""


def row_loss(model: Differentiable, parameters: dict[str, Any], ids: Any, labels: Any) -> Any:
    """The mean loss of one row over its answer tokens.

    Args:
        model: The model.
        parameters: The values of its parameters, by name.
        ids: Token ids, shape (tokens,).
        labels: The same, IGNORED where there is no loss.
    """
    import torch

    call = {"input_ids": ids[None], "use_cache": False}
    values = {**model.fixed, **parameters}
    output = torch.func.functional_call(model.module, values, (), call)
    targets = labels[1:]
    logits = output.logits[0, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.nn.functional.cross_entropy(
        logits, targets, ignore_index=IGNORED, reduction="sum"
    )
    return losses / (targets != IGNORED).sum().clamp(min=1)


def row_gradients(
    model: Differentiable, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], Matrix]]:
    """The gradients of rows, in parts that fit into memory.

    Args:
        model: The model, and the parameters.
        ids: Token ids of each row; a row without any is left out.
        labels: The same, IGNORED where there is no loss.

    Yields:
        (positions of rows, their gradients: shape (rows, values)); the number of rows is fixed
        by that of the values, and rows of zeros fill the last part.
    """
    held = min(MAX_ROWS, rows_within(model.size))
    positions: list[int] = []
    parts: list[Matrix] = []
    for members, values in _gradients(model, ids, labels):
        positions += members
        parts.append(values)
        while len(positions) >= held:
            matrix = np.concatenate(parts)
            yield positions[:held], matrix[:held]
            positions, parts = positions[held:], [matrix[held:]]
    if positions:
        rest = np.zeros((held - len(positions), model.size), np.float32)
        yield positions, np.concatenate([*parts, rest])


def rows_within(values: int) -> int:
    """How many rows' gradients `ROWS_BYTES` hold, one at least.

    Args:
        values: Values of a gradient.

    Example:
        >>> rows_within(1 << 20), rows_within(3_584 * 18_944)
        (64, 1)
    """
    return max(1, ROWS_BYTES // (4 * values))


def _gradients(
    model: Differentiable, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], Matrix]]:
    """Positions of rows and their gradients, a batch at a time."""
    import torch

    device = next(model.module.parameters()).device
    short, max_tokens = (limits.get(device.type, limits["cpu"]) for limits in (SHORT, BATCH_TOKENS))
    differentiate = torch.func.vmap(
        torch.func.grad(lambda p, x, y: row_loss(model, p, x, y)), in_dims=(None, 0, 0)
    )
    lengths = [len(row) for row in ids]
    together = [n if n <= short else 0 for n in lengths]
    for batch in batches(together, max_tokens, rows_within(model.size)):
        tensors = [
            torch.from_numpy(padded(values, batch, fill)).to(device)
            for values, fill in ((ids, 0), (labels, IGNORED))
        ]
        rows = len(batch.members)
        by_name = differentiate(model.parameters, *tensors)
        flat = [by_name[name].flatten(1)[:rows].float().cpu() for name in model.parameters]
        yield batch.members, torch.cat(flat, dim=1).numpy()
    for row, length in enumerate(lengths):
        if length > short:
            yield [row], by_loop(model, ids[row], labels[row])[None]


def by_loop(model: Differentiable, ids: Sequence[int], labels: Sequence[int]) -> Matrix:
    """The gradient of one row by plain backward, without padding.

    Args:
        model: The model, and the parameters.
        ids: Token ids.
        labels: The same, IGNORED where there is no loss.
    """
    import torch

    device = next(model.module.parameters()).device
    values = {name: p.clone().requires_grad_() for name, p in model.parameters.items()}
    tensors = [torch.tensor(row, device=device) for row in (ids, labels)]
    row_loss(model, values, *tensors).backward()
    # A parameter that the loss does not depend on has a gradient of zeros, as under vmap.
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in values.values()]
    flat = [slope.flatten().float().cpu() for slope in slopes]
    gradient: Matrix = torch.cat(flat).numpy()
    return gradient
