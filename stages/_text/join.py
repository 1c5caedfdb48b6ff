"""Set-similarity join: the groups of sets that a Jaccard similarity of at least t connects.

In: sets of hashes, a threshold, and where to search for partners. Out: the connected
components, and similar pairs that connect them. See `similarity_join`.

The components are those of all pairs (`brute` in tests/support/near_duplicates.py), found
faster because the pairs are narrowed in steps, each of which loses nothing:

1. A set of n that shares fewer than t n elements with any other set is out, and so
   is every element that one set alone holds. Most sets of a real pool end here.
2. Of sets that agree in all shared elements, the overlap is known: they are joined
   to the smallest of them, or, where they are too large for that, can be similar
   only to smaller sets than it.
3. Candidates come out of buckets: sets with a key in common. With the rarest
   elements of a set as its keys (`prefixes`), any similar pair has one (prefix and
   length filters: Bayardo, Ma and Srikant 2007, Scaling up all pairs similarity
   search; Xiao, Wang, Lin and Yu 2008, Efficient similarity joins for near duplicate
   detection). `dedup.minhash` has other keys.
4. Pairs that are connected already are skipped, the remaining ones compared exactly.

Only components are needed, so a group of m similar sets costs about m comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages._text.candidates import (
    EPSILON,
    SPARE_BITS,
    Components,
    Integers,
    SetPool,
    ceil_count,
    condense,
)
from stages._text.ragged import Ragged, blocks, intersection_sizes, offsets_of, ranges

_PAIRS: Final = 1 << 21
"""Candidate pairs listed at a time."""

_WIDE: Final = 64
"""A set with so many partners in a bucket is first compared with a few of them, which may
connect them all."""

_ROUNDS: Final = 3
"""How often the likeliest partner of each set is compared before all the others."""


class Buckets(NamedTuple):
    """Ranges of possible partners: entry row[i] may be similar to members[start[i]:stop[i]].

    Attributes:
        members: Entries, bucket by bucket and by ascending size.
        row: The entry of each range, ascending.
        start: Where its partners begin.
        stop: Where they end.
    """

    members: NDArray[np.int32]
    row: NDArray[np.int32]
    start: Integers
    stop: Integers


class JoinResult(NamedTuple):
    """What a join has connected.

    Attributes:
        pool: The sets that could be similar to another.
        components: Of all sets.
        pairs: Similar rows, enough of them to connect all components: shape (pairs, 2).
        values: Their similarities.
    """

    pool: SetPool
    components: Components
    pairs: Integers
    values: NDArray[np.float64]

    def similarity(self, left: Integers, right: Integers) -> NDArray[np.float64]:
        """The similarity of pairs of rows that are each similar to some row."""
        entries = (np.searchsorted(self.pool.rows, side) for side in (left, right))
        return self.pool.similarity(*entries)


def similarity_join(
    sets: Ragged, n_held: int, threshold: float, buckets: Callable[[SetPool], Sequence[Buckets]]
) -> JoinResult:
    """Connect all pairs of sets whose Jaccard similarity reaches the threshold.

    Args:
        sets: As of `shingle_sets`; empty ones stay alone.
        n_held: How many of the first sets were there before: pairs of them are not compared,
            unless they agree in all that others share.
        threshold: The smallest similarity.
        buckets: Where partners are searched for, such as `prefixes`.

    Example:
        >>> from stages._text.tokens import shingle_sets
        >>> import polars as pl
        >>> texts = pl.Series(["a b c d", "x y z", "a b c d e"])
        >>> result = similarity_join(shingle_sets(texts, 2), 0, 0.7, prefixes)
        >>> result.components.roots(np.arange(3)).tolist(), result.values.tolist()
        ([0, 1, 0], [0.75])
    """
    pool = condense(sets, n_held, threshold)
    components = Components(len(sets.lengths))
    copies = np.flatnonzero(pool.joined)
    originals = pool.representative[copies]
    links = _Links(pool, components, [], [])
    links.add(copies, originals, pool.similarity(copies, originals))
    for part in buckets(pool):
        _connect(links, part)
    return JoinResult(pool, components, np.concatenate(links.pairs), np.concatenate(links.values))


def prefixes(pool: SetPool, entries: Integers | None = None) -> list[Buckets]:
    """A bucket for each of the rarest elements of the sets (by default of all sets).

    Similar sets of x and y elements have t / (1 + t) (x + y) in common or more. So from the
    rarest common element on, either set has at least as many.
    """
    entries = np.flatnonzero(~pool.joined) if entries is None else entries
    counts = pool.prefix.lengths[entries]
    keys = pool.prefix.values[ranges(pool.prefix.offsets[entries], counts)] << SPARE_BITS
    position = ranges(np.zeros_like(counts), counts)
    max_overlap = np.repeat(pool.sets.lengths[entries], counts) - position
    return [find_partners(pool, keys, np.repeat(entries, counts), max_overlap)]


def find_partners(
    pool: SetPool, keys: NDArray[np.uint64], entries: Integers, max_overlap: Integers
) -> Buckets:
    """The partners of entries under equal keys, by the upper bits of the keys.

    Of two new sets the larger searches for the smaller, of a held and a new one the new. A
    set that agrees with a smaller one in all shared elements, but is not similar to it,
    searches only for still smaller sets, and none searches for it (it would find that
    smaller one instead, and be connected through it).

    Args:
        pool: The sets.
        keys: Sets with an equal key are in one bucket.
        entries: The entry of each key.
        max_overlap: The most that two sets which meet at this key can have in common.
    """
    # One integer for bucket and rank by size: sorting brings partners together, in order.
    bits = np.uint64(len(pool.rows).bit_length())
    rest = np.uint64((1 << int(bits)) - 1)
    codes = (keys & ~rest) | pool.rank[entries].astype(np.uint64)
    order = np.argsort(codes)
    codes = codes[order]
    same = codes[1:] >> bits == codes[:-1] >> bits
    several = (np.append(same, False) | np.append(False, same))[: len(codes)]
    codes, entry = codes[several], entries[order][several]
    max_overlap = max_overlap[order][several]
    held, visible = pool.held[entry], pool.representative[entry] == entry
    # Enough for the smaller of two sets, whatever the larger.
    enough = max_overlap >= ceil_count(2 * pool.min_overlap_fraction * pool.sizes[entry])
    smallest, middle, largest = _partner_ranks(pool, entry, max_overlap)
    parts = []
    for member, low, high in (
        (~held & visible & enough, smallest, np.minimum(middle, largest)),
        (held & visible & enough, smallest, np.minimum(middle, largest)),
        (held & visible, middle, largest),
    ):
        bucket = codes[~held] & ~rest
        start = np.searchsorted(codes[member], bucket | low[~held])
        stop = np.searchsorted(codes[member], bucket | high[~held])
        some = stop > start
        members, x = entry[member].astype(np.int32), entry[~held][some].astype(np.int32)
        parts.append(Buckets(members, x, start[some], stop[some]))
    return merge_buckets(parts)


def _partner_ranks(
    pool: SetPool, entry: Integers, max_overlap: Integers
) -> list[NDArray[np.uint64]]:
    """The ranks by size of the partners of entries: the first, the first that is not
    smaller than the entry, and the one after the last."""
    size = pool.sizes[entry]
    below = np.append(0, np.cumsum(np.bincount(pool.sizes)))
    low = below[ceil_count(pool.threshold * size)]
    max_size = np.floor(max_overlap / pool.min_overlap_fraction - size + EPSILON).astype(np.int64)
    high = below[np.clip(max_size + 1, 0, len(below) - 1)]
    # Where there is a smaller set that agrees: below its size.
    other = below[pool.sizes[pool.representative[entry]]]
    first = pool.representative[entry] == entry
    middle = np.where(first, pool.rank[entry], other)
    high = np.where(first, high, np.minimum(high, other))
    return [ranks.astype(np.uint64) for ranks in (low, middle, high)]


def merge_buckets(parts: Sequence[Buckets]) -> Buckets:
    """All buckets as one, those of an entry next to each other."""
    first = offsets_of(np.array([len(part.members) for part in parts], dtype=np.int64))
    row = np.concatenate([part.row for part in parts])
    start = np.concatenate([part.start + k for part, k in zip(parts, first, strict=False)])
    stop = np.concatenate([part.stop + k for part, k in zip(parts, first, strict=False)])
    order = np.argsort(row, kind="stable")
    members = np.concatenate([part.members for part in parts])
    return Buckets(members, row[order], start[order], stop[order])


class _Links(NamedTuple):
    """The similar pairs so far, and the components that they connect."""

    pool: SetPool
    components: Components
    pairs: list[Integers]
    values: list[NDArray[np.float64]]

    def add(self, left: Integers, right: Integers, values: NDArray[np.float64]) -> None:
        """Record those of the pairs that are similar, and connect them.

        Args:
            left: The first entry of each pair.
            right: The second.
            values: Their similarities.
        """
        similar = values >= self.pool.threshold
        pairs = np.stack([self.pool.rows[left[similar]], self.pool.rows[right[similar]]], axis=1)
        self.components.join(pairs[:, 0], pairs[:, 1])
        self.pairs.append(pairs)
        self.values.append(values[similar])

    def roots(self, entries: Integers) -> Integers:
        """The roots of entries' components."""
        return self.components.roots(self.pool.rows[entries])

    def compare(self, left: Integers, right: Integers) -> None:
        """Compare those of the pairs that are not connected and can be similar."""
        pool = self.pool
        needed = ceil_count(pool.min_overlap_fraction * (pool.sizes[left] + pool.sizes[right]))
        possible = np.minimum(pool.sets.lengths[left], pool.sets.lengths[right]) >= needed
        possible &= self.roots(left) != self.roots(right)
        left, right, needed = left[possible], right[possible], needed[possible]
        possible = _can_reach(pool, left, right, needed)
        left, right = left[possible], right[possible]
        self.add(left, right, pool.similarity(left, right))


