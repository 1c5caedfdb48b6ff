"""Rows kept apart: each row in turn is kept unless it is too similar to one kept before.

The greedy rule under de-duplication (`dedup.semantic`), novelty (`dedup.novelty` by
cosine) and DEITA's filter (Liu et al. 2023, arXiv:2312.15685). A dropped row does not
count against later ones, so the outcome depends on the order and equals that of
the loop over rows. (That of DEITA's code does not for batches above one: there a row
is also rejected for its likeness to a rejected row of its batch.)

A block of rows is multiplied with all rows kept before it, in projections that bound
the cosines (`stages._vectors.projection`), then with itself. These products are float32 and
only name candidates. What decides, which kept row is the nearest and whether it is too
near, is a cosine taken in float64 from the rows themselves and rounded to 12 decimals.
A float32 product of unit vectors is off by less than (dimensions + 8) epsilon, so no
candidate is missed: the outcome depends neither on blocks nor on threads, and numpy and
torch agree. Products on a GPU must not be in TF32; `stages._vectors.arrays.place` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stages._vectors.arrays import ParallelMap, parallel_map, to_host
from stages._vectors.projection import Projection, projection, sampled

DropAt = Literal["above", "at"]
Positions = NDArray[np.int64]

_BLOCK = 256
_PART = 128
"""Rows of a block that a thread compares at a time, at least."""

_SHARED = 1 << 20
"""Products that are worth a thread's while, about a millisecond's."""

_TILE = 4096
"""Kept rows that these are multiplied with at a time: 2 MiB of products."""

_VALUES = 1 << 17
"""Values of pairs of rows that are held in float64 at once: 1 MiB a side."""


class DedupResult(NamedTuple):
    """What became of each row; arrays of length len(vectors).

    kept: whether it counts as kept, as the given rows do. nearest: the position of the
    most similar row kept before it, of equals the first; similarity: the cosine with
    it. They are -1 and NaN where there is none within reach. reached: the rows from this
    position on were not looked at, because the budget was spent; theirs are -1 and NaN, too.
    """

    kept: NDArray[np.bool_]
    nearest: Positions
    similarity: NDArray[np.float64]
    reached: int


class _Space(NamedTuple):
    """vectors: of any length, on their device; norms: float64, on the host.

    reach: no cosine below it matters. slack: more than a float32 product of unit vectors
    can be off.
    """

    vectors: Any
    norms: NDArray[np.float64]
    reach: float
    slack: float


def greedy_dedup(
    vectors: Any,
    *,
    given: int = 0,
    threshold: float,
    drop_at: DropAt = "above",
    reach: float = -np.inf,
    costs: NDArray[np.int64] | None = None,
    budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DedupResult:
    """Judge rows in their order by their cosines with the rows kept before.

    vectors: shape (rows, dimensions), finite, of any length: a numpy array or a torch
        tensor. A zero vector resembles nothing: it is kept, and is no row's nearest.
    given: the first rows, which count as kept whatever they are, and cost nothing.
    threshold, drop_at: a row goes if a cosine is above the threshold, or at it.
    reach: from which cosine on the nearest row is told; at most the threshold. Where only
        the twins of dropped rows are wanted, the threshold is several times as fast.
    budget, costs: the most that the kept rows may cost; a row costs 1, or what
        `costs` has for it (one number, 0 or more, for each of `vectors`). A row that
        no longer fits is passed over and does not count as kept.
    """
    count = len(vectors)
    space = _space(vectors, reach)
    short = _projection(space)
    prices = np.ones(count, np.int64) if costs is None else costs
    left = int(prices.sum()) if budget is None else budget
    cheapest = np.minimum.accumulate(prices[::-1])[::-1]  # of a row and all after it
    result = DedupResult(
        np.arange(count) < given, np.full(count, -1), np.full(count, np.nan), count
    )
    tiles: list[tuple[Positions, Any]] = []
    for rows in _blocks(0, given):
        _extend(tiles, space, rows, short.of(_units(space, rows)))
    with parallel_map() as each:
        for rows in _blocks(given, count):
            if left < cheapest[rows[0]]:
                break
            units, bounds = _compare(each, space, short, result, rows, tiles)
            limit = threshold, drop_at
            left -= _settle(space, result, rows, to_host(units @ units.T), limit, prices, left)
            kept = np.flatnonzero(result.kept[rows])
            _extend(tiles, space, rows[kept], bounds[kept])
            if progress:
                progress(int(rows[-1]) + 1 - given, count - given)
    if budget is None:
        return result
    return _cut(result, given, int(np.searchsorted(cheapest, left, side="right")))


def nearest_before(
    vectors: Any, rows: Positions, columns: Positions
) -> tuple[Positions, NDArray[np.float64]]:
    """For each of some rows the most similar of some columns before it, of equals the first.

    rows, columns: positions in `vectors`, ascending. Returns the column's position and
    the cosine: -1 and NaN where there is none.
    """
    space, count = _space(vectors, -np.inf), len(vectors)
    short = Projection(None, space.slack)
    result = DedupResult(np.zeros(0, np.bool_), np.full(count, -1), np.full(count, np.nan), count)
    tiles: list[tuple[Positions, Any]] = []
    for i in range(0, len(columns), _BLOCK):
        part = columns[i : i + _BLOCK]
        _extend(tiles, space, part, short.of(_units(space, part)))
    with parallel_map() as each:
        for i in range(0, len(rows), _BLOCK):
            _compare(each, space, short, result, rows[i : i + _BLOCK], tiles)
    return result.nearest[rows], result.similarity[rows]


def _too_similar(
    similarity: NDArray[np.float64], threshold: float, drop_at: DropAt
) -> NDArray[np.bool_]:
    """Whether cosines are above the threshold, or at it; False for NaN."""
    return similarity > threshold if drop_at == "above" else similarity >= threshold


def _blocks(start: int, stop: int) -> list[Positions]:
    return [np.arange(i, min(i + _BLOCK, stop)) for i in range(start, stop, _BLOCK)]


def _space(vectors: Any, reach: float) -> _Space:
    xp = array_namespace(vectors)
    norms = [
        to_host(xp.linalg.vector_norm(xp.astype(vectors[i : i + _BLOCK], xp.float64), axis=1))
        for i in range(0, len(vectors), _BLOCK)
    ]
    slack = (vectors.shape[1] + 8) * 2.0**-23
    return _Space(vectors, np.concatenate([np.zeros(0), *norms]), reach, slack)


def _projection(space: _Space) -> Projection:
    """That of the rows' directions."""
    solid = np.flatnonzero(space.norms > 0)
    sample = _units(space, solid[sampled(len(solid))])
    return projection(sample, len(solid), space.reach)


