"""Ragged lists of pairs, for kernels that keep few of all pairs (`stages._facility`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._ragged import offsets_of, ranges

Positions = NDArray[np.int64]


class Piece(NamedTuple):
    """Some pairs of each of several rows, one row's after the other's.

    lengths: how many pairs each row has. others, values: of the pairs.
    """

    lengths: Positions
    others: NDArray[Any]
    values: NDArray[np.float32]


class Pairs:
    """For each row the represented rows that it would cover better, and how well at most.

    The lists of all rows lie one after the other in two long arrays.
    """

    def __init__(
        self, parts: list[list[Piece]], each: Callable[[Callable[[slice], None], int, int], object]
    ) -> None:
        """parts: for each block of rows, in their order, the pieces that make up its lists.

        They are taken out of `parts`, so that not all is there twice. each: from
        `stages._vectors.threads`.
        """
        lengths = [np.stack([piece.lengths for piece in part]) for part in parts]
        self.length = np.concatenate([whole.sum(axis=0) for whole in lengths])
        ends = offsets_of(self.length)
        # Numbers of half the size take half the time, where they suffice.
        self._kind = np.int32 if ends[-1] < 1 << 31 else np.int64
        self._start = ends[:-1]
        self._others = np.empty(ends[-1], parts[0][0].others.dtype)
        self._values = np.empty(ends[-1], np.float32)
        borders = ends[offsets_of(np.array([whole.shape[1] for whole in lengths]))]

        def join(one: slice) -> None:
            part, wide = parts[one.start], lengths[one.start]
            parts[one.start] = []
            span = slice(borders[one.start], borders[one.start + 1])
            # Row by row its run in each piece, which lie piece by piece.
            starts = offsets_of(wide.sum(axis=1))[:-1, None] + np.cumsum(wide, axis=1) - wide
            places = ranges(starts.T.ravel(), wide.T.ravel(), self._kind)
            # With "clip" the values go where they belong at once; no place is out of bounds.
            for whole, pieces in (
                (self._others, [piece.others for piece in part]),
                (self._values, [piece.values for piece in part]),
            ):
                np.concatenate(pieces).take(places, out=whole[span], mode="clip")

        each(join, len(parts), 1)

    def get(self, rows: Positions) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """The pairs of some rows, one row's after the other's."""
        places = ranges(self._start[rows], self.length[rows], self._kind)
        return self._others.take(places), self._values.take(places)

    def keep(
        self,
        rows: Positions,
        alive: NDArray[np.bool_],
        others: NDArray[Any],
        values: NDArray[np.float32],
    ) -> None:
        """Of the pairs of some rows, as `get` gave them, keep those that are alive."""
        self.length[rows] = sums_of(alive.astype(np.int64), self.length[rows])
        kept = np.flatnonzero(alive)
        places = ranges(self._start[rows], self.length[rows])
        self._others[places], self._values[places] = others.take(kept), values.take(kept)


def sums_of(values: NDArray[Any], lengths: Positions) -> NDArray[np.float64]:
    """The sums of runs of so many values each; in the type of the values, pairwise."""
    sums = np.zeros(len(lengths))
    if len(values):
        starts = np.cumsum(lengths) - lengths
        sums[lengths > 0] = np.add.reduceat(values, starts[lengths > 0])
    return sums
