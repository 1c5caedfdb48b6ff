"""The nearest other rows on another edge, exactly, for a part of the rows at a time."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from pipeline.errors import UserError
from stages._vectors.arrays import as_matrix
from stages.score.one_shot.exchanges import Exchange

DECIMALS: Final = 9
"""To so many a cosine is rounded, so that it does not depend on how many rows are compared."""


def nearest(
    rows: pl.DataFrame,
    anchors: pl.DataFrame,
    vector: str,
    shown: list[Exchange | None],
    asked: list[Exchange | None],
    count: int | None,
) -> list[list[int]]:
    """For each row the anchors of the largest cosine, largest first, of equal ones by id.

    Args:
        rows: Rows with vectors.
        anchors: Anchors with vectors, in the order of their ids.
        vector: The column of vectors.
        shown: What the rows say; one that says nothing has no neighbor.
        asked: What the anchors say; one that says nothing, or the same as the row, is none.
        count: How many; None for all.

    Raises:
        UserError: The vectors are not of one length.
    """
    left, right = (_units(edge, vector) for edge in (rows, anchors))
    if len(left) and len(right) and left.shape[1] != right.shape[1]:
        raise UserError(
            f"the vectors in {vector!r} must have one length on both edges, "
            f"got {left.shape[1]} and {right.shape[1]}",
            hint="use the vectors of one embedder for rows and anchors",
        )
    texts = np.array([None if anchor is None else anchor.text for anchor in asked], dtype=object)
    empty = np.array([anchor is None for anchor in asked], dtype=bool)
    result: list[list[int]] = []
    for unit, row in zip(left, shown, strict=True):
        if row is None or not len(right):
            result.append([])
            continue
        cosines = np.round(right @ unit, DECIMALS)
        cosines[empty | (texts == row.text)] = -np.inf
        order = np.argsort(-cosines, kind="stable")[:count]
        result.append([int(i) for i in order if cosines[i] > -np.inf])
    return result


def _units(rows: pl.DataFrame, vector: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    values = as_matrix(rows[vector]).astype(np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)
