"""Set-similarity join: the groups of sets that a Jaccard similarity of at least t connects.

What can be similar is narrowed in steps, each of which loses nothing:

1. A set of n that shares fewer than t n elements with any other set is out, and so
   is every element that one set alone holds. Most sets of a real pool end here.
2. Of sets that agree in all shared elements, the overlap is known: they are joined
   to the smallest of them, or, where they are too large for that, can be similar
   only to smaller sets than it.
3. Candidates come out of buckets: sets with a key in common. With the rarest
   elements of a set as its keys (`prefixes`), any similar pair has one (prefix and
   length filters: Bayardo, Ma and Srikant 2007, Scaling up all pairs similarity
   search; Xiao, Wang, Lin and Yu 2008, Efficient similarity joins for near duplicate
   detection). `stages.dedup._jaccard.minhash` has other keys.
4. Pairs that are connected already are passed over, what remains is compared exactly.

Only components are wanted, so a group of m similar sets costs about m comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.ragged import Ragged, blocks, offsets_of, overlaps, ranges
from stages.dedup._jaccard.candidates import EPSILON, SPARE, Components, Pool, at_least, condensed

_PAIRS: Final = 1 << 21
"""Candidates looked at at a time."""

_WIDE: Final = 64
"""A set with so many partners in a bucket is first compared with a few of them, in the
hope that this connects them all."""

_ROUNDS: Final = 3
"""How often the likeliest partner of each set is compared before all the others."""


class Buckets(NamedTuple):
    """Ranges of possible partners.

    members: entries, bucket by bucket and by ascending size. Entry `row[i]` may be
    similar to members[start[i]:stop[i]].
    """

    members: NDArray[np.int32]
    row: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


class Similar(NamedTuple):
    """pairs: int64 of shape (pairs, 2), numbers of rows found similar, enough of them to
    connect all components; values: their similarities."""

    pool: Pool
    components: Components
    pairs: NDArray[np.int64]
    values: NDArray[np.float64]

    def similarity(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """The similarity of pairs of rows that were found similar to some row."""
        places = (np.searchsorted(self.pool.rows, side) for side in (left, right))
        return self.pool.similarity(*places)


def similar(
    sets: Ragged, held: int, threshold: float, buckets: Callable[[Pool], Sequence[Buckets]]
) -> Similar:
    """Connect all pairs of sets whose Jaccard similarity reaches the threshold.

    sets: as of `shingle_sets`; empty ones stay alone. held: how many of the first
    were there before: pairs of them are not looked for, unless they agree in all that
    others share. buckets: where partners are looked for, such as `prefixes`.
    """
    pool = condensed(sets, held, threshold)
    components = Components(len(sets.lengths))
    copies = np.flatnonzero(pool.joined)
    found = _Found(pool, components, [], [])
    found.add(copies, pool.alike[copies], pool.similarity(copies, pool.alike[copies]))
    for part in buckets(pool):
        _connect(found, part)
    return Similar(pool, components, np.concatenate(found.pairs), np.concatenate(found.values))


def prefixes(pool: Pool, entries: NDArray[np.int64] | None = None) -> list[Buckets]:
    """A bucket for each of the rarest elements of the sets (by default of all sets).

    Similar sets of x and y elements have t / (1 + t) (x + y) in common or more. So the
    rarest one in common has as many behind it in either, itself among them.
    """
    entries = np.flatnonzero(~pool.joined) if entries is None else entries
    counts = pool.prefix.lengths[entries]
    keys = pool.prefix.values[ranges(pool.prefix.offsets[entries], counts)] << SPARE
    place = ranges(np.zeros_like(counts), counts)
    behind = np.repeat(pool.sets.lengths[entries], counts) - place
    return [look_up(pool, keys, np.repeat(entries, counts), behind)]


def look_up(
    pool: Pool, keys: NDArray[np.uint64], entries: NDArray[np.int64], behind: NDArray[np.int64]
) -> Buckets:
    """The partners that entries find under equal keys, by the upper bits of the keys.

    behind: how much two sets that meet at this key can have in common at most.

    Of two new sets the larger looks for the smaller, of a held and a new one the new. A
    set that agrees with a smaller one in all shared elements, but is not similar to it,
    looks only for still smaller sets, and none looks for it (then it could find that
    smaller one instead, and be found by way of it).
    """
    # One number for bucket and rank by size: sorting brings partners together, in order.
    bits = np.uint64(len(pool.rows).bit_length())
    rest = np.uint64((1 << int(bits)) - 1)
    codes = (keys & ~rest) | pool.rank[entries].astype(np.uint64)
    order = np.argsort(codes)
    codes = codes[order]
    again = codes[1:] >> bits == codes[:-1] >> bits
    several = (np.append(again, False) | np.append(False, again))[: len(codes)]
    codes, entry, behind = codes[several], entries[order][several], behind[order][several]
    held, looked = pool.held[entry], pool.alike[entry] == entry
    # Enough for the smaller of two sets, whatever the larger.
    enough = behind >= at_least(2 * pool.share * pool.sizes[entry])
    smallest, middle, largest = _partner_ranks(pool, entry, behind)
    found = []
    for member, low, high in (
        (~held & looked & enough, smallest, np.minimum(middle, largest)),
        (held & looked & enough, smallest, np.minimum(middle, largest)),
        (held & looked, middle, largest),
    ):
        bucket = codes[~held] & ~rest
        start = np.searchsorted(codes[member], bucket | low[~held])
        stop = np.searchsorted(codes[member], bucket | high[~held])
        some = stop > start
        members, x = entry[member].astype(np.int32), entry[~held][some].astype(np.int32)
        found.append(Buckets(members, x, start[some], stop[some]))
    return united(found)


def _partner_ranks(
    pool: Pool, entry: NDArray[np.int64], behind: NDArray[np.int64]
) -> list[NDArray[np.uint64]]:
    """The ranks by size of the partners of entries: the first, the first that is not
    smaller than the entry, and the one behind the last."""
    size = pool.sizes[entry]
    below = np.append(0, np.cumsum(np.bincount(pool.sizes)))
    low = below[at_least(pool.threshold * size)]
    most = np.floor(behind / pool.share - size + EPSILON).astype(np.int64)
    high = below[np.clip(most + 1, 0, len(below) - 1)]
    # Where there is a smaller one that agrees: below that one's size.
    other = below[pool.sizes[pool.alike[entry]]]
    first = pool.alike[entry] == entry
    middle = np.where(first, pool.rank[entry], other)
    high = np.where(first, high, np.minimum(high, other))
    return [ranks.astype(np.uint64) for ranks in (low, middle, high)]


def united(parts: Sequence[Buckets]) -> Buckets:
    """All buckets as one, those of an entry behind each other."""
    first = offsets_of(np.array([len(part.members) for part in parts], dtype=np.int64))
    row = np.concatenate([part.row for part in parts])
    start = np.concatenate([part.start + at for part, at in zip(parts, first, strict=False)])
    stop = np.concatenate([part.stop + at for part, at in zip(parts, first, strict=False)])
    order = np.argsort(row, kind="stable")
    members = np.concatenate([part.members for part in parts])
    return Buckets(members, row[order], start[order], stop[order])


class _Found(NamedTuple):
    """The similar pairs so far, and what they connect."""

    pool: Pool
    components: Components
    pairs: list[NDArray[np.int64]]
    values: list[NDArray[np.float64]]

    def add(
        self, left: NDArray[np.int64], right: NDArray[np.int64], values: NDArray[np.float64]
    ) -> None:
        """Note those of the pairs that are similar, and connect them."""
        near = values >= self.pool.threshold
        pairs = np.stack([self.pool.rows[left[near]], self.pool.rows[right[near]]], axis=1)
        self.components.join(pairs[:, 0], pairs[:, 1])
        self.pairs.append(pairs)
        self.values.append(values[near])

    def roots(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.components.roots(self.pool.rows[entries])

    def compare(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Compare those of the pairs that are not connected and can be similar."""
        pool = self.pool
        needed = at_least(pool.share * (pool.sizes[left] + pool.sizes[right]))
        able = np.minimum(pool.sets.lengths[left], pool.sets.lengths[right]) >= needed
        able &= self.roots(left) != self.roots(right)
        left, right = left[able], right[able]
        able = _can_reach(pool, left, right, needed[able])
        left, right = left[able], right[able]
        self.add(left, right, pool.similarity(left, right))