def _can_reach(
    pool: SetPool, left: Integers, right: Integers, needed: Integers
) -> NDArray[np.bool_]:
    """Whether the overlap can be enough, from what the prefixes of both have in common.

    All other common elements come after that prefix which ends first.
    """
    shared = intersection_sizes(pool.prefix, left, right)
    last = (pool.prefix.values[pool.prefix.offsets[side + 1] - 1] for side in (left, right))
    first = np.where(np.less_equal(*last), left, right)
    rest = pool.sets.lengths[first] - pool.prefix.lengths[first]
    return np.asarray(shared + rest >= needed)


def _connect(links: _Links, buckets: Buckets) -> None:
    """Compare the partners in the buckets, until all similar pairs are connected."""
    _connect_wide(links, buckets)
    while True:
        runs = _Runs.of(links, buckets)
        buckets = _part(buckets, np.flatnonzero(runs.unconnected(buckets)))
        if not len(buckets.row):
            return
        listed = done = 0
        for part in _row_blocks(buckets.row, buckets.stop - buckets.start):
            if listed > len(buckets.members):
                # Much may be connected by now: check again which ranges are done.
                break
            left, right, times = _candidates(_part(buckets, part), runs)
            listed, done = listed + len(left) + _PAIRS // 8, part.stop
            _compare_likeliest_first(links, left, right, times)
        buckets = _part(buckets, slice(done, None))


