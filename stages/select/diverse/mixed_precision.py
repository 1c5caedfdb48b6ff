"""Vectors that are compared twice: fast in float32 within bounds, and exactly in float64.

The bounds show which rows or pairs can matter, whatever the blocks in which they were
computed. The values that decide are computed in float64 from the vectors as they came, and
rounded to 12 decimals, so that equal ones are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from stages._vectors.arrays import Matrix, ParallelMap, product_tolerance, to_device, to_host

Metric = Literal["cosine", "euclidean"]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

ROUNDINGS: Final = 8
"""Terms that a bound counts for the roundings beside those of the product itself: of an error
that is added to or taken from it, and of differences of vectors."""

CELLS: Final = 1 << 20
"""Products of a block: 4 MiB, which stay in a processor's cache."""

_VALUES: Final = 1 << 17
"""Values that are held in float64 at once: 1 MiB, which comes from the same memory again and
again. For more the system hands out new pages each time, which costs more than the work."""


class Float32View(NamedTuple):
    """Vectors in float32 for products, on their device.

    Attributes:
        values: Shape (rows, dimensions).
        squares: Their squared lengths, shape (rows,), where the similarity is minus the
            Euclidean distance; None where it is the product.
        error: More than a similarity, or a squared distance, can be off.
    """

    values: Any
    squares: Any
    error: float

    def take(self, rows: slice | Positions) -> Float32View:
        """Some of the rows."""
        index: Any = rows
        if not isinstance(rows, slice):
            index = array_namespace(self.values).asarray(rows, device=self.values.device)
        squares = None if self.squares is None else self.squares[index]
        return Float32View(self.values[index], squares, self.error)

    def bounds(self, others: Float32View, sign: int) -> Any:
        """Bounds of the similarities with other rows, float32 of shape (rows, others).

        Args:
            others: The other rows.
            sign: 1 for upper bounds, -1 for lower bounds.
        """
        products = self.values @ others.values.T
        if self.squares is None:
            products += sign * self.error
            return products
        xp = array_namespace(products)
        squared = self.squares[:, None] + others.squares - 2 * products
        bounds = -xp.sqrt(xp.clip(squared - sign * self.error, 0, None))
        bounds *= 1 - sign * 2.0**-22  # the root is rounded, too
        return bounds

    def candidates(self, others: Float32View) -> Any:
        """Which of the others may be a row's most similar: a mask of shape (rows, others)."""
        products = self.values @ others.values.T
        xp = array_namespace(products)
        if self.squares is None:
            return products >= xp.max(products, axis=1)[:, None] - 2 * self.error
        squared = others.squares - 2 * products
        return squared <= xp.min(squared, axis=1)[:, None] + 2 * self.error


