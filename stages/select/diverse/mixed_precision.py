"""Vectors that are compared twice: fast in float32 within bounds, and exactly in float64.

The bounds say which rows or pairs can matter, whatever the blocks in which they were
computed; the values that decide are taken in float64 from the vectors as they came, and
rounded to 12 decimals, so that equal ones are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from stages._vectors.arrays import Matrix, ParallelMap, to_device, to_host

Similarity = Literal["cosine", "euclidean"]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

CELLS: Final = 1 << 20
"""Products of a block: 4 MiB, which stay in a processor's cache."""

_VALUES: Final = 1 << 17
"""Values that are held in float64 at once: 1 MiB, which is taken from the same memory again
and again. For more the system hands out new pages each time, which costs more than the work."""


class Fast(NamedTuple):
    """Vectors in float32 for products, on their device, shape (rows, dimensions).

    squares: their squared lengths where the similarity is minus the Euclidean distance;
    None where it is the product. error: more than a similarity, or a squared distance,
    can be off.
    """

    values: Any
    squares: Any
    error: float

    def take(self, rows: slice | Positions) -> Fast:
        """Some of the rows."""
        index: Any = rows
        if not isinstance(rows, slice):
            index = array_namespace(self.values).asarray(rows, device=self.values.device)
        squares = None if self.squares is None else self.squares[index]
        return Fast(self.values[index], squares, self.error)

    def bounds(self, others: Fast, sign: int) -> Any:
        """Similarities with other rows, float32 of shape (rows, others), on the device.

        sign: 1 for values that the true ones do not exceed, -1 for values that they reach.
        """
        products = self.values @ others.values.T
        if self.squares is None:
            products += sign * self.error
            return products
        xp = array_namespace(products)
        squared = self.squares[:, None] + others.squares - 2 * products
        found = -xp.sqrt(xp.clip(squared - sign * self.error, 0, None))
        found *= 1 - sign * 2.0**-22  # the root is rounded, too
        return found

    def rivals(self, others: Fast) -> Any:
        """Which of the others may be a row's most similar: a mask of shape (rows, others)."""
        products = self.values @ others.values.T
        xp = array_namespace(products)
        if self.squares is None:
            return products >= xp.max(products, axis=1)[:, None] - 2 * self.error
        squared = others.squares - 2 * products
        return squared <= xp.min(squared, axis=1)[:, None] + 2 * self.error


