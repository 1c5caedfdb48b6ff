"""Facility location and its relatives, without the matrix of all similarities.

Each represented row v is covered as well as the most similar picked row covers it. The
gain of u is the sum over v of max(min(s(v, u), cap(v)) - cover(v), 0): only the pairs
in which u would cover v better count, and they become fewer with every pick, because
covers only rise.

While these pairs are many, a ceiling that takes no pairs rules most rows out (`Excess`).
For the others the sums are taken from blocks of products that are thrown away: for the
rows whose gain is asked for, over the covers that have risen since all rows were
evaluated, and for all rows once these are too many. Once the pairs fit in memory, all
rows are multiplied one last time and the pairs are kept: from then on a gain is a sum
over them.

Blocks of products are changed in place: memory that is given back and taken again for
each block costs as much time as the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from stages._vectors.arrays import to_host
from stages.select._submodular.greedy import DECIMALS, Afterwards
from stages.select._submodular.mixed_precision import (
    Excess,
    Fast,
    Floats,
    Points,
    Positions,
    blocks,
)
from stages.select._submodular.sparse_gains import Pairs, Piece, above, above_across

ROOM: Final = 48_000_000
"""Pairs that are kept: about 300 MB, or 400 MB above 65,536 represented rows."""

_SIDE: Final = 512
"""Rows of a block and of a tile where all rows are multiplied with all: 1 MiB of products."""

_CELLS: Final = 1 << 18
"""Products of a block and a tile where some rows are multiplied with some: 1 MiB, too."""

_TILE: Final = 2048

_SAMPLE: Final = 128
"""Represented rows from which the number of pairs that count is estimated."""

_PATIENCE: Final = 0.25
"""All rows are evaluated once this share of that work was spent on some of them."""

_ANEW: Final = 0.5
"""Sums are taken anew when this share of the covers has risen, else what they lost is taken off."""

_SUM: Final = 2.0**-14
"""More than a sum of a tile's float32 values can be off, relatively: so many additions of 2^-24."""


class Cover(NamedTuple):
    """What is to be covered, and how a row's gain is weighed.

    represented: the rows to cover, as positions among the points. start: how well each is
    covered before anything is picked. cap: how well it can be covered at most, None for no
    limit. scale: the weight of the covering.
    extra: what each row gains besides, whatever else is picked.
    """

    represented: slice
    start: Floats
    cap: Floats | None
    scale: float
    extra: Floats


