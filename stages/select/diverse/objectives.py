"""What `select.diverse` maximises, made from its options, and the rows it may pick from."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._selection.budget import uniform
from stages.select._submodular.facility_location import Cover, Coverage
from stages.select._submodular.greedy import DECIMALS, Draw, GraphCut, KCenter, Objective
from stages.select._submodular.mixed_precision import Floats, Points, Positions

Method = Literal[
    "threshold",
    "k_center",
    "facility_location",
    "graph_cut",
    "mutual_information",
    "conditional_gain",
]


class Parts(NamedTuple):
    """The positions of the rows to choose from, of those held and of the target."""

    rows: Positions
    held: Positions
    target: Positions


class Goal(NamedTuple):
    """The options of `select.diverse` that say what is maximised.

    quality: each row's score, larger for better, NaN where it is missing. weight: its
    share, 0 where there is none.
    """

    objective: Method
    quality: Floats
    weight: float
    penalty: float
    represent: Literal["rows", "target"]
    relevance: float

    def of(self, points: Points, parts: Parts) -> Objective:
        """The objective over these points."""
        if self.objective == "k_center":
            return KCenter(points, len(parts.rows), parts.held)
        if self.objective == "graph_cut":
            return GraphCut(points, len(parts.rows), parts.held, self.penalty)
        return Coverage(points, self._cover(points, parts))

    def _cover(self, points: Points, parts: Parts) -> Cover:
        scale, span, cap = 1 - self.weight, parts.rows, None
        extra = self.weight * np.nan_to_num(self.quality)
        if self.objective == "mutual_information":
            asked = points.nearest(parts.rows, parts.target)[1]
            asked = self.relevance * np.maximum(asked, 0)
            if self.represent == "target":
                span, extra = parts.target, extra + scale * asked
            else:
                cap = asked
        # How well nothing covers a row: with 0, or with the least that the distance can be.
        least = 0.0 if points.norms is not None else 2 * points.centrality(parts.rows).min()
        start = np.full(len(span), least)
        if len(parts.held):
            share = self.relevance if self.objective == "conditional_gain" else 1.0
            start = np.maximum(start, share * points.nearest(span, parts.held)[1])
        return Cover(slice(int(span[0]), int(span[-1]) + 1), start, cap, scale, extra)


def first_only(preferred: Floats, draw: Draw) -> Draw:
    """Draw as `draw` does, but for the first pick only the row that is preferred most."""
    rounded = np.round(preferred, DECIMALS)

    def drawn(picked: int, able: NDArray[np.bool_]) -> Positions | None:
        if picked:
            return draw(picked, able)
        rows = np.flatnonzero(able)
        return rows[[np.argmax(rounded[rows])]]

    return drawn


def sampled(ids: pl.Series, seed: int, picks: float, epsilon: float) -> Draw:
    """For each pick another random part of the rows, of len(ids) / picks * ln(1 / epsilon).

    Whether a row is in it depends on seed, id and the number of the pick, and on the
    other rows only through their number. Mirzasoleiman et al. 2015, arXiv:1409.7938.
    """
    size = math.ceil(len(ids) / max(1.0, min(picks, len(ids))) * math.log(1 / epsilon))
    keys = (uniform(ids, f"select.diverse:{seed}") * 2.0**53).astype(np.uint64)

    def drawn(picked: int, able: NDArray[np.bool_]) -> Positions:
        rows = np.flatnonzero(able)
        if size >= len(rows):
            return rows
        step = np.uint64((picked + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = _mix(keys[rows] + step)
        return np.sort(rows[np.argpartition(mixed, size)[:size]])

    return drawn


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every input bit over the whole word (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
