"""Facility location and its relatives, without the matrix of all similarities.

Each represented row v is covered as well as its most similar picked row covers it. The gain
of u is the sum over v of max(min(s(v, u), cap(v)) - cover(v), 0): only the pairs in which u
would cover v better count, and they become fewer with every pick, because covers only rise.

While these pairs are many, an upper bound that needs no pairs rules most rows out
(`ExcessBounds`). For the others the sums are computed from blocks of products that are
discarded: for the rows whose gain is requested, over the covers that have risen since all
rows were evaluated, and for all rows once these are too many. Once the pairs fit in memory,
all rows are multiplied one last time and the pairs are kept: from then on a gain is a sum
over them.

Blocks of products are changed in place: memory that is freed and allocated again for each
block costs as much time as the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from stages._vectors.arrays import to_host
from stages.select.diverse.lazy_greedy import DECIMALS, ROUNDING, DeferredGains
from stages.select.diverse.mixed_precision import (
    ExcessBounds,
    Float32View,
    Floats,
    Positions,
    VectorSet,
    blocks,
)
from stages.select.diverse.sparse_gains import Pairs, Piece, above, above_across

MAX_PAIRS: Final = 48_000_000
"""Pairs that are kept: about 300 MB, or 400 MB above 65,536 represented rows."""

_SIDE: Final = 512
"""Rows of a block and of a tile where all rows are multiplied with all: 1 MiB of products."""

_CELLS: Final = 1 << 18
"""Products of a block and a tile where some rows are multiplied with some: 1 MiB, too."""

_TILE: Final = 2048

_SAMPLE: Final = 128
"""Represented rows from which the number of pairs that count is estimated."""

_PATIENCE: Final = 0.25
"""All rows are evaluated once this fraction of that work was spent on some of them."""

_RESUM: Final = 0.5
"""Sums are computed anew when this fraction of the covers has risen, else their loss is
subtracted."""

_SUM_ERROR: Final = 2.0**-14
"""More than a sum of a tile's float32 values can be off, relatively: so many additions of 2^-24."""


class Cover(NamedTuple):
    """What is to be covered, and the weight of covering in a row's gain.

    Attributes:
        represented: The rows to cover, as positions in the vector set.
        start: How well each is covered before anything is picked.
        cap: How well it can be covered at most, None for no limit.
        scale: The weight of the covering.
        extra: What each row gains besides, whatever else is picked; shape (rows,).
    """

    represented: slice
    start: Floats
    cap: Floats | None
    scale: float
    extra: Floats