def _rows(space: _Space, rows: Positions) -> Any:
    """Some of the vectors, in float64."""
    xp = array_namespace(space.vectors)
    index = xp.asarray(rows, device=device(space.vectors))
    return xp.astype(xp.take(space.vectors, index, axis=0), xp.float64)


def _units(space: _Space, rows: Positions) -> Any:
    """Unit vectors in float32; NaN for a zero vector, because NaN is near nothing."""
    xp = array_namespace(space.vectors)
    norms = np.where(space.norms[rows] > 0, space.norms[rows], np.nan)[:, None]
    units = _rows(space, rows) / xp.asarray(norms, device=device(space.vectors))
    return xp.astype(units, xp.float32)


def _extend(
    tiles: list[tuple[Positions, Any]], space: _Space, rows: Positions, bounds: Any
) -> None:
    """Put kept rows into the last tile, or into a new one. Zero vectors stay out."""
    xp = array_namespace(bounds)
    solid = np.flatnonzero(space.norms[rows] > 0)
    rows, bounds = rows[solid], bounds[solid]
    if tiles and len(tiles[-1][0]) + len(rows) <= _TILE:
        before, others = tiles.pop()
        rows, bounds = np.concatenate([before, rows]), xp.concat([others, bounds])
    if len(rows):
        tiles.append((rows, bounds))


