"""Projections of unit vectors whose products are no less than the cosines, in fewer dimensions.

A unit vector u is split into its part in the span of the first principal axes, p(u), and
the rest. Of the rest only the length r(u) is kept, as one more dimension. By Cauchy and
Schwarz <u, v> <= <p(u), p(v)> + r(u) r(v), which is the product of what was kept. Where
only cosines above some floor matter, most pairs end here at a part of the cost, and the
others are taken from the vectors themselves.

How many axes pay is tried on a sample. It changes the time alone, never what is found:
a bound rules out nothing that is not ruled out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stages._vectors.arrays import to_host

_WORTH: Final = 8
"""So many rows for each dimension, or finding the axes costs more than they save."""

_SAMPLE: Final = 2048
_ASKED: Final = 64
"""Rows of the sample for which it is counted how many others a bound leaves."""

_SHARES: Final = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8)

_EXACT: Final = 200.0
"""A cosine taken from the vectors themselves costs as much as so many products of their
dimensions in one large matrix product, where memory is read in order."""


class Projection(NamedTuple):
    """basis: the axes, float32 of shape (dimensions, axes) on the vectors' device; None to
    keep the vectors as they are. slack: more than the product of two projections can lie
    below the cosine."""

    basis: Any | None
    slack: float

    def of(self, units: Any) -> Any:
        """Projections of unit vectors in float32: shape (rows, axes + 1); NaN stays NaN."""
        if self.basis is None:
            return units
        xp = array_namespace(units)
        inside = units @ self.basis
        rest = 1 - xp.sum(inside * inside, axis=1)
        rest = xp.sqrt(xp.maximum(rest, xp.zeros_like(rest)) + self.slack)
        return xp.concat([inside, rest[:, None]], axis=1)


def projection(units: Any, count: int, reach: float) -> Projection:
    """The projection that finds the nearest of rows fastest.

    units: a sample of the rows, unit vectors in float32, evenly drawn (see `sampled`).
    count: how many rows there are. reach: only cosines that reach it are looked for.
    """
    dimensions = units.shape[1]
    slack = (dimensions + 8) * 2.0**-23
    if count < _WORTH * dimensions or not len(units):
        return Projection(None, slack)
    sample = to_host(units)
    axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))[1][:, ::-1].astype(np.float32)
    width = _width(sample, axes, reach)
    if width is None:
        return Projection(None, slack)
    xp = array_namespace(units)
    basis = np.ascontiguousarray(axes[:, :width])
    return Projection(xp.asarray(basis, device=device(units)), 4 * slack)


def sampled(count: int) -> NDArray[np.int64]:
    """Positions of an even sample of so many rows."""
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))


def _width(sample: NDArray[np.float32], axes: NDArray[np.float32], reach: float) -> int | None:
    """How many axes make the search cheapest; None if all dimensions do."""
    asked = np.unique(np.linspace(0, len(sample) - 1, min(len(sample), _ASKED)).astype(np.int64))
    cosines = sample[asked] @ sample.T
    itself = (np.arange(len(asked)), asked)
    cosines[itself] = -np.inf
    floor = np.maximum(cosines.max(axis=1), reach)[:, None]
    turned = sample @ axes
    costs: dict[int | None, float] = {None: float(sample.shape[1])}
    for share in _SHARES:
        width = max(1, int(share * sample.shape[1]))
        inside, rest = turned[:, :width], np.sqrt((turned[:, width:] ** 2).sum(axis=1))
        bound = inside[asked] @ inside.T + rest[asked, None] * rest
        bound[itself] = -np.inf
        left = float((bound >= floor).mean())
        costs[width] = width + 1 + left * _EXACT * sample.shape[1]
    return min(costs, key=lambda width: costs[width])