def _part(buckets: Buckets, which: slice | Integers) -> Buckets:
    return buckets._replace(
        row=buckets.row[which], start=buckets.start[which], stop=buckets.stop[which]
    )


class _Runs(NamedTuple):
    """The members of the buckets as runs that are connected already.

    Attributes:
        number: The run of each member.
        first: Where each run begins, and the end of the last.
        root: The component of each run.
        roots: The component of each entry of the pool.
    """

    number: NDArray[np.int32]
    first: Integers
    root: NDArray[np.int32]
    roots: NDArray[np.int32]

    @classmethod
    def of(cls, links: _Links, buckets: Buckets) -> _Runs:
        """The runs of buckets under the links so far."""
        roots = links.roots(np.arange(len(links.pool.rows))).astype(np.int32)
        root = roots[buckets.members]
        new = np.append(True, root[1:] != root[:-1])[: len(root)]
        first = np.flatnonzero(new)
        number = np.cumsum(new, dtype=np.int32) - np.int32(1)
        return cls(number, np.append(first, len(root)), root[first], roots)

    def unconnected(self, buckets: Buckets) -> NDArray[np.bool_]:
        """Which ranges hold a member that is not connected with the row."""
        one_run = self.number[buckets.start] == self.number[buckets.stop - 1]
        same_root = self.root[self.number[buckets.start]] == self.roots[buckets.row]
        return np.asarray(~(one_run & same_root))