class Coverage:
    """The objective: `scale` times the sum of the covers, plus the `extra` of the picked rows."""

    shrinking = True
    afterwards: Afterwards | None = None

    def __init__(self, points: Points, cover: Cover, room: int = ROOM) -> None:
        """points: the rows, one for each of `extra`, and behind them others. room: how many
        pairs may be kept."""
        count = len(cover.extra)
        self._points, self._task = points, cover
        self._candidates = points.fast.take(slice(0, count))
        self._targets = points.fast.take(cover.represented)
        self._cover = cover.start.copy()
        self._caps = np.full(len(self._cover), np.inf, np.float32)
        if cover.cap is not None:
            self._caps = _up(cover.cap)
        self._columns: dict[int, tuple[Positions, Floats]] = {}
        self._pairs: Pairs | None = None
        self._twin = _twins(to_host(points.exact[:count]))
        self._same = cover.represented == slice(0, count)
        self._room, self._behind = room, False
        self._base: Floats | None = None
        self._spent = np.inf
        self._round_covers()
        self.ceilings = np.full(count, np.inf)
        self.fresh = np.zeros(count, np.bool_)
        self._excess: Excess | None = None
        if points.norms is not None:
            self._excess, self._spent = Excess.of(points, count, cover.represented), 0.0
            self._lower_cheaply(self._excess)

    def watch(self, rows: Positions) -> None:
        """Nothing: what is worth doing at once is decided by what it costs."""

    def refresh(self, rows: Positions) -> None:
        if self._behind:
            self._catch_up()
        if self._pairs is not None:
            self._lower(rows, self._pairs.sums(rows, self._floor) * (1 + _SUM))
            return
        lagging = len(self._cover) if self._base is None else len(self._lag[0].values)
        self._spent += len(rows) * lagging
        if self._spent > _PATIENCE * len(self.ceilings) * lagging:
            self._settle(lagging)
        elif self._base is None:
            self._lower(rows, self._sums(rows, self._targets, 1, self._gaps) * (1 + _SUM))
        else:
            self._lower(rows, self._base[rows] - self._risen(rows))

    def exact(self, rows: Positions) -> Floats:
        twins = self._twin[rows]
        for row in np.unique(twins).tolist():
            if row not in self._columns:
                self._columns[row] = self._column(row)
        sums = {row: self._gain(*self._columns[row]) for row in np.unique(twins).tolist()}
        covered = np.array([sums[row] for row in twins.tolist()])
        gains = np.round(self._task.scale * covered + self._task.extra[rows], DECIMALS)
        self.ceilings[rows] = gains
        return gains

    def add(self, row: int) -> None:
        others, values = self._columns[int(self._twin[row])]
        self._columns = {}
        better = values > self._cover[others]
        if not better.any():
            return  # every gain is what it was
        self._cover[others[better]] = values[better]
        self.fresh[:] = False
        self._behind = True
        self._round_covers()
        if self._excess is None and 2 * np.count_nonzero(better) > len(self._cover):
            self._spent = np.inf  # nearly every gain is another: evaluate all rows

    def _catch_up(self) -> None:
        """Make ready to look at rows after others have been picked."""
        self._behind = False
        if self._pairs is not None:
            return
        if self._count_pairs() <= self._room:
            self._keep_pairs()
            return
        if self._base is not None:
            self._follow()
        if self._excess:
            self._lower_cheaply(self._excess)

    def _round_covers(self) -> None:
        """The covers in float32, not above the true ones; infinite where they are at the cap."""
        below = np.nextafter(self._cover.astype(np.float32), np.float32(-np.inf))
        if self._task.cap is not None:
            below[self._cover >= self._task.cap] = np.inf
        self._floor = below

    def _lower(self, rows: Positions, sums: Floats) -> None:
        """Take sums over pairs, none of them too small, as the rows' ceilings."""
        raised = np.maximum(sums, 0) + 2 * 10.0**-DECIMALS
        found = self._task.scale * raised + self._task.extra[rows] + 10.0**-DECIMALS
        self.ceilings[rows] = np.minimum(self.ceilings[rows], found)
        self.fresh[rows] = True

    def _gain(self, others: Positions, values: Floats) -> float:
        return float(np.maximum(values - self._cover[others], 0).sum())

    def _column(self, row: int) -> tuple[Positions, Floats]:
        """The represented rows that a row may cover better, and how well, in float64."""
        at = np.array([row])
        if self._pairs is not None:
            others, bounds = self._pairs.get(row)
            others = others[bounds > self._floor[others]].astype(np.int64)
        else:
            bounds = to_host(self._candidates.take(at).bounds(self._targets, 1))[0]
            others = np.flatnonzero(bounds > self._floor)
        values = self._points.unrounded(at, others + self._task.represented.start)
        return others, values if self._task.cap is None else np.minimum(
            values, self._task.cap[others]
        )

    # While the pairs are many: `_base` holds all rows' sums at the covers `_settled`, and
    # `_lag` the represented rows whose covers have risen since, from where to where.

    def _lower_cheaply(self, excess: Excess) -> None:
        self._lower(np.arange(len(self.ceilings)), excess.ceilings(self._points, self._cover))
        self.fresh[:] = False

    def _settle(self, lagging: int) -> None:
        """Evaluate all rows, at so many covers that have risen."""
        rows = np.arange(len(self.ceilings))
        if self._base is not None and lagging < _ANEW * len(self._cover):
            self._base = self._base - self._risen(rows)
        else:
            self._base = self._anew()
        self._lower(rows, self._base)
        self._settled, self._spent = self._cover.copy(), 0.0
        self._follow()

    def _anew(self) -> Floats:
        """The sums of all rows, none of them too small."""
        sums = np.zeros(len(self.ceilings))

        def summed(found: Any, targets: slice, axis: int) -> Floats:
            gaps = self._gaps(found, targets, axis)
            return to_host(array_namespace(gaps).sum(gaps, axis=axis)).astype(np.float64)

        for rows, tile, found in self._sweep(summed):
            sums[rows] += found[0]
            if len(found) > 1:
                sums[tile] += found[1]
        return sums * (1 + _SUM)

    def _gaps(self, found: Any, targets: slice, axis: int = 1) -> Any:
        """By how much rows would raise the covers of targets, which lie along the axis."""
        xp = array_namespace(found)
        shape = (1, -1) if axis else (-1, 1)
        if self._task.cap is not None:
            cap = self._on_device(_up(self._task.cap[targets]))
            found = xp.minimum(found, xp.reshape(cap, shape))
        gaps = found - xp.reshape(self._on_device(self._floor[targets]), shape)
        return xp.maximum(gaps, xp.zeros_like(gaps[:1, :1]), out=gaps)

    def _follow(self) -> None:
        lag = np.flatnonzero(self._cover > self._settled)
        high = np.nextafter(self._cover[lag].astype(np.float32), np.float32(-np.inf))
        low = np.minimum(_up(self._settled[lag]), high)
        self._lag = self._targets.take(lag), self._on_device(low), self._on_device(high)

    def _risen(self, rows: Positions) -> Floats:
        """By how much the rows' sums have fallen since all rows were evaluated, not too much."""
        targets, low, high = self._lag

        def risen(found: Any, tile: slice) -> Any:
            found = array_namespace(found).clip(found, low[tile], high[tile])
            found -= low[tile]
            return found

        return self._sums(rows, targets, -1, risen) * (1 - _SUM)

    def _count_pairs(self) -> float:
        """How many pairs count, from evenly spaced represented rows."""
        width = len(self._cover)
        sample = np.unique(np.linspace(0, width - 1, min(width, _SAMPLE)).astype(np.int64))
        floor = self._on_device(self._floor[sample])

        def count(found: Any, tile: slice) -> Any:
            return found > floor[tile]

        rows = np.arange(len(self.ceilings))
        found = self._sums(rows, self._targets.take(sample), 1, count)
        return float(found.sum()) * width / len(sample)

    # Once they are few: the pairs of all rows are in `_pairs`.

    def _keep_pairs(self) -> None:
        """Ceilings from the similarities of all rows with all, and the pairs that count."""
        parts: list[list[tuple[int, Piece]]] = [[] for _ in blocks(len(self.ceilings), 1, _SIDE)]
        sums = np.zeros(len(self.ceilings))

        def better(found: Any, targets: slice, axis: int) -> Piece:
            search = above if axis else above_across
            return Piece(*search(to_host(found), self._floor[targets], self._caps[targets]))

        for rows, tile, found in self._sweep(better):
            for owners, others, piece in zip((rows, tile), (tile, rows), found, strict=False):
                parts[owners.start // _SIDE].append((others.start, piece))
                sums[owners] += piece.gained
        self._lower(np.arange(len(sums)), sums * (1 + _SUM))
        kind = np.uint16 if len(self._cover) <= 1 << 16 else np.uint32
        self._pairs = Pairs(parts, kind, self._points.each)

    def _sweep(
        self, use: Callable[[Any, slice, int], Any]
    ) -> Iterator[tuple[slice, slice, tuple[Any, ...]]]:
        """What `use` makes of the similarities of all rows with all represented ones.

        For each block of rows and each tile of targets, in order, use(similarities,
        targets, 1), where targets are the second axis. Where rows and targets are the
        same, a tile is multiplied once for both: then there is use(..., 0), too, where
        the targets are the first axis.
        """
        for rows in blocks(len(self.ceilings), 1, _SIDE):
            some = self._candidates.take(rows)
            tiles = blocks(len(self._cover), 1, _SIDE)
            if self._same:
                tiles = [tile for tile in tiles if tile.start >= rows.start]

            def both(tile: slice, rows: slice = rows, some: Fast = some) -> tuple[Any, ...]:
                found = some.bounds(self._targets.take(tile), 1)
                if self._same and tile != rows:
                    return use(found, tile, 1), use(found, rows, 0)
                return (use(found, tile, 1),)

            for tile, found in zip(tiles, self._map(both, tiles), strict=True):
                yield rows, tile, found

    def _sums(
        self, rows: Positions, targets: Fast, sign: int, use: Callable[[Any, slice], Any]
    ) -> Floats:
        """For each row, the sum of what `use` makes of its similarities with each tile."""
        sums, width = np.zeros(len(rows)), len(targets.values)
        tiles = blocks(width, 1, _TILE)
        for part in blocks(len(rows), min(max(width, 1), _TILE), _CELLS):
            some = self._candidates.take(rows[part])

            def summed(tile: slice, some: Fast = some) -> Floats:
                found = use(some.bounds(targets.take(tile), sign), tile)
                return to_host(array_namespace(found).sum(found, axis=1)).astype(np.float64)

            for found in self._map(summed, tiles):  # in order, whichever was first
                sums[part] += found
        return sums

    def _map(self, function: Callable[[slice], Any], parts: list[slice]) -> list[Any]:
        """The results in order, on all threads."""
        return self._points.each(lambda one: function(parts[one.start]), len(parts), 1)

    def _on_device(self, values: NDArray[np.float32]) -> Any:
        like = self._targets.values
        return array_namespace(like).asarray(values, device=like.device)


def _up(values: Floats) -> NDArray[np.float32]:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def _twins(vectors: NDArray[np.float32]) -> Positions:
    """For each vector the position of the first that equals it."""
    first: dict[bytes, int] = {}
    found: list[int] = []
    for part in blocks(len(vectors), vectors.shape[1], _CELLS):
        for row in vectors[part] + np.float32(0):  # no -0
            found.append(first.setdefault(xxh3_128_digest(row), len(found)))
    return np.array(found, np.int64)
