"""How near rows lie to a set of vectors: nearest neighbours, turns, densities.

Products in float32 only name candidates; what decides is a cosine taken in
float64 from the vectors themselves and rounded to 12 decimals. So equal vectors
are equally near, and neither blocks nor threads nor the device change a choice.
A zero vector resembles nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from stages._vectors.arrays import PRODUCTS, parallel_map, to_host

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_VALUES = 1 << 22
"""Values of pairs of rows that are held in float64 at once: 32 MiB a side."""

_CACHED = 1 << 17
"""Exponents of kernels that are held at once: 1 MiB, which a core's cache keeps."""


class _Side(NamedTuple):
    """vectors: as given, on the host. norms: float64. units: float32, on the device; NaN for 0."""

    vectors: NDArray[np.float32]
    norms: Floats
    units: Any

    @property
    def slack(self) -> float:
        """More than two float32 products of unit vectors can be off."""
        return float((self.vectors.shape[1] + 8) * 2.0**-22)


def _side(vectors: Any) -> _Side:
    xp = array_namespace(vectors)
    plain = to_host(vectors)
    norms = np.sqrt(np.einsum("ij,ij->i", plain, plain, dtype=np.float64))
    factors = 1 / np.where(norms > 0, norms, np.nan)
    scale = xp.asarray(factors.astype(np.float32), device=device(vectors))
    return _Side(plain, norms, vectors * scale[:, None])


