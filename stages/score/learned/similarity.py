"""How like a row is to the known hard rows: the second part of IterSelectTune's score.

IterSelectTune: IterSelectTune: An Iterative Training Framework for Efficient Instruction-Tuning
Data Selection (Song et al. 2024, arXiv:2410.13464).

As in the paper: a binary classifier learns from a strong model's verdicts which rows the base model
answers worse than the row does, and the final score weighs its probability with the likeness to
the rows that are known to be hard; each round judges the rows that score best, and trains anew.

Ours: the likeness is the largest cosine with a hard training row; the classifier is linear over
vectors of any embedder, where the paper fine-tunes BERT; the weights of the sum are the recipe's.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from stages._vectors.arrays import PRODUCTS, parallel_map
from stages.score.learned.labels import Floats


def nearest_positive(features: Floats, positive: Floats) -> pl.Series:
    """The largest cosine of each row with one of the positive rows.

    Args:
        features: Shape (rows, features), NaN where one is missing.
        positive: Shape (positive rows, features).

    Returns:
        Null for a row that lacks a feature, and for one of zeros, which is like nothing.

    Example:
        >>> rows = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        >>> nearest_positive(rows, np.array([[1.0, 0.0]])).round(3).to_list()
        [1.0, 0.707, None]
    """
    unit, known = _unit(features), _unit(positive)
    known = known[~np.isnan(known).any(axis=1)]
    if not len(known):
        return pl.Series([None] * len(features), dtype=pl.Float64)
    with parallel_map() as map_blocks:
        size = max(1, PRODUCTS // len(known))
        parts = map_blocks(lambda part: (unit[part] @ known.T).max(axis=1), len(unit), size)
    return pl.Series(np.concatenate([*parts, np.zeros(0)]), dtype=pl.Float64).fill_nan(None)


def _unit(vectors: Floats) -> Floats:
    """Vectors of length 1, NaN in place of zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Floats = np.divide(
        vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0
    )
    return result
