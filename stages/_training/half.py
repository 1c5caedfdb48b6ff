"""Which half of a model half fine-tuning trains.

Half fine-tuning: HFT: Half Fine-Tuning for Large Language Models (Hui et al. 2024,
arXiv:2404.18466).

As in the paper: of each layer two of four attention matrices are trained, of the feed-forward
part two of three in half of the layers and one in the others, and half of the norms; embeddings
and head always; a new draw in each round of training. Ours: in models of other shapes half of
what is there, rounded up in half of the layers and down in the others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

_LAYER: Final = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")
_ATTENTION: Final = re.compile(r"attn|attention")


def trained_half(shapes: Mapping[str, Sequence[int]], seed: int) -> set[str]:
    """The names of the parameters that are trained.

    Args:
        shapes: Of all parameters, by name.
        seed: Of the draw.

    Example:
        >>> names = [f"model.layers.{i}.mlp.{n}.weight" for i in (0, 1) for n in ("up", "down")]
        >>> names += ["lm_head.weight"]
        >>> half = trained_half(dict.fromkeys(names, (2, 2)), seed=0)
        >>> len(half), "lm_head.weight" in half
        (3, True)
    """
    generator = np.random.default_rng(seed)
    trained = {name for name in shapes if not _LAYER.search(name)}
    parts: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, shape in shapes.items():
        if within := _LAYER.search(name):
            module = name.rpartition(".")[0]
            # A bias goes with its matrix, and the norms of all layers are one part.
            is_norm = len(shapes.get(f"{module}.weight", shape)) < 2
            kind = "attention" if _ATTENTION.search(name) else "feed-forward"
            part = ("norm", -1) if is_norm else (kind, int(within[1]))
            if module not in parts[part]:
                parts[part].append(module)
    layers = sorted({layer for _, layer in parts if layer >= 0})
    rounded_up = set(generator.permutation(layers)[: len(layers) // 2].tolist())
    modules: set[str] = set()
    for (_, layer), members in sorted(parts.items()):
        number = (len(members) + (layer in rounded_up)) // 2
        modules |= {members[i] for i in generator.permutation(len(members))[:number]}
    return trained | {name for name in shapes if name.rpartition(".")[0] in modules}


def freeze_half(weights: Any, seed: int) -> None:
    """Leave the other half of a model as it is: it gets no gradient, and no optimizer sees it.

    Args:
        weights: A transformers model.
        seed: Of the draw.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.named_parameters()}
    trained = trained_half(shapes, seed)
    for name, value in weights.named_parameters():
        value.requires_grad_(name in trained)
