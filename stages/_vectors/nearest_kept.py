"""The most similar row kept before each row, for a set of kept rows that grows.

What `stages._vectors.greedy_dedup` is built on; its docstring says why the result is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stages._vectors.arrays import ParallelMap, parallel_map, product_tolerance, to_host
from stages._vectors.projection import Projection, fit_projection, sample_positions

Positions = NDArray[np.int64]
Similarities = NDArray[np.float64]

_BLOCK = 256
"""Rows whose norms or projections are computed at a time."""

_PART = 128
"""Rows of a block that a thread compares at a time, at least."""

_PRODUCTS_PER_THREAD = 1 << 20
"""Products that are worth a thread's start, about a millisecond of work."""

_TILE = 4096
"""Kept rows that a block is multiplied with at a time: 2 MiB of products."""

_VALUES = 1 << 17
"""Values of pairs of rows that are held in float64 at once: 1 MiB a side."""


class _Tile(NamedTuple):
    """Kept rows: their positions, ascending, and their projections."""

    columns: Positions
    bounds: Any


@dataclass
class NearestKept:
    """The nearest kept row of each row, as far as it is known.

    Attributes:
        vectors: Of any norm, on their device.
        norms: Float64, on the host.
        min_similarity: No cosine below it matters.
        tolerance: Error bound of a float32 product of unit vectors.
        nearest: As in `DedupResult`.
        similarity: As in `DedupResult`.
        projection: With which kept rows are compared.
        tiles: The kept rows but zero vectors.
    """

    vectors: Any
    norms: NDArray[np.float64]
    min_similarity: float
    tolerance: float
    nearest: Positions
    similarity: Similarities
    projection: Projection
    tiles: list[_Tile] = field(default_factory=list)

    @classmethod
    def over(cls, vectors: Any, min_similarity: float) -> NearestKept:
        """A search in which no row is kept yet, without a projection."""
        xp, count = array_namespace(vectors), len(vectors)
        norms = [
            to_host(xp.linalg.vector_norm(xp.astype(vectors[i : i + _BLOCK], xp.float64), axis=1))
            for i in range(0, count, _BLOCK)
        ]
        tolerance = product_tolerance(vectors.shape[1])
        return cls(
            vectors,
            np.concatenate([np.zeros(0), *norms]),
            min_similarity,
            tolerance,
            np.full(count, -1),
            np.full(count, np.nan),
            Projection(None, tolerance),
        )

    def fit_projection(self) -> None:
        """Choose a projection for the rows' directions."""
        nonzero = np.flatnonzero(self.norms > 0)
        sample = self.units(nonzero[sample_positions(len(nonzero))])
        self.projection = fit_projection(sample, len(nonzero), self.min_similarity)

    def wide(self, rows: Positions) -> Any:
        """Some of the vectors, in float64."""
        xp = array_namespace(self.vectors)
        index = xp.asarray(rows, device=device(self.vectors))
        return xp.astype(xp.take(self.vectors, index, axis=0), xp.float64)

    def units(self, rows: Positions) -> Any:
        """Unit vectors in float32; NaN for a zero vector, because no comparison with NaN holds."""
        xp = array_namespace(self.vectors)
        norms = np.where(self.norms[rows] > 0, self.norms[rows], np.nan)[:, None]
        units = self.wide(rows) / xp.asarray(norms, device=device(self.vectors))
        return xp.astype(units, xp.float32)

    def keep(self, rows: Positions, bounds: Any) -> None:
        """Add kept rows to the last tile, or to a new one. Zero vectors stay out."""
        xp = array_namespace(bounds)
        nonzero = np.flatnonzero(self.norms[rows] > 0)
        rows, bounds = rows[nonzero], bounds[nonzero]
        if self.tiles and len(self.tiles[-1].columns) + len(rows) <= _TILE:
            last = self.tiles.pop()
            rows, bounds = np.concatenate([last.columns, rows]), xp.concat([last.bounds, bounds])
        if len(rows):
            self.tiles.append(_Tile(rows, bounds))

    def keep_all(self, rows: Positions) -> None:
        """Add rows that count as kept without being judged."""
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            self.keep(part, self.projection.transform(self.units(part)))

    def compare(self, map_blocks: ParallelMap, rows: Positions) -> tuple[Any, Any]:
        """Find the nearest kept row before each row of a block, on all cores.

        Returns:
            The rows' unit vectors and projections.
        """

        def compare_part(part: slice) -> tuple[Any, Any]:
            later = rows[part]
            units = self.units(later)
            bounds = self.projection.transform(units)
            for columns, others in self.tiles:
                products = bounds @ others.T
                if columns[-1] >= later[0]:
                    xp = array_namespace(products)
                    late = xp.asarray(columns >= later[:, None], device=device(products))
                    products = xp.where(late, -xp.inf, products)
                self.improve(later, columns, products, self.projection.tolerance)
            return units, bounds

        products = len(rows) * sum(len(tile.columns) for tile in self.tiles)
        count = max(1, min(len(rows) // _PART, products // _PRODUCTS_PER_THREAD))
        parts = map_blocks(compare_part, len(rows), -(-len(rows) // count))
        xp = array_namespace(parts[0][0])
        return xp.concat([units for units, _ in parts]), xp.concat([bounds for _, bounds in parts])

    def improve(self, rows: Positions, columns: Positions, products: Any, tolerance: float) -> None:
        """Record the nearest column of each row to which one is nearer than any before.

        Args:
            rows: Positions of the rows.
            columns: Positions of kept rows.
            products: Float32 bounds of the cosines, shape (rows, columns).
            tolerance: How far a product may lie below the cosine.

        The column of the largest bound is tried first; then all whose bound reaches the best
        cosine that is known.
        """
        if not len(columns):
            return
        xp = array_namespace(products)
        first = xp.argmax(products, axis=1)
        largest = to_host(xp.take_along_axis(products, first[:, None], axis=1))[:, 0]
        largest = largest.astype(np.float64)
        promising = (largest >= self._best(rows) - tolerance) & np.isfinite(largest)
        candidates = np.flatnonzero(promising)
        if not len(candidates):
            return
        self._record(rows[candidates], columns[to_host(first)[candidates]])
        # Of equals the first column counts, so a bound that only reaches the best is tried, too.
        floor = np.full(len(rows), np.inf, np.float32)
        floor[candidates] = (self._best(rows[candidates]) - tolerance).astype(np.float32)
        floor = np.nextafter(floor, np.float32(-np.inf))
        close = products >= xp.asarray(floor, device=device(products))[:, None]
        flat = to_host(xp.nonzero(xp.reshape(close, (-1,)))[0])  # faster than in two dimensions
        row, column = np.divmod(flat, len(columns))
        self._record(rows[row], columns[column])

    def _best(self, rows: Positions) -> Similarities:
        """The cosine that a nearer row would have to reach."""
        return np.fmax(self.similarity[rows], self.min_similarity)

    def _record(self, rows: Positions, columns: Positions) -> None:
        """Record the nearest of the columns for each row, where it is nearer than before."""
        value = self.cosines(rows, columns)
        order = np.lexsort((columns, -value, rows))
        rows, first = np.unique(rows[order], return_index=True)
        value, columns = value[order][first], columns[order][first]
        before, best = self.nearest[rows], self.similarity[rows]
        nearer = (value > best) | ((value == best) & (columns < before)) | (before < 0)
        nearer &= value >= self.min_similarity
        self.nearest[rows[nearer]] = columns[nearer]
        self.similarity[rows[nearer]] = value[nearer]

    def cosines(self, left: Positions, right: Positions) -> Similarities:
        """The cosines that decide, of pairs of rows."""
        xp = array_namespace(self.vectors)
        products = np.empty(len(left))
        step = max(1, _VALUES // max(1, self.vectors.shape[1]))
        for start in range(0, len(left), step):
            a, b = (self.wide(side[start : start + step]) for side in (left, right))
            products[start : start + step] = to_host(xp.linalg.vecdot(a, b))
        return np.round(products / (self.norms[left] * self.norms[right]), 12)


def nearest_before(
    vectors: Any, rows: Positions, columns: Positions
) -> tuple[Positions, Similarities]:
    """For each of some rows the most similar of some columns before it, of equals the first.

    Args:
        vectors: As for `greedy_dedup`.
        rows: Positions in `vectors`, ascending.
        columns: Positions in `vectors`, ascending.

    Returns:
        For each row the column's position and the cosine: -1 and NaN where there is none.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], np.float32)
        >>> position, cosine = nearest_before(vectors, np.array([2]), np.array([0, 1]))
        >>> int(position[0]), round(float(cosine[0]), 6)
        (0, 0.8)
    """
    search = NearestKept.over(vectors, -np.inf)
    search.keep_all(columns)
    with parallel_map() as map_blocks:
        for start in range(0, len(rows), _BLOCK):
            search.compare(map_blocks, rows[start : start + _BLOCK])
    return search.nearest[rows], search.similarity[rows]