class VectorSet(NamedTuple):
    """Vectors that can be compared.

    Attributes:
        exact: The vectors as they came, on their device, shape (rows, dimensions), from which
            float64 values are computed.
        norms: Their lengths, shape (rows,), or None under the Euclidean distance.
        float32: What is multiplied: vectors of length 1, or moved to have mean 0.
        parallel_map: Maps a function over blocks of rows on all cores, from
            `stages._vectors.arrays.parallel_map`.
    """

    exact: Any
    norms: Floats | None
    float32: Float32View
    parallel_map: ParallelMap

    @classmethod
    def of(cls, parallel_map: ParallelMap, vectors: Matrix, metric: Metric) -> VectorSet:
        """A set of vectors of any length, zero too; they go to the GPU if there is one.

        Args:
            parallel_map: From `stages._vectors.arrays.parallel_map`.
            vectors: Shape (rows, dimensions).
            metric: What a similarity is: the cosine, or minus the Euclidean distance.

        Example:
            >>> from stages._vectors.arrays import parallel_map
            >>> with parallel_map() as each:
            ...     vectors = VectorSet.of(each, np.array([[1, 0], [1, 1]], np.float32), "cosine")
            ...     vectors.similarity(np.array([0]), np.array([1])).round(4).tolist()
            [0.7071]
        """
        if metric == "euclidean":
            return cls.euclidean(parallel_map, to_device(vectors))
        return cls.cosine(parallel_map, to_device(_with_zero_axis(vectors)))

    @classmethod
    def cosine(cls, parallel_map: ParallelMap, vectors: Any) -> VectorSet:
        """A set of vectors on their device, none of them zero."""
        xp = array_namespace(vectors)
        norms, units = np.zeros(len(vectors)), xp.empty_like(vectors)

        def prepare(rows: slice) -> None:
            part = xp.astype(vectors[rows], xp.float64)
            lengths = xp.sqrt(xp.linalg.vecdot(part, part))
            norms[rows] = to_host(lengths)
            part /= lengths[:, None]
            units[rows] = xp.astype(part, xp.float32)

        parallel_map(prepare, len(vectors), _step(vectors))
        # Half of it is enough: the lengths here are 1 but for the rounding to float32.
        error = product_tolerance(vectors.shape[1] + ROUNDINGS) / 2
        return cls(vectors, norms, Float32View(units, None, error), parallel_map)

    @classmethod
    def euclidean(cls, parallel_map: ParallelMap, vectors: Any) -> VectorSet:
        """A set of vectors on their device, under the Euclidean distance."""
        xp = array_namespace(vectors)
        moved = vectors - xp.mean(vectors, axis=0) if len(vectors) else vectors
        squares = xp.sum(moved * moved, axis=1)
        largest = float(xp.max(squares)) if len(vectors) else 0.0
        # Three terms, each a sum of so many products and at most this large or twice so.
        error = 2 * product_tolerance(vectors.shape[1] + ROUNDINGS) * largest
        return cls(vectors, None, Float32View(moved, squares, error), parallel_map)

    def similarity(self, left: Positions, right: Positions) -> Floats:
        """The similarities that decide, of pairs of rows; `left` may be a single row."""
        return np.round(self.unrounded(left, right), 12)

    def unrounded(self, left: Positions, right: Positions) -> Floats:
        """The same for sums, which are rounded as a whole."""
        values = np.empty(len(right))
        for part in blocks(len(right), self.exact.shape[1], _VALUES):
            a, b = self._doubles(left if len(left) == 1 else left[part]), self._doubles(right[part])
            xp = array_namespace(a)
            if self.norms is None:
                values[part] = -to_host(xp.linalg.vector_norm(a - b, axis=1))
            else:
                values[part] = to_host(xp.linalg.vecdot(a, b))
        if self.norms is not None:
            values /= self.norms[left] * self.norms[right]
        return values

    def total(self, rows: Positions, weights: Floats | None = None) -> Floats:
        """The sum of the rows' unit vectors, each times its weight: shape (dimensions,)."""

        def summed(part: slice) -> Any:
            units = self._units(rows[part])
            return units.sum(axis=0) if weights is None else weights[part] @ units

        return sum(self._blockwise(summed, rows), np.zeros(self.exact.shape[1]))

    def times(self, rows: Positions, vector: Floats) -> Floats:
        """The products of the rows' unit vectors with a vector, shape (rows,)."""
        assert self.norms is not None

        def product(part: slice) -> Any:
            return np.einsum("ij,j->i", to_host(self._doubles(rows[part])), vector)

        return np.concatenate([[], *self._blockwise(product, rows)]) / self.norms[rows]

    def energy(self, rows: Positions, others: Positions) -> Floats:
        """The sum of the squares of each row's cosines with the others, without pairs."""

        def squared(part: slice) -> Any:
            units = self._units(others[part])
            return units.T @ units

        def product(part: slice) -> Any:
            units = self._units(rows[part])
            return np.einsum("ij,ij->i", units @ squares, units)

        squares = sum(self._blockwise(squared, others), np.zeros((self.exact.shape[1],) * 2))
        return np.concatenate([[], *self._blockwise(product, rows)])

    def centrality(self, rows: Positions) -> Floats:
        """The similarity of each row to the mean of the rows, shape (rows,).

        Minus the Euclidean distance, or the product of the unit vector with the sum of all.
        """
        if self.norms is not None:
            return self.times(rows, self.total(rows))

        def summed(part: slice) -> Any:
            return to_host(self._doubles(rows[part])).sum(axis=0) / len(rows)

        def distance(part: slice) -> Any:
            return -np.linalg.norm(to_host(self._doubles(rows[part])) - mean, axis=1)

        mean = sum(self._blockwise(summed, rows), np.zeros(self.exact.shape[1]))
        return np.concatenate([[], *self._blockwise(distance, rows)])

    def nearest(
        self, rows: Positions, others: Positions, view: Float32View | None = None
    ) -> tuple[Positions, Floats]:
        """The most similar of some others for each row.

        Args:
            rows: Positions of the rows.
            others: Positions of the others, at least one.
            view: `float32.take(others)`, where the caller has it.

        Returns:
            Indices into `others`, the first of equal ones, and similarities; both of shape
            (rows,).
        """
        targets = view or self.float32.take(others)

        def search(part: slice) -> tuple[Positions, Floats]:
            index = rows[part]
            mask = self.float32.take(index).candidates(targets)
            xp = array_namespace(mask)
            flat = to_host(xp.nonzero(xp.reshape(mask, (-1,)))[0])  # faster than in two dimensions
            row, other = np.divmod(flat, len(others))
            value = self.similarity(index[row], others[other])
            if len(row) > len(index):
                order = np.lexsort((other, -value, row))
                first = order[np.unique(row[order], return_index=True)[1]]
                other, value = other[first], value[first]
            return other, value

        width = max(len(others), self.exact.shape[1])
        parts = self.parallel_map(search, len(rows), max(1, _VALUES // width))
        indices = np.concatenate([np.zeros(0, np.int64), *(index for index, _ in parts)])
        return indices, np.concatenate([[], *(value for _, value in parts)])

    def _blockwise(self, function: Callable[[slice], Any], rows: Positions) -> list[Floats]:
        return self.parallel_map(function, len(rows), _step(self.exact))

    def _units(self, rows: Positions) -> Floats:
        assert self.norms is not None
        return to_host(self._doubles(rows)) / self.norms[rows, None]

    def _doubles(self, rows: Positions) -> Any:
        xp = array_namespace(self.exact)
        return xp.astype(self.exact[xp.asarray(rows, device=self.exact.device)], xp.float64)


class ExcessBounds(NamedTuple):
    """Upper bounds of the sum of what a row's cosines exceed other rows' floors by.

    They need no pairs: a sum of max(x, 0) is half the sum of x and of |x|, and the latter is
    at most the root of their number times the sum of the squares of x (Cauchy and Schwarz).
    With x a cosine less a floor, both are products of the row with sums over the others.

    Attributes:
        others: The rows with a floor each.
        sums: The sum of each row's cosines with them.
        squares: The sum of the squares of these cosines.
    """

    others: Positions
    sums: Floats
    squares: Floats

    @classmethod
    def of(cls, vectors: VectorSet, count: int, others: slice) -> ExcessBounds:
        """For the first `count` of the vectors.

        Args:
            vectors: All vectors.
            count: How many of them, from the first, may be picked.
            others: The rows with a floor each.
        """
        rows, fixed = np.arange(count), np.arange(others.start, others.stop)
        sums = vectors.times(rows, vectors.total(fixed))
        return cls(fixed, sums, vectors.energy(rows, fixed))

    def upper_bounds(self, vectors: VectorSet, floors: Floats) -> Floats:
        """No less than each row's sum of max(cosine - floor, 0), shape (rows,)."""
        rows = np.arange(len(self.sums))
        mixed = vectors.times(rows, vectors.total(self.others, floors))
        sums = self.sums - floors.sum()
        sizes = self.squares - 2 * mixed + floors @ floors
        sizes = np.sqrt(len(floors) * np.maximum(sizes, 0))
        bound: Floats = (sums + sizes) / 2 + 1e-9 * (np.abs(sums) + sizes)
        return bound


def _with_zero_axis(vectors: Matrix) -> Matrix:
    """The vectors, with one more dimension for those of zeros, if there are any.

    So under the cosine these equal one another and have similarity 0 with all else.
    """
    zero = ~np.any(vectors, axis=1)
    if not zero.any():
        return vectors
    return np.concatenate([vectors, zero[:, None].astype(np.float32)], axis=1)


def _step(vectors: Any) -> int:
    """So many rows are in float64 at once."""
    return max(1, _VALUES // max(1, int(vectors.shape[1])))


def blocks(rows: int, width: int, values: int) -> list[slice]:
    """Slices that divide rows into blocks.

    Args:
        rows: The number of rows.
        width: Values of a row.
        values: The most values of a block.
    """
    step = max(1, values // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
