"""The nearest other rows on another edge, exactly, for a part of the rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import as_matrix
from stages.score.one_shot.exchanges import Exchange

DECIMALS: Final = 9
"""To so many a cosine is rounded, so that it does not depend on how many rows are compared."""


class Fits(NamedTuple):
    """How long rows and anchors are where one stands before the other.

    Attributes:
        room: What each row leaves of the limit, in tokens.
        sizes: The tokens of each anchor.
    """

    room: NDArray[np.int64]
    sizes: NDArray[np.int64]


def fits(
    shown: Sequence[Exchange | None],
    asked: Sequence[Exchange | None],
    limit: int,
    *,
    anchors_demonstrate: bool,
) -> Fits:
    """Which anchors fit behind rows, or before them, within a limit.

    Args:
        shown: What the rows say.
        asked: What the anchors say.
        limit: Tokens of a demonstration and a query together.
        anchors_demonstrate: Whether anchors are the demonstrations.
    """

    def sizes(exchanges: Sequence[Exchange | None], *, demonstrate: bool) -> NDArray[np.int64]:
        parts = [
            () if e is None else e.demonstration if demonstrate else e.query for e in exchanges
        ]
        return np.array([len(part) for part in parts], np.int64)

    rows = sizes(shown, demonstrate=not anchors_demonstrate)
    return Fits(limit - rows, sizes(asked, demonstrate=anchors_demonstrate))


def nearest(
    rows: pl.DataFrame,
    anchors: pl.DataFrame,
    vector: str,
    shown: list[Exchange | None],
    asked: list[Exchange | None],
    count: int | None,
    fits: Fits,
) -> list[list[int]]:
    """For each row the anchors of the largest cosine that fit, largest first, of equal ones by id.

    Args:
        rows: Rows with vectors.
        anchors: Anchors with vectors, in the order of their ids.
        vector: The column of vectors.
        shown: What the rows say; one that says nothing has no neighbor.
        asked: What the anchors say; one that says nothing, or the same as the row, is none.
        count: How many; None for all.
        fits: Which anchors are short enough for a row.

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
    for i, (unit, row) in enumerate(zip(left, shown, strict=True)):
        if row is None or not len(right):
            result.append([])
            continue
        cosines = np.round(right @ unit, DECIMALS)
        cosines[empty | (texts == row.text) | (fits.sizes > fits.room[i])] = -np.inf
        order = np.argsort(-cosines, kind="stable")[:count]
        result.append([int(i) for i in order if cosines[i] > -np.inf])
    return result


def _units(rows: pl.DataFrame, vector: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    values = as_matrix(rows[vector]).astype(np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)