def _compare(
    each: ParallelMap,
    space: _Space,
    short: Projection,
    result: DedupResult,
    rows: Positions,
    tiles: list[tuple[Positions, Any]],
) -> tuple[Any, Any]:
    """Find the nearest of all columns before each row of a block, on all cores.

    tiles: columns and their projections. Returns the rows' unit vectors and projections.
    """

    def part(places: slice) -> tuple[Any, Any]:
        mine = rows[places]
        units = _units(space, mine)
        bounds = short.of(units)
        for columns, others in tiles:
            products = bounds @ others.T
            if columns[-1] >= mine[0]:
                xp = array_namespace(products)
                late = xp.asarray(columns >= mine[:, None], device=device(products))
                products = xp.where(late, -xp.inf, products)
            _improve(space, result, mine, columns, products, short.slack)
        return units, bounds

    products = len(rows) * sum(len(columns) for columns, _ in tiles)
    parts = max(1, min(len(rows) // _PART, products // _SHARED))
    found = each(part, len(rows), -(-len(rows) // parts))
    xp = array_namespace(found[0][0])
    return xp.concat([units for units, _ in found]), xp.concat([bounds for _, bounds in found])


def _improve(
    space: _Space,
    result: DedupResult,
    rows: Positions,
    columns: Positions,
    products: Any,
    slack: float,
) -> None:
    """Take the nearest of the columns for each row to which one is nearer than any before.

    products: float32, shape (rows, columns): bounds of the cosines, which lie at most the
    slack above them. The column of the largest bound is tried first; then all whose bound
    reaches the best cosine that is known.
    """
    if not len(columns):
        return
    xp = array_namespace(products)
    first = xp.argmax(products, axis=1)
    largest = to_host(xp.take_along_axis(products, first[:, None], axis=1))[:, 0].astype(np.float64)
    able = np.flatnonzero((largest >= _best(space, result, rows) - slack) & np.isfinite(largest))
    if not len(able):
        return
    _take(space, result, rows[able], columns[to_host(first)[able]])
    # Of equals the first column counts, so a bound that only reaches the best is tried, too.
    floor = np.full(len(rows), np.inf, np.float32)
    floor[able] = (_best(space, result, rows[able]) - slack).astype(np.float32)
    floor = np.nextafter(floor, np.float32(-np.inf))
    near = products >= xp.asarray(floor, device=device(products))[:, None]
    flat = to_host(xp.nonzero(xp.reshape(near, (-1,)))[0])  # faster than in two dimensions
    row, column = np.divmod(flat, len(columns))
    _take(space, result, rows[row], columns[column])


def _best(space: _Space, result: DedupResult, rows: Positions) -> NDArray[np.float64]:
    """The cosine that a nearer row would have to reach."""
    return np.fmax(result.similarity[rows], space.reach)


def _take(space: _Space, result: DedupResult, rows: Positions, columns: Positions) -> None:
    """Put down the nearest of the columns given for each row, where it is nearer than before."""
    value = _cosines(space, rows, columns)
    order = np.lexsort((columns, -value, rows))
    rows, first = np.unique(rows[order], return_index=True)
    value, columns = value[order][first], columns[order][first]
    before, best = result.nearest[rows], result.similarity[rows]
    nearer = (value > best) | ((value == best) & (columns < before)) | (before < 0)
    nearer &= value >= space.reach
    result.nearest[rows[nearer]] = columns[nearer]
    result.similarity[rows[nearer]] = value[nearer]


def _cosines(space: _Space, left: Positions, right: Positions) -> NDArray[np.float64]:
    """The cosines that decide, of pairs of rows."""
    xp = array_namespace(space.vectors)
    found = np.empty(len(left))
    step = max(1, _VALUES // max(1, space.vectors.shape[1]))
    for start in range(0, len(left), step):
        a, b = (_rows(space, side[start : start + step]) for side in (left, right))
        found[start : start + step] = to_host(xp.linalg.vecdot(a, b))
    return np.round(found / (space.norms[left] * space.norms[right]), 12)


def _settle(
    space: _Space,
    result: DedupResult,
    rows: Positions,
    products: NDArray[np.float32],
    limit: tuple[float, DropAt],
    prices: NDArray[np.int64],
    left: int,
) -> int:
    """Judge the rows of a block against each other, in order; returns what the kept ones cost.

    products: of the unit vectors of all rows of the block with all.
    """
    places = np.flatnonzero(~_too_similar(result.similarity[rows], *limit))
    columns = rows[places]
    if len(places) < len(rows):
        products = products[:, places]
    earlier = columns < rows[:, None]
    near = _near(space, columns, products[places], earlier[places], limit)
    blocks = np.any(near, axis=0).tolist()
    stays = np.zeros(len(columns), np.bool_)
    is_open = ~stays
    before = left
    # The loop cannot be vectorised: whether a row counts depends on those before it.
    for place, price in enumerate(prices[columns].tolist()):
        if is_open[place] and price <= left:
            stays[place] = True
            left -= price
            if blocks[place]:
                is_open &= ~near[:, place]
    result.kept[columns] = stays
    earlier &= stays & (space.norms[columns] > 0)
    products = np.where(earlier, products, np.float32(-np.inf))
    _improve(space, result, rows, columns, products, space.slack)
    return before - left


def _near(
    space: _Space,
    rows: Positions,
    products: NDArray[np.float32],
    earlier: NDArray[np.bool_],
    limit: tuple[float, DropAt],
) -> NDArray[np.bool_]:
    """Which rows (first axis) are too similar to which earlier ones (second axis)."""
    able = np.flatnonzero(earlier & (products > limit[0] - space.slack))
    near = np.zeros(products.size, np.bool_)
    near[able] = True
    unsure = able[products.ravel()[able] <= limit[0] + space.slack]
    later, before = np.divmod(unsure, len(rows))
    near[unsure] = _too_similar(_cosines(space, rows[later], rows[before]), *limit)
    return near.reshape(products.shape)


def _cut(result: DedupResult, given: int, unfit: int) -> DedupResult:
    """The result without what is said of rows after the last that could still be kept.

    unfit: from this position on no row fits what is left at the end.
    """
    last = max(np.flatnonzero(result.kept), default=given - 1)
    reached = max(int(last) + 1, unfit)
    result.nearest[reached:] = -1
    result.similarity[reached:] = np.nan
    return result._replace(reached=reached)