class Points(NamedTuple):
    """Vectors that can be compared.

    exact: the vectors as they came, on their device, from which float64 values are taken.
    norms: their lengths, shape (rows,), or None under the Euclidean distance. fast: what
    is multiplied: vectors of length 1, or moved to have mean 0. each: the threads that
    what concerns many rows is shared out to, from `stages._vectors.arrays.threads`.
    """

    exact: Any
    norms: Floats | None
    fast: Fast
    each: ParallelMap

    @classmethod
    def of(cls, each: ParallelMap, vectors: Matrix, similarity: Similarity) -> Points:
        """Points from rows of any length, zero too; they go to the GPU if there is one."""
        if similarity == "euclidean":
            return cls.euclidean(each, to_device(vectors))
        return cls.cosine(each, to_device(directed(vectors)))

    @classmethod
    def cosine(cls, each: ParallelMap, vectors: Any) -> Points:
        """Points from vectors on their device, none of them zero."""
        xp = array_namespace(vectors)
        norms, fast = np.zeros(len(vectors)), xp.empty_like(vectors)

        def prepare(rows: slice) -> None:
            part = xp.astype(vectors[rows], xp.float64)
            lengths = xp.sqrt(xp.linalg.vecdot(part, part))
            norms[rows] = to_host(lengths)
            part /= lengths[:, None]
            fast[rows] = xp.astype(part, xp.float32)

        each(prepare, len(vectors), _step(vectors))
        return cls(vectors, norms, Fast(fast, None, (vectors.shape[1] + 16) * 2.0**-24), each)

    @classmethod
    def euclidean(cls, each: ParallelMap, vectors: Any) -> Points:
        """Points from vectors on their device."""
        xp = array_namespace(vectors)
        moved = vectors - xp.mean(vectors, axis=0) if len(vectors) else vectors
        squares = xp.sum(moved * moved, axis=1)
        largest = float(xp.max(squares)) if len(vectors) else 0.0
        # Three terms, each a sum of so many products and at most this large or twice so.
        error = (vectors.shape[1] + 16) * 2.0**-22 * largest
        return cls(vectors, None, Fast(moved, squares, error), each)

    def similarity(self, left: Positions, right: Positions) -> Floats:
        """The similarities that decide, of pairs of rows; `left` may be a single row."""
        return np.round(self.unrounded(left, right), 12)

    def unrounded(self, left: Positions, right: Positions) -> Floats:
        """The same for sums, which are rounded as a whole."""
        found = np.empty(len(right))
        for part in blocks(len(right), self.exact.shape[1], _VALUES):
            a, b = self._doubles(left if len(left) == 1 else left[part]), self._doubles(right[part])
            xp = array_namespace(a)
            if self.norms is None:
                found[part] = -to_host(xp.linalg.vector_norm(a - b, axis=1))
            else:
                found[part] = to_host(xp.linalg.vecdot(a, b))
        if self.norms is not None:
            found /= self.norms[left] * self.norms[right]
        return found

    def total(self, rows: Positions, weights: Floats | None = None) -> Floats:
        """The sum of the rows' directions, each times its weight: shape (dimensions,)."""

        def summed(part: slice) -> Any:
            units = self._units(rows[part])
            return units.sum(axis=0) if weights is None else weights[part] @ units

        return sum(self._blockwise(summed, rows), np.zeros(self.exact.shape[1]))

    def times(self, rows: Positions, vector: Floats) -> Floats:
        """The products of the rows' directions with a vector, shape (rows,)."""
        assert self.norms is not None

        def product(part: slice) -> Any:
            return np.einsum("ij,j->i", to_host(self._doubles(rows[part])), vector)

        return np.concatenate([[], *self._blockwise(product, rows)]) / self.norms[rows]

    def energy(self, rows: Positions, others: Positions) -> Floats:
        """The sum of the squares of each row's cosines with the others, which takes no pairs."""

        def squared(part: slice) -> Any:
            units = self._units(others[part])
            return units.T @ units

        def product(part: slice) -> Any:
            units = self._units(rows[part])
            return np.einsum("ij,ij->i", units @ squares, units)

        squares = sum(self._blockwise(squared, others), np.zeros((self.exact.shape[1],) * 2))
        return np.concatenate([[], *self._blockwise(product, rows)])

    def centrality(self, rows: Positions) -> Floats:
        """How near each row is to the mean of the rows: the larger, the nearer.

        Minus the Euclidean distance, or the product of the direction with the sum of all.
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
        self, rows: Positions, others: Positions, taken: Fast | None = None
    ) -> tuple[Positions, Floats]:
        """For each row the most similar of the others, the first of equal ones, and how similar.

        others: at least one. taken: `fast` of them, if that is at hand. Returns places in
        `others` and similarities, of shape (rows,).
        """
        targets = taken or self.fast.take(others)

        def search(part: slice) -> tuple[Positions, Floats]:
            mine = rows[part]
            able = self.fast.take(mine).rivals(targets)
            xp = array_namespace(able)
            flat = to_host(xp.nonzero(xp.reshape(able, (-1,)))[0])  # faster than in two dimensions
            row, other = np.divmod(flat, len(others))
            value = self.similarity(mine[row], others[other])
            if len(row) > len(mine):
                order = np.lexsort((other, -value, row))
                first = order[np.unique(row[order], return_index=True)[1]]
                other, value = other[first], value[first]
            return other, value

        width = max(len(others), self.exact.shape[1])
        found = self.each(search, len(rows), max(1, _VALUES // width))
        places = np.concatenate([np.zeros(0, np.int64), *(place for place, _ in found)])
        return places, np.concatenate([[], *(value for _, value in found)])

    def _blockwise(self, function: Callable[[slice], Any], rows: Positions) -> list[Floats]:
        return self.each(function, len(rows), _step(self.exact))

    def _units(self, rows: Positions) -> Floats:
        assert self.norms is not None
        return to_host(self._doubles(rows)) / self.norms[rows, None]

    def _doubles(self, rows: Positions) -> Any:
        xp = array_namespace(self.exact)
        return xp.astype(self.exact[xp.asarray(rows, device=self.exact.device)], xp.float64)


class Excess(NamedTuple):
    """Bounds on the sum of what a row's cosines are above other rows' floors, without pairs.

    A sum of max(x, 0) is half the sum of x and of |x|, and the latter is at most the root
    of their number times the sum of the squares of x (Cauchy and Schwarz). With x a cosine
    less a floor, both are products of the row with sums over the others.

    others: the rows with a floor each. sums, squares: of the first rows' cosines with them.
    """

    others: Positions
    sums: Floats
    squares: Floats

    @classmethod
    def of(cls, points: Points, count: int, others: slice) -> Excess:
        """For the first `count` of the points."""
        rows, fixed = np.arange(count), np.arange(others.start, others.stop)
        sums = points.times(rows, points.total(fixed))
        return cls(fixed, sums, points.energy(rows, fixed))

    def ceilings(self, points: Points, floors: Floats) -> Floats:
        """No less than each row's sum of max(cosine - floor, 0), shape (rows,)."""
        rows = np.arange(len(self.sums))
        mixed = points.times(rows, points.total(self.others, floors))
        sums = self.sums - floors.sum()
        sizes = self.squares - 2 * mixed + floors @ floors
        sizes = np.sqrt(len(floors) * np.maximum(sizes, 0))
        bound: Floats = (sums + sizes) / 2 + 1e-9 * (np.abs(sums) + sizes)
        return bound


def directed(vectors: Matrix) -> Matrix:
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
    """Slices of so many rows, each of at most so many values (rows times width)."""
    step = max(1, values // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
