"""Among which rows a greedy search looks for its next pick."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._common.splitmix64 import mix64
from stages._selection.random_draws import uniform
from stages.select.diverse.lazy_greedy import DECIMALS, Draw
from stages.select.diverse.mixed_precision import Floats, Positions


def first_only(preferences: Floats, draw: Draw) -> Draw:
    """Draw as `draw` does, but for the first pick only the row with the largest preference."""
    rounded = np.round(preferences, DECIMALS)

    def drawn(num_picked: int, open_rows: NDArray[np.bool_]) -> Positions | None:
        if num_picked:
            return draw(num_picked, open_rows)
        rows = np.flatnonzero(open_rows)
        return rows[[np.argmax(rounded[rows])]]

    return drawn


def sampled(ids: pl.Series, seed: int, num_picks: float, epsilon: float) -> Draw:
    """For each pick another random part of the rows.

    Whether a row is in it depends on seed, id and the number of the pick, and on the other
    rows only through their number. Mirzasoleiman et al. 2015, arXiv:1409.7938.

    Args:
        ids: The ids of the rows.
        seed: Another seed gives other parts.
        num_picks: How many rows will be picked.
        epsilon: The part has len(ids) / num_picks * ln(1 / epsilon) rows.
    """
    picks = max(1.0, min(num_picks, len(ids)))
    size = math.ceil(len(ids) / picks * math.log(1 / epsilon))
    keys = (uniform(ids, f"select.diverse:{seed}") * 2.0**53).astype(np.uint64)

    def drawn(num_picked: int, open_rows: NDArray[np.bool_]) -> Positions:
        rows = np.flatnonzero(open_rows)
        if size >= len(rows):
            return rows
        step = np.uint64((num_picked + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = mix64(keys[rows] + step)
        return np.sort(rows[np.argpartition(mixed, size)[:size]])

    return drawn
