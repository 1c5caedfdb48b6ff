"""A TopK sparse autoencoder over hidden states (Gao et al. 2024, arXiv:2406.04093).

z = TopK(W (h - b)), of which what is below 0 counts as 0; h is rebuilt as D z + b. The columns
of D have length 1. It is trained on the squared error alone; TopK makes it sparse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._training.loop_checkpoints import LoopCheckpoints

FILE: Final = "autoencoder.safetensors"
META: Final = "autoencoder.json"

_BLOCK: Final = 4096
"""Tokens that are encoded at once."""


@dataclass(frozen=True)
class Meta:
    """What an autoencoder reads.

    Attributes:
        layer: Index into the hidden states of the model.
        width: The model's width.
        num_features: Features.
        k: Features that are active for a token.
    """

    layer: int
    width: int
    num_features: int
    k: int


@dataclass(frozen=True)
class Autoencoder:
    """A sparse autoencoder.

    Attributes:
        meta: What it reads.
        encoder: W, shape (features, width).
        decoder: D, shape (width, features), its columns of length 1.
        bias: b, shape (width,).
    """

    meta: Meta
    encoder: Any
    decoder: Any
    bias: Any

    def encode(self, states: Any) -> Any:
        """The features of tokens, shape (tokens, features): `k` of each row are not 0.

        Args:
            states: Hidden states, shape (tokens, width).
        """
        import torch

        scores = (states - self.bias) @ self.encoder.T
        top = scores.topk(self.meta.k, dim=-1)
        return torch.zeros_like(scores).scatter(-1, top.indices, top.values.relu())

    def mean_features(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of the features over the tokens of one row, shape (features,).

        Args:
            states: The row's hidden states, shape (tokens, width).
        """
        import torch

        total = torch.zeros(self.meta.num_features, dtype=torch.float64)
        tensor: Any = torch.from_numpy(np.array(states))
        with torch.inference_mode():
            for part in tensor.split(_BLOCK):
                total += self.encode(part).sum(dim=0, dtype=torch.float64)
        mean: NDArray[np.float32] = (total / len(states)).float().numpy()
        return mean

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        from safetensors.torch import save_file

        tensors = {"encoder": self.encoder, "decoder": self.decoder, "bias": self.bias}
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, folder / FILE)
        (folder / META).write_text(json.dumps(asdict(self.meta), indent=1), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Autoencoder:
        """Read what `save` wrote.

        Raises:
            UserError: The folder holds none.
        """
        from safetensors.torch import load_file

        if not (folder / META).is_file():
            raise UserError(
                f"the edge 'autoencoder' must have {META}, got a folder without it",
                where=str(folder),
                hint="connect it to a train.autoencoder stage",
            )
        meta = Meta(**json.loads((folder / META).read_text("utf-8")))
        return cls(meta, **load_file(folder / FILE))


def fit_autoencoder(
    states: NDArray[np.float32],
    meta: Meta,
    *,
    max_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    step_done: Callable[[int], None],
    checkpoints: LoopCheckpoints | None = None,
) -> tuple[Autoencoder, list[float]]:
    """Train an autoencoder with Adam.

    Args:
        states: Hidden states of tokens, shape (tokens, width), one at least.
        meta: Its shape.
        max_steps: Steps of Adam.
        batch_size: Tokens of a step.
        learning_rate: Adam's.
        seed: Of the first weights and of the order of tokens.
        step_done: Called with the number of each finished step.
        checkpoints: Where a training that was killed goes on; None where it begins anew.

    Returns:
        The autoencoder, and for each step the fraction of the variance that it leaves
        unexplained.

    Raises:
        UserError: The error is no longer finite.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(states)
    bias = data.mean(dim=0)
    variance = float(((data - bias) ** 2).mean()) or 1.0
    decoder = _unit(torch.randn(meta.width, meta.num_features, generator=generator))
    parameters = [decoder.T.clone(), decoder, bias]
    for tensor in parameters:
        tensor.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    model = Autoencoder(meta, *parameters)
    done, state = checkpoints.newest() if checkpoints else (0, {})
    losses: list[float] = state.get("losses", [])
    if done:
        with torch.no_grad():
            for tensor, value in zip(parameters, state["parameters"], strict=True):
                tensor.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
    for step in range(done + 1, max_steps + 1):
        batch = data[torch.randint(len(data), (batch_size,), generator=generator)]
        error = ((model.encode(batch) @ model.decoder.T + model.bias - batch) ** 2).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        with torch.no_grad():
            model.decoder.copy_(_unit(model.decoder))
        losses.append(float(error.detach()) / variance)
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the training diverged: the error of step {step} is not finite",
                hint="lower learning_rate",
                why=f"learning_rate is {learning_rate:g}",
            )
        step_done(step)
        if checkpoints:
            checkpoints.step_done(step, lambda: {
                "parameters": [tensor.detach() for tensor in parameters], "losses": losses,
                "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
            })  # fmt: skip
    return Autoencoder(meta, *(tensor.detach() for tensor in parameters)), losses


def _unit(matrix: Any) -> Any:
    return matrix / matrix.norm(dim=0, keepdim=True).clamp(min=1e-12)
