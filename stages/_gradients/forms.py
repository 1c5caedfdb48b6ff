"""What of a gradient counts: itself, its signs, or the step that Adam would take for it.

Adam's step, as the code of LESS has it (Xia et al. 2024, arXiv:2402.04333;
princeton-nlp/LESS): m' / sqrt(v' + eps) with m' = b1 m + (1 - b1) g and v' = b2 v + (1 - b2) g^2,
the epsilon inside the root and no correction of the bias, m and v being the moments of the
training at the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8


@dataclass(frozen=True)
class Moments:
    """Adam's moving averages.

    Attributes:
        first: Of gradients, shape (values,).
        second: Of their squares.
    """

    first: Matrix
    second: Matrix

    def save(self, file: Path) -> None:
        """Write them into a file that is either complete or not there, whoever else writes it."""
        part = file.with_name(f"{file.name}.{uuid4().hex}")
        with part.open("wb") as stream:
            np.savez(stream, first=self.first, second=self.second)
        part.replace(file)

    @classmethod
    def load(cls, file: Path) -> Moments:
        """Read what `save` wrote."""
        with np.load(file) as arrays:
            return cls(arrays["first"], arrays["second"])


def adam(gradients: Matrix, moments: Moments) -> Matrix:
    """The steps that Adam would take for gradients, without the learning rate.

    Args:
        gradients: Shape (rows, values), or one row's.
        moments: The moments before the step.

    Example:
        >>> moments = Moments(np.array([0.1, -0.2]), np.array([0.04, 0.01]))
        >>> adam(np.array([0.5, 0.3]), moments).round(8).tolist()
        [0.69816962, -1.49403502]
    """
    first = BETAS[0] * moments.first + (1 - BETAS[0]) * gradients
    second = BETAS[1] * moments.second + (1 - BETAS[1]) * gradients**2
    step: Matrix = np.asarray(first / np.sqrt(second + EPSILON), gradients.dtype)
    return step


def moments_of(steps: Iterable[Matrix], size: int) -> Moments:
    """The moments after some steps, their bias corrected.

    Args:
        steps: The gradient of each step, shape (values,).
        size: Values of a gradient.

    Example:
        >>> moments_of([np.ones(2)], 2).first.tolist()  # corrected, as of a long training
        [1.0, 1.0]
    """
    first, second = np.zeros(size), np.zeros(size)
    count = 0
    for gradient in steps:
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.astype(np.float64) ** 2
        count += 1
    corrections = [1 - beta ** max(1, count) for beta in BETAS]
    averages = (first / corrections[0], second / corrections[1])
    return Moments(*(average.astype(np.float32) for average in averages))