class CoverageObjective:
    """`scale` times the sum of the covers, plus the `extra` of the picked rows.

    In: vectors, and what they cover.
    Out: with `greedy`, the rows picked and their gains.

    The same as `facility` in tests/stages/select/test_lazy_greedy.py, which evaluates the
    formula on the matrix of all similarities; faster because most gains are ruled out by
    upper bounds, see the head of this module.

    Example:
        >>> from stages._vectors.arrays import parallel_map
        >>> from stages._selection.amounts import Amount
        >>> from stages.select.diverse.lazy_greedy import greedy
        >>> vectors = np.array([[1, 0], [3, 1], [1, 1], [0, 1]], np.float32)
        >>> cover = Cover(slice(0, 4), np.zeros(4), None, 1.0, np.zeros(4))
        >>> with parallel_map() as each:
        ...     objective = CoverageObjective(VectorSet.of(each, vectors, "cosine"), cover)
        ...     picks = greedy(objective, np.ones(4, bool), np.ones(4, int), Amount(2))
        >>> picks.rows.tolist(), picks.gains.round(3).tolist()
        ([2, 0], [3.309, 0.347])
    """

    shrinking = True
    deferred: DeferredGains | None = None

    def __init__(self, vectors: VectorSet, cover: Cover, max_pairs: int = MAX_PAIRS) -> None:
        """Begin with nothing picked.

        Args:
            vectors: The rows, one for each of `extra`, and behind them others.
            cover: What is to be covered.
            max_pairs: How many pairs may be kept.
        """
        count = len(cover.extra)
        self._vectors, self._task = vectors, cover
        self._rows = vectors.float32.take(slice(0, count))
        self._targets = vectors.float32.take(cover.represented)
        self._cover = cover.start.copy()
        self._caps = np.full(len(self._cover), np.inf, np.float32)
        if cover.cap is not None:
            self._caps = _up(cover.cap)
        self._columns: dict[int, tuple[Positions, Floats]] = {}
        self._pairs: Pairs | None = None
        self._first_equal = _first_equal(to_host(vectors.exact[:count]))
        self._same = cover.represented == slice(0, count)
        self._max_pairs, self._outdated = max_pairs, False
        self._base: Floats | None = None
        self._spent = np.inf
        self._round_covers()
        self.upper_bounds = np.full(count, np.inf)
        self.fresh = np.zeros(count, np.bool_)
        self._excess: ExcessBounds | None = None
        if vectors.norms is not None:
            self._excess = ExcessBounds.of(vectors, count, cover.represented)
            self._spent = 0.0
            self._lower_without_pairs(self._excess)

    def update_on_pick(self, rows: Positions) -> None:
        """Nothing: `refresh` decides by its cost what is worth computing at once."""

    def refresh(self, rows: Positions) -> None:
        """Lower the upper bounds of rows to what they can gain now."""
        if self._outdated:
            self._update()
        if self._pairs is not None:
            self._lower(rows, self._pairs.sums(rows, self._floor) * (1 + _SUM_ERROR))
            return
        num_risen = len(self._cover) if self._base is None else len(self._risen_targets[0].values)
        self._spent += len(rows) * num_risen
        if self._spent > _PATIENCE * len(self.upper_bounds) * num_risen:
            self._evaluate_all(num_risen)
        elif self._base is None:
            self._lower(rows, self._sums(rows, self._targets, 1, self._gaps) * (1 + _SUM_ERROR))
        else:
            self._lower(rows, self._base[rows] - self._lost(rows))

    def exact(self, rows: Positions) -> Floats:
        """The gains of rows, rounded; they become their upper bounds."""
        equals = self._first_equal[rows]
        for row in np.unique(equals).tolist():
            if row not in self._columns:
                self._columns[row] = self._column(row)
        sums = {row: self._gain(*self._columns[row]) for row in np.unique(equals).tolist()}
        covered = np.array([sums[row] for row in equals.tolist()])
        gains = np.round(self._task.scale * covered + self._task.extra[rows], DECIMALS)
        self.upper_bounds[rows] = gains
        return gains

    def add(self, row: int) -> None:
        """Pick a row."""
        others, values = self._columns[int(self._first_equal[row])]
        self._columns = {}
        better = values > self._cover[others]
        if not better.any():
            return  # no gain changes
        self._cover[others[better]] = values[better]
        self.fresh[:] = False
        self._outdated = True
        self._round_covers()
        if self._excess is None and 2 * np.count_nonzero(better) > len(self._cover):
            self._spent = np.inf  # nearly every gain changes: evaluate all rows

    def _update(self) -> None:
        """Prepare to evaluate rows after others have been picked."""
        self._outdated = False
        if self._pairs is not None:
            return
        if self._count_pairs() <= self._max_pairs:
            self._keep_pairs()
            return
        if self._base is not None:
            self._find_risen()
        if self._excess:
            self._lower_without_pairs(self._excess)

    def _round_covers(self) -> None:
        """The covers in float32, not above the true ones; infinite where they are at the cap."""
        below = np.nextafter(self._cover.astype(np.float32), np.float32(-np.inf))
        if self._task.cap is not None:
            below[self._cover >= self._task.cap] = np.inf
        self._floor = below

    def _lower(self, rows: Positions, sums: Floats) -> None:
        """Lower the rows' upper bounds to sums over pairs, none of them too small."""
        raised = np.maximum(sums, 0) + 2 * ROUNDING
        bounds = self._task.scale * raised + self._task.extra[rows] + ROUNDING
        self.upper_bounds[rows] = np.minimum(self.upper_bounds[rows], bounds)
        self.fresh[rows] = True

    def _gain(self, others: Positions, values: Floats) -> float:
        return float(np.maximum(values - self._cover[others], 0).sum())

    def _column(self, row: int) -> tuple[Positions, Floats]:
        """The represented rows that a row may cover better, and how well, in float64."""
        index = np.array([row])
        if self._pairs is not None:
            others, bounds = self._pairs.get(row)
            others = others[bounds > self._floor[others]].astype(np.int64)
        else:
            bounds = to_host(self._rows.take(index).bounds(self._targets, 1))[0]
            others = np.flatnonzero(bounds > self._floor)
        values = self._vectors.unrounded(index, others + self._task.represented.start)
        return others, values if self._task.cap is None else np.minimum(
            values, self._task.cap[others]
        )

    # While the pairs are many: `_base` holds all rows' sums at the covers `_base_cover`, and
    # `_risen_targets` the represented rows whose covers have risen since, with both covers.

    def _lower_without_pairs(self, excess: ExcessBounds) -> None:
        bounds = excess.upper_bounds(self._vectors, self._cover)
        self._lower(np.arange(len(self.upper_bounds)), bounds)
        self.fresh[:] = False

    def _evaluate_all(self, num_risen: int) -> None:
        """Evaluate all rows, when so many covers have risen."""
        rows = np.arange(len(self.upper_bounds))
        if self._base is not None and num_risen < _RESUM * len(self._cover):
            self._base = self._base - self._lost(rows)
        else:
            self._base = self._sum_all()
        self._lower(rows, self._base)
        self._base_cover, self._spent = self._cover.copy(), 0.0
        self._find_risen()

    def _sum_all(self) -> Floats:
        """The sums of all rows, none of them too small."""
        sums = np.zeros(len(self.upper_bounds))

        def summed(similarities: Any, targets: slice, axis: int) -> Floats:
            gaps = self._gaps(similarities, targets, axis)
            return to_host(array_namespace(gaps).sum(gaps, axis=axis)).astype(np.float64)

        for rows, tile, parts in self._sweep(summed):
            sums[rows] += parts[0]
            if len(parts) > 1:
                sums[tile] += parts[1]
        return sums * (1 + _SUM_ERROR)

    def _gaps(self, similarities: Any, targets: slice, axis: int = 1) -> Any:
        """By how much rows would raise the covers of targets, which lie along the axis."""
        xp = array_namespace(similarities)
        shape = (1, -1) if axis else (-1, 1)
        if self._task.cap is not None:
            cap = self._on_device(_up(self._task.cap[targets]))
            similarities = xp.minimum(similarities, xp.reshape(cap, shape))
        gaps = similarities - xp.reshape(self._on_device(self._floor[targets]), shape)
        return xp.maximum(gaps, xp.zeros_like(gaps[:1, :1]), out=gaps)

    def _find_risen(self) -> None:
        risen = np.flatnonzero(self._cover > self._base_cover)
        high = np.nextafter(self._cover[risen].astype(np.float32), np.float32(-np.inf))
        low = np.minimum(_up(self._base_cover[risen]), high)
        self._risen_targets = (
            self._targets.take(risen),
            self._on_device(low),
            self._on_device(high),
        )

    def _lost(self, rows: Positions) -> Floats:
        """By how much the rows' sums have fallen since all rows were evaluated, not too much."""
        targets, low, high = self._risen_targets

        def lost(similarities: Any, tile: slice) -> Any:
            clipped = array_namespace(similarities).clip(similarities, low[tile], high[tile])
            clipped -= low[tile]
            return clipped

        return self._sums(rows, targets, -1, lost) * (1 - _SUM_ERROR)

    def _count_pairs(self) -> float:
        """How many pairs count, estimated from evenly spaced represented rows."""
        width = len(self._cover)
        sample = np.unique(np.linspace(0, width - 1, min(width, _SAMPLE)).astype(np.int64))
        floor = self._on_device(self._floor[sample])

        def count(similarities: Any, tile: slice) -> Any:
            return similarities > floor[tile]

        rows = np.arange(len(self.upper_bounds))
        counts = self._sums(rows, self._targets.take(sample), 1, count)
        return float(counts.sum()) * width / len(sample)

    # Once they are few: the pairs of all rows are in `_pairs`.

    def _keep_pairs(self) -> None:
        """Upper bounds from the similarities of all rows with all, and the pairs that count."""
        parts: list[list[tuple[int, Piece]]] = [
            [] for _ in blocks(len(self.upper_bounds), 1, _SIDE)
        ]
        sums = np.zeros(len(self.upper_bounds))

        def better(similarities: Any, targets: slice, axis: int) -> Piece:
            search = above if axis else above_across
            limits = self._floor[targets], self._caps[targets]
            return Piece(*search(to_host(similarities), *limits))

        for rows, tile, pieces in self._sweep(better):
            for owners, others, piece in zip((rows, tile), (tile, rows), pieces, strict=False):
                parts[owners.start // _SIDE].append((others.start, piece))
                sums[owners] += piece.gained
        self._lower(np.arange(len(sums)), sums * (1 + _SUM_ERROR))
        dtype = np.uint16 if len(self._cover) <= 1 << 16 else np.uint32
        self._pairs = Pairs(parts, dtype, self._vectors.parallel_map)

    def _sweep(
        self, use: Callable[[Any, slice, int], Any]
    ) -> Iterator[tuple[slice, slice, tuple[Any, ...]]]:
        """The results of a function of the similarities of all rows with all represented ones.

        For each block of rows and each tile of targets, in order, use(similarities, targets,
        1), where targets are the second axis. Where rows and targets are the same, a tile is
        multiplied once for both: then there is use(..., 0), too, where the targets are the
        first axis.
        """
        for rows in blocks(len(self.upper_bounds), 1, _SIDE):
            view = self._rows.take(rows)
            tiles = blocks(len(self._cover), 1, _SIDE)
            if self._same:
                tiles = [tile for tile in tiles if tile.start >= rows.start]

            def both(tile: slice, rows: slice = rows, view: Float32View = view) -> tuple[Any, ...]:
                similarities = view.bounds(self._targets.take(tile), 1)
                if self._same and tile != rows:
                    return use(similarities, tile, 1), use(similarities, rows, 0)
                return (use(similarities, tile, 1),)

            for tile, results in zip(tiles, self._map(both, tiles), strict=True):
                yield rows, tile, results

    def _sums(
        self, rows: Positions, targets: Float32View, sign: int, use: Callable[[Any, slice], Any]
    ) -> Floats:
        """For each row, the sum of a function of its similarities with each tile.

        Args:
            rows: The rows.
            targets: The other side of the similarities.
            sign: 1 for upper bounds of the similarities, -1 for lower bounds.
            use: use(similarities, tile) of the shape of the similarities.
        """
        sums, width = np.zeros(len(rows)), len(targets.values)
        tiles = blocks(width, 1, _TILE)
        for part in blocks(len(rows), min(max(width, 1), _TILE), _CELLS):
            view = self._rows.take(rows[part])

            def summed(tile: slice, view: Float32View = view) -> Floats:
                used = use(view.bounds(targets.take(tile), sign), tile)
                return to_host(array_namespace(used).sum(used, axis=1)).astype(np.float64)

            for tile_sums in self._map(summed, tiles):  # in order, whichever was first
                sums[part] += tile_sums
        return sums

    def _map(self, function: Callable[[slice], Any], parts: list[slice]) -> list[Any]:
        """The results in order, on all threads."""
        return self._vectors.parallel_map(lambda one: function(parts[one.start]), len(parts), 1)

    def _on_device(self, values: NDArray[np.float32]) -> Any:
        like = self._targets.values
        return array_namespace(like).asarray(values, device=like.device)


def _up(values: Floats) -> NDArray[np.float32]:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def _first_equal(vectors: NDArray[np.float32]) -> Positions:
    """For each vector the position of the first that equals it."""
    first: dict[bytes, int] = {}
    positions: list[int] = []
    for part in blocks(len(vectors), vectors.shape[1], _CELLS):
        for row in vectors[part] + np.float32(0):  # no -0
            positions.append(first.setdefault(xxh3_128_digest(row), len(positions)))
    return np.array(positions, np.int64)