def _row_blocks(row: NDArray[np.int32], width: Integers) -> Iterator[slice]:
    """Blocks of all ranges of some rows, with about `_PAIRS` members at most."""
    first = np.flatnonzero(np.append(True, row[1:] != row[:-1])[: len(row)])
    border = np.append(first, len(row))
    for part in blocks(np.add.reduceat(width, first), _PAIRS):
        yield slice(int(border[part.start]), int(border[part.stop]))


def _candidates(buckets: Buckets, runs: _Runs) -> tuple[Integers, Integers, Integers]:
    """The pairs that share a bucket and are not connected, and how many buckets they share."""
    start = runs.number[buckets.start].astype(np.int64)
    counts = runs.number[buckets.stop - 1] + 1 - start
    run, index = ranges(start, counts), np.repeat(np.arange(len(start)), counts)
    differ = runs.root[run] != runs.roots[buckets.row[index]]
    run, index = run[differ], index[differ]
    begin = np.maximum(runs.first[run], buckets.start[index])
    counts = np.minimum(runs.first[run + 1], buckets.stop[index]) - begin
    left = np.repeat(buckets.row[index], counts).astype(np.int64)
    return _unique_pairs(left, buckets.members[ranges(begin, counts)].astype(np.int64))


def _unique_pairs(left: Integers, right: Integers) -> tuple[Integers, Integers, Integers]:
    """Each pair once, and how often it occurred."""
    codes = np.sort(left << 32 | right)
    first = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
    return codes[first] >> 32, codes[first] & 0xFFFFFFFF, np.diff(np.append(first, len(codes)))


def _compare_likeliest_first(
    links: _Links, left: Integers, right: Integers, times: Integers
) -> None:
    """Compare pairs, first the partner with which each set shares most buckets."""
    order = np.lexsort((-times, left))
    left, right = left[order], right[order]
    for _ in range(_ROUNDS):
        first = np.append(True, left[1:] != left[:-1])[: len(left)]
        links.compare(left[first], right[first])
        rest = ~first & (links.roots(left) != links.roots(right))
        left, right = left[rest], right[rest]
    links.compare(left, right)


def _connect_wide(links: _Links, buckets: Buckets) -> None:
    """Compare sets that have many partners with those 1, 2, 4 ... ranks below in size."""
    wide = _part(buckets, np.flatnonzero(buckets.stop - buckets.start >= _WIDE))
    back = 1
    while len(wide.row):
        partner = wide.members[wide.stop - back].astype(np.int64)
        left, right, _ = _unique_pairs(wide.row.astype(np.int64), partner)
        links.compare(left, right)
        back *= 2
        wide = _part(wide, np.flatnonzero(wide.stop - back >= wide.start))
