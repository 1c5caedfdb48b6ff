"""Vectors of length 1."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

NOT_FINITE: Final = "the model gives no finite vector"
"""Why a row fails."""


def unit(vector: Vector) -> Vector:
    """A vector scaled to length 1; one of zeros stays as it is.

    Example:
        >>> unit(np.array([3.0, 4.0], np.float32)).tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    length = np.linalg.norm(vector.astype(np.float64))
    scaled: Vector = (vector / length if length > 0 else vector).astype(np.float32)
    return scaled