def _cosines(rows: _Side, row: Positions, targets: _Side, target: Positions) -> Floats:
    """The cosines that decide, of pairs of rows and targets."""
    found = np.empty(len(row))
    step = max(1, _VALUES // max(1, rows.vectors.shape[1]))
    for start in range(0, len(row), step):
        a, b = row[start : start + step], target[start : start + step]
        pairs = rows.vectors[a].astype(np.float64), targets.vectors[b].astype(np.float64)
        found[start : start + step] = np.einsum("ij,ij->i", *pairs)
    return np.round(found / (rows.norms[row] * targets.norms[target]), 12)


def _solid(targets: Any) -> Positions:
    """The targets that are not zero, each vector once: the first of equal ones."""
    plain = to_host(targets)
    first = np.unique(plain, axis=0, return_index=True)[1]
    return np.sort(first[np.any(plain[first] != 0, axis=1)])


def nearest(rows: Any, targets: Any) -> tuple[Floats, Positions]:
    """For each row the cosine with its most similar target, and which it is.

    rows, targets: float32, shape (count, dimensions), finite, of any length: numpy
    arrays, or torch tensors on one device. Of equally near targets the first counts.
    NaN and -1 for a zero vector, and where all targets are zero.
    """
    kept = _solid(targets)
    similarity, found = np.full(len(rows), np.nan), np.full(len(rows), -1)
    if not len(kept):
        return similarity, found
    xp = array_namespace(rows)
    left = _side(rows)
    right = _side(xp.take(targets, xp.asarray(kept, device=device(targets)), axis=0))

    def block(part: slice) -> tuple[Positions, Positions]:
        products = left.units[part] @ right.units.T
        floor = xp.max(products, axis=1) - left.slack
        flat = xp.reshape(products >= floor[:, None], (-1,))
        row, column = np.divmod(to_host(xp.nonzero(flat)[0]), len(kept))
        return row + part.start, column

    with parallel_map() as each:
        parts = each(block, len(rows), max(1, PRODUCTS // len(kept)))
    if parts:
        row, column = (np.concatenate(side) for side in zip(*parts, strict=True))
        value = _cosines(left, row, right, column)
        order = np.lexsort((column, -value, row))
        row, first = np.unique(row[order], return_index=True)
        similarity[row], found[row] = value[order][first], kept[column[order][first]]
    return similarity, found


def mean_cosine(rows: Any, targets: Any) -> Floats:
    """The mean of each row's cosines with the targets, zero targets apart; NaN for a zero row."""
    left, right = _side(rows), to_host(targets).astype(np.float64)
    norms = np.linalg.norm(right, axis=1)
    if not norms.any():
        return np.full(len(rows), np.nan)
    centre = (right[norms > 0] / norms[norms > 0, None]).mean(axis=0)
    norms = np.where(left.norms > 0, left.norms, np.nan)
    cosines: Floats = np.round(np.einsum("ij,j->i", left.vectors, centre) / norms, 12)
    return cosines


class Turns(NamedTuple):
    """rows: in the order in which they were taken. targets: who took each. similarity: of both."""

    rows: list[int]
    targets: list[int]
    similarity: list[float]


def take_turns(rows: Any, targets: Any, prices: NDArray[np.int64], budget: int) -> Turns:
    """Targets take turns, each taking the row left that is nearest to it (RDS+'s round robin).

    prices: what each row takes from the budget; a row that no longer fits is passed
    over. Equal vectors among the targets each have a turn; of equally near rows the
    first is taken. Zero vectors neither take nor are taken. Each target has a list of
    its nearest rows, which is made longer when it has run out. A loop, because each
    choice depends on those before it.
    """
    left, right = _side(rows), _side(targets)
    taken = Turns([], [], [])
    free = (left.norms > 0) & (prices <= budget)
    active = np.flatnonzero(right.norms > 0)
    if not free.any() or not len(active):
        return taken
    expected = min(len(rows), budget / max(1.0, float(prices[free].mean())))
    lengths = np.full(len(targets), 2 * int(expected / len(active)) + 8)
    first = _nearest_rows(left, right, active, free, int(lengths[0]))
    lists = dict(zip(active.tolist(), first, strict=True))
    while True:
        for target in active.tolist():
            found = lists[target]
            while found and not (free[found[-1][0]] and prices[found[-1][0]] <= budget):
                free[found.pop()[0]] = False
            if not found:
                free &= prices <= budget
                lengths[target] *= 4
                one = np.array([target])
                found = lists[target] = _nearest_rows(left, right, one, free, lengths[target])[0]
            if not found:
                return taken
            row, similarity = found.pop()
            free[row] = False
            budget -= int(prices[row])
            taken.rows.append(row)
            taken.targets.append(target)
            taken.similarity.append(similarity)


def _nearest_rows(
    rows: _Side, targets: _Side, wanted: Positions, free: NDArray[np.bool_], length: int
) -> list[list[tuple[int, float]]]:
    """For each wanted target the free rows nearest to it with their cosines, the nearest last."""
    length = min(length, int(free.sum()))
    xp = array_namespace(rows.units)

    def block(part: slice) -> list[list[tuple[int, float]]]:
        asked = wanted[part]
        units = xp.take(targets.units, xp.asarray(asked, device=device(rows.units)), axis=0)
        products = to_host(units @ rows.units.T)
        products[:, ~free] = -np.inf
        return [first(target, line) for target, line in zip(asked, products, strict=True)]

    def first(target: int, line: NDArray[np.float32]) -> list[tuple[int, float]]:
        if not length:
            return []
        floor = np.partition(line, len(line) - length)[len(line) - length] - rows.slack
        near = np.flatnonzero(line >= floor)
        value = _cosines(rows, near, targets, np.full(len(near), target))
        order = np.lexsort((near, -value))[:length][::-1]
        return list(zip(near[order].tolist(), value[order].tolist(), strict=True))

    with parallel_map() as each:
        parts = each(block, len(wanted), max(1, PRODUCTS // len(free)))
    return [found for part in parts for found in part]


def principal(vectors: NDArray[np.float32], dimensions: int) -> tuple[Floats, Floats]:
    """The mean of the vectors, and a basis of their first principal components.

    Returns shapes (d,) and (d, k): (x - mean) @ basis has k coordinates of variance 1.
    k is `dimensions`, or fewer where the vectors do not spread in so many.
    """
    count, width = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)

    def block(part: slice) -> Floats:
        gaps = vectors[part] - mean
        product: Floats = gaps.T @ gaps
        return product

    with parallel_map() as each:
        covariance = sum(each(block, count, 4096), np.zeros((width, width))) / count
        variances, axes = np.linalg.eigh(covariance)
    order = np.argsort(-variances, kind="stable")[:dimensions]
    order = order[variances[order] > 1e-12 * (variances.sum() + mean @ mean)]
    return mean, axes[:, order] / np.sqrt(variances[order])


def project(vectors: NDArray[np.float32], mean: Floats, basis: Floats) -> Floats:
    """The coordinates of vectors on a basis of `principal`: shape (rows, k)."""

    def block(part: slice) -> Floats:
        coordinates: Floats = (vectors[part] - mean) @ basis
        return coordinates

    with parallel_map() as each:
        return np.concatenate([np.zeros((0, basis.shape[1])), *each(block, len(vectors), 4096)])


def log_density(points: Any, centres: Any) -> Floats:
    """The logarithm of a Gaussian kernel density of the centres at the points; NaN without any.

    points, centres: float64, shape (count, k), of variance about 1 in each
    coordinate: arrays of either kind on one device. The bandwidth is Scott's rule,
    n^(-1 / (k + 4)) in every coordinate (Scott 1992), n being the number of centres.
    """
    xp = array_namespace(points)
    count, k = centres.shape
    if not count:
        return np.full(len(points), np.nan)
    bandwidth = float(count) ** (-1 / (k + 4))
    scale = bandwidth * 2.0**0.5  # so that a squared distance is the kernel's exponent
    points, centres = points / scale, centres / scale
    values = _CACHED if is_numpy_array(points) else PRODUCTS // 2

    def block(part: slice) -> Floats:
        gaps = xp.zeros((len(points[part]), count), dtype=xp.float64, device=device(points))
        for j in range(k):
            gaps += (points[part, j][:, None] - centres[None, :, j]) ** 2
        least = xp.min(gaps, axis=1)
        return to_host(xp.log(xp.sum(xp.exp(least[:, None] - gaps), axis=1)) - least)

    with parallel_map() as each:
        parts = each(block, len(points), max(1, values // count))
    constant = np.log(count) + k * np.log(bandwidth * np.sqrt(2 * np.pi))
    logarithms: Floats = np.concatenate([np.zeros(0), *parts]) - constant
    return logarithms
