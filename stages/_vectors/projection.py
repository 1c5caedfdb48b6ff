"""Projections of unit vectors whose products are upper bounds of the cosines.

A unit vector u is split into its part in the span of the first principal axes, p(u), and
the rest. Of the rest only the length r(u) is kept, as one more dimension. By Cauchy and
Schwarz <u, v> <= <p(u), p(v)> + r(u) r(v), which is the product of the two projections.
Where only cosines above some floor matter, most pairs are excluded by the bound at a part
of the cost, and the others are computed from the vectors themselves.

How many axes pay off is measured on a sample. It changes the time alone, never the result:
a bound excludes nothing that the cosine would not.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stages._vectors.arrays import product_tolerance, to_host

_MIN_ROWS: Final = 8
"""Rows for each dimension below which finding the axes costs more than they save."""

_SAMPLE: Final = 2048
_QUERIES: Final = 64
"""Rows of the sample for which it is counted how many others a bound leaves."""

_WIDTHS: Final = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8)
"""Numbers of axes that are tried, as fractions of the dimensions."""

_EXACT_COST: Final = 200.0
"""A cosine computed from the vectors themselves costs as much as so many products of their
dimensions in one large matrix product, where memory is read in order."""


class Projection(NamedTuple):
    """A projection of unit vectors, or the identity.

    Attributes:
        basis: The axes, float32 of shape (dimensions, axes) on the vectors' device; None to
            keep the vectors as they are.
        tolerance: More than the product of two projections can lie below the cosine.
    """

    basis: Any | None
    tolerance: float

    def transform(self, units: Any) -> Any:
        """Project float32 unit vectors: shape (rows, axes + 1); NaN stays NaN."""
        if self.basis is None:
            return units
        xp = array_namespace(units)
        inside = units @ self.basis
        rest = 1 - xp.sum(inside * inside, axis=1)
        rest = xp.sqrt(xp.maximum(rest, xp.zeros_like(rest)) + self.tolerance)
        return xp.concat([inside, rest[:, None]], axis=1)


def fit_projection(sample: Any, n_rows: int, min_similarity: float) -> Projection:
    """Choose the projection with which the nearest rows are found fastest.

    Args:
        sample: Some of the rows, unit vectors in float32, evenly drawn (`sample_positions`).
        n_rows: How many rows there are.
        min_similarity: Only cosines of at least this are searched for.

    Example:
        >>> units = np.eye(3, dtype=np.float32)
        >>> fit_projection(units, 3, 0.5).basis is None  # too few rows
        True
    """
    dimensions = sample.shape[1]
    tolerance = product_tolerance(dimensions)
    if n_rows < _MIN_ROWS * dimensions or not len(sample):
        return Projection(None, tolerance)
    units = to_host(sample)
    axes = np.linalg.eigh((units.T @ units).astype(np.float64))[1][:, ::-1].astype(np.float32)
    width = _best_width(units, axes, min_similarity)
    if width is None:
        return Projection(None, tolerance)
    xp = array_namespace(sample)
    basis = np.ascontiguousarray(axes[:, :width])
    return Projection(xp.asarray(basis, device=device(sample)), 4 * tolerance)


def sample_positions(n_rows: int) -> NDArray[np.int64]:
    """Positions of an even sample of the rows: ascending, at most `_SAMPLE`."""
    return _evenly(n_rows, _SAMPLE)


def _evenly(n_rows: int, limit: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, limit)).astype(np.int64))


def _best_width(
    units: NDArray[np.float32], axes: NDArray[np.float32], min_similarity: float
) -> int | None:
    """The number of axes with which the search costs least; None if all dimensions do."""
    queries = _evenly(len(units), _QUERIES)
    cosines = units[queries] @ units.T
    itself = (np.arange(len(queries)), queries)
    cosines[itself] = -np.inf
    floor = np.maximum(cosines.max(axis=1), min_similarity)[:, None]
    rotated = units @ axes
    costs: dict[int | None, float] = {None: float(units.shape[1])}
    for fraction in _WIDTHS:
        width = max(1, int(fraction * units.shape[1]))
        inside, rest = rotated[:, :width], np.sqrt((rotated[:, width:] ** 2).sum(axis=1))
        bound = inside[queries] @ inside.T + rest[queries, None] * rest
        bound[itself] = -np.inf
        remaining = float((bound >= floor).mean())
        costs[width] = width + 1 + remaining * _EXACT_COST * units.shape[1]
    return min(costs, key=lambda width: costs[width])