def _can_reach(
    pool: Pool, left: NDArray[np.int64], right: NDArray[np.int64], needed: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the overlap can be enough by what the rarest elements of both have in common.

    Whatever else is in common lies behind that prefix which ends first.
    """
    shared = overlaps(pool.prefix, left, right)
    last = (pool.prefix.values[pool.prefix.offsets[side + 1] - 1] for side in (left, right))
    first = np.where(np.less_equal(*last), left, right)
    behind = pool.sets.lengths[first] - pool.prefix.lengths[first]
    return np.asarray(shared + behind >= needed)


def _connect(found: _Found, buckets: Buckets) -> None:
    """Compare what the buckets put together, until nothing similar is apart."""
    _connect_wide(found, buckets)
    while True:
        runs = _Runs.of(found, buckets)
        buckets = _part(buckets, np.flatnonzero(runs.apart(buckets)))
        if not len(buckets.row):
            return
        looked_at = done = 0
        for part in _whole_rows(buckets.row, buckets.stop - buckets.start):
            if looked_at > len(buckets.members):
                # Much may be connected by now: see again which ranges are done.
                break
            left, right, times = _candidates(_part(buckets, part), runs)
            looked_at, done = looked_at + len(left) + _PAIRS // 8, part.stop
            _compare_likeliest_first(found, left, right, times)
        buckets = _part(buckets, slice(done, None))


def _part(buckets: Buckets, which: slice | NDArray[np.int64]) -> Buckets:
    return buckets._replace(
        row=buckets.row[which], start=buckets.start[which], stop=buckets.stop[which]
    )


class _Runs(NamedTuple):
    """The members of the buckets as stretches that are connected already.

    number: the stretch of each member. first: where each begins, and the end of the
    last. root: the component of each stretch. roots: that of each entry of the pool.
    """

    number: NDArray[np.int32]
    first: NDArray[np.int64]
    root: NDArray[np.int32]
    roots: NDArray[np.int32]

    @classmethod
    def of(cls, found: _Found, buckets: Buckets) -> _Runs:
        roots = found.roots(np.arange(len(found.pool.rows))).astype(np.int32)
        root = roots[buckets.members]
        new = np.append(True, root[1:] != root[:-1])[: len(root)]
        first = np.flatnonzero(new)
        number = np.cumsum(new, dtype=np.int32) - np.int32(1)
        return cls(number, np.append(first, len(root)), root[first], roots)

    def apart(self, buckets: Buckets) -> NDArray[np.bool_]:
        """Which ranges hold a member that is not connected with the row."""
        one = self.number[buckets.start] == self.number[buckets.stop - 1]
        own = self.root[self.number[buckets.start]] == self.roots[buckets.row]
        return np.asarray(~(one & own))


def _whole_rows(row: NDArray[np.int32], width: NDArray[np.int64]) -> Iterator[slice]:
    """Stretches of all ranges of some rows, with about `_PAIRS` members at most."""
    first = np.flatnonzero(np.append(True, row[1:] != row[:-1])[: len(row)])
    border = np.append(first, len(row))
    for part in blocks(np.add.reduceat(width, first), _PAIRS):
        yield slice(int(border[part.start]), int(border[part.stop]))


def _candidates(
    buckets: Buckets, runs: _Runs
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that share a bucket and are not connected, and how many buckets they share."""
    start = runs.number[buckets.start].astype(np.int64)
    counts = runs.number[buckets.stop - 1] + 1 - start
    run, at = ranges(start, counts), np.repeat(np.arange(len(start)), counts)
    other = runs.root[run] != runs.roots[buckets.row[at]]
    run, at = run[other], at[other]
    begin = np.maximum(runs.first[run], buckets.start[at])
    counts = np.minimum(runs.first[run + 1], buckets.stop[at]) - begin
    left = np.repeat(buckets.row[at], counts).astype(np.int64)
    return _once(left, buckets.members[ranges(begin, counts)].astype(np.int64))


def _once(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each pair once, and how often it was there."""
    codes = np.sort(left << 32 | right)
    first = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
    return codes[first] >> 32, codes[first] & 0xFFFFFFFF, np.diff(np.append(first, len(codes)))


def _compare_likeliest_first(
    found: _Found, left: NDArray[np.int64], right: NDArray[np.int64], times: NDArray[np.int64]
) -> None:
    order = np.lexsort((-times, left))
    left, right = left[order], right[order]
    for _ in range(_ROUNDS):
        first = np.append(True, left[1:] != left[:-1])[: len(left)]
        found.compare(left[first], right[first])
        rest = ~first & (found.roots(left) != found.roots(right))
        left, right = left[rest], right[rest]
    found.compare(left, right)


def _connect_wide(found: _Found, buckets: Buckets) -> None:
    """Compare sets that have many partners with those 1, 2, 4 ... places below in size."""
    wide = _part(buckets, np.flatnonzero(buckets.stop - buckets.start >= _WIDE))
    back = 1
    while len(wide.row):
        partner = wide.members[wide.stop - back].astype(np.int64)
        left, right, _ = _once(wide.row.astype(np.int64), partner)
        found.compare(left, right)
        back *= 2
        wide = _part(wide, np.flatnonzero(wide.stop - back >= wide.start))
