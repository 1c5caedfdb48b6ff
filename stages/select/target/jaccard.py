"""Monosemantic activations' similarity of features (Ma et al. 2025, arXiv:2503.15573).

Features of a sparse autoencoder are 0 or more. Two rows are as similar as what they share, the
sum of the smaller of each feature's two values, over the sum of the larger ones: the generalized
Jaccard similarity. The target's prototype is the mean of its rows.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import option_group
from stages._vectors.arrays import Matrix

Floats = NDArray[np.float64]

_VALUES: Final = 1 << 22
"""Values that are held in float64 at once: 32 MiB."""


@option_group
class Jaccard:
    """The rows whose features are most like the mean of the target's.

    Attributes:
        vector: The column of vectors, on both edges; no value is below 0.
    """

    name: Literal["jaccard"] = "jaccard"
    vector: str = "vector"


def jaccard(rows: Matrix, targets: Matrix) -> Floats:
    """The generalized Jaccard similarity of each row with the mean of the targets.

    Args:
        rows: Shape (rows, features), 0 or more.
        targets: Shape (targets, features), 0 or more.

    Returns:
        Shape (rows,), rounded to 12 decimals; NaN for a row without features.

    Raises:
        UserError: A value is below 0, or the targets have no features.

    Example:
        >>> rows = np.array([[0.2, 0, 0.5, 0]], np.float32)
        >>> jaccard(rows, np.array([[0.1, 0.3, 0.5, 0]], np.float32)).round(6).tolist()
        [0.6]
    """
    least = min(float(rows.min(initial=0)), float(targets.min(initial=0)))
    if least < 0:
        raise UserError(
            f"jaccard must have vectors of 0 and more, got {least:g}",
            hint="take the features of embed.activations (pooling: features)",
        )
    prototype = targets.mean(axis=0, dtype=np.float64)
    if not prototype.any():
        raise UserError("the target must have features, got only zeros")
    similarities = np.empty(len(rows))
    size = max(1, _VALUES // len(prototype))
    for start in range(0, len(rows), size):
        part = rows[start : start + size].astype(np.float64)
        shared = np.minimum(part, prototype).sum(axis=1)
        similarities[start : start + size] = shared / np.maximum(part, prototype).sum(axis=1)
    similarities[~rows.any(axis=1)] = np.nan
    rounded: Floats = np.round(similarities, 12)
    return rounded
