"""The set-similarity join against all pairs, and on pools made to be hard."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._text import candidates as candidates_module
from stages._text import join as join_module
from stages._text.candidates import Components, commonness, multiplicity
from stages._text.join import JoinResult, prefixes, similarity_join
from stages._text.ragged import Ragged, offsets_of
from stages.dedup._jaccard.minhash import band_buckets

HASHES = np.random.default_rng(0).integers(0, 2**64, 300_000, dtype=np.uint64)
MANY = partial(band_buckets, num_perm=128, seed=0)


def ragged(sets: list) -> Ragged:
    """Sets of small numbers as sets of hashes, sorted."""
    values = [np.sort(HASHES[sorted(s)]) for s in sets]
    flat = np.concatenate([np.zeros(0, dtype=np.uint64), *values])
    return Ragged(offsets_of(np.array([len(s) for s in sets])), flat)


def brute(sets: list, threshold: float) -> list[int]:
    """The smallest number in the component of each set, by all pairs."""
    root = list(range(len(sets)))

    def top(i: int) -> int:
        return i if root[i] == i else top(root[i])

    for i, j in combinations(range(len(sets)), 2):
        union = len(sets[i] | sets[j])
        if union and len(sets[i] & sets[j]) / union >= threshold:
            low, high = sorted((top(i), top(j)))
            root[high] = low
    return [top(i) for i in range(len(sets))]


def roots(result: JoinResult, count: int) -> list[int]:
    return result.components.roots(np.arange(count)).tolist()


small = st.sets(st.integers(0, 12), max_size=9)
near = st.tuples(st.sets(st.integers(0, 30), max_size=4), st.booleans()).map(
    lambda drawn: set(range(50, 62)) ^ drawn[0] if drawn[1] else drawn[0] | {99}
)
thresholds = st.sampled_from([0.2, 0.3, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0])


@given(st.lists(st.one_of(small, near), max_size=14), thresholds)
def test_components_are_those_of_all_pairs(sets: list, threshold: float) -> None:
    joined = similarity_join(ragged(sets), 0, threshold, prefixes)
    assert roots(joined, len(sets)) == brute(sets, threshold)
    for (i, j), value in zip(joined.pairs.tolist(), joined.values.tolist(), strict=True):
        assert value == len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold


@given(st.lists(st.one_of(small, near), max_size=14), thresholds, st.integers(0, 14))
def test_held_sets_decide_the_same_whether_or_not_they_are_compared(
    sets: list, threshold: float, held: int
) -> None:
    held = min(held, len(sets))
    joined = similarity_join(ragged(sets), held, threshold, prefixes)
    expected = brute(sets, threshold)
    result = roots(joined, len(sets))
    for i in range(held, len(sets)):
        assert (result[i] == i) == (expected[i] == i)
        assert (result[i] < held) == (expected[i] < held)
        assert expected[result[i]] == expected[i]


@pytest.mark.parametrize("buckets", [prefixes, MANY])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_larger_pools(buckets: object, threshold: float) -> None:
    random = np.random.default_rng(1)
    sets: list[set] = []
    for _ in range(60):
        base = random.integers(0, 400, random.integers(1, 40))
        for _ in range(random.integers(1, 12)):
            kept = base[random.random(len(base)) < random.uniform(0.6, 1.0)]
            sets.append({*kept.tolist(), *random.integers(0, 400, random.integers(0, 4)).tolist()})
    joined = similarity_join(ragged(sets), 0, threshold, buckets)
    assert roots(joined, len(sets)) == brute(sets, threshold)
    assert len({*roots(joined, len(sets))}) < len(sets) - 30


def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the pairs whose elements are compared."""
    counts: list[int] = []
    exact = candidates_module.intersection_sizes

    def counting(sets: Ragged, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        counts.append(len(left))
        return exact(sets, left, right)

    monkeypatch.setattr(candidates_module, "intersection_sizes", counting)
    monkeypatch.setattr(join_module, "intersection_sizes", counting)
    return counts


def listed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the pairs that buckets put together."""
    counts: list[int] = []
    once = join_module._unique_pairs

    def counting(left: np.ndarray, right: np.ndarray) -> tuple:
        counts.append(len(left))
        return once(left, right)

    monkeypatch.setattr(join_module, "_unique_pairs", counting)
    return counts


ROWS = 3000
OWN = iter(range(100_000, 300_000))
EQUAL = [set(range(40))] * ROWS
BOILERPLATE = [{*range(30), *(next(OWN) for _ in range(6 + i % 6))} for i in range(ROWS)]
PAIRED = [
    {*range(30), *range(100 + i // 2 * 9, 109 + i // 2 * 9)} | ({next(OWN)} if i % 2 else set())
    for i in range(ROWS)
]
MIXED = [
    {*range(36), *range(50_000 + i // 2 * 20, 50_000 + i // 2 * 20 + 4 + i // 2 % 13)}
    | ({next(OWN)} if i % 2 else set())
    for i in range(ROWS)
]
DENSE = [set(range(40)) - {i % 40, i // 40 % 40} | {50 + i % 7} for i in range(ROWS)]
SPREAD = [{*range(i // 2, i // 2 + 30)} for i in range(ROWS)]
HARD = {
    "equal": EQUAL,
    "boilerplate": BOILERPLATE,
    "paired": PAIRED,
    "mixed": MIXED,
    "dense": DENSE,
    "spread": SPREAD,
}


@pytest.mark.parametrize("buckets", [prefixes, MANY], ids=["prefixes", "bands"])
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_hard_pools_do_not_go_quadratic(
    name: str, buckets: object, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = HARD[name]
    pairs, candidates = compared(monkeypatch), listed(monkeypatch)
    joined = similarity_join(ragged(sets), 0, threshold, buckets)
    assert sum(pairs) < 20 * ROWS
    assert sum(candidates) < (100 if name in ("dense", "spread") else 10) * ROWS
    some = sorted({0, 1, 2, 3, *range(0, ROWS, 17)})
    complete = np.array(roots(joined, ROWS))
    for i, j in combinations(some, 2):
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold:
            assert complete[i] == complete[j]
    components = {"equal": 1, "dense": 1, "spread": 1, "paired": ROWS // 2}
    if name in components:
        assert len(np.unique(complete)) == components[name]


def test_wide_buckets_and_runs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    sets = [set(random.choice(60, 30, replace=False).tolist()) for _ in range(400)]
    expected = brute(sets, 0.5)
    monkeypatch.setattr(join_module, "_WIDE", 4)
    monkeypatch.setattr(join_module, "_PAIRS", 64)
    assert roots(similarity_join(ragged(sets), 0, 0.5, prefixes), 400) == expected
    assert 1 < len({*expected}) < 400


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = HASHES[np.random.default_rng(3).integers(0, 500, 2000)]
    flags = np.arange(2000) % 5 == 0
    counts = [int((values == value).sum()) for value in values]
    assert multiplicity(values).tolist() == counts
    marked = [int((values[flags] == value).sum()) for value in values]
    assert multiplicity(values, flags).tolist() == marked
    complete, fresh = commonness(values), commonness(values, flags)
    assert complete.tolist() == [int(8 * np.log2(count)) for count in counts]
    assert ((fresh > 0) == ((np.array(counts) > 1) & (np.array(marked) > 0))).all()
    for name, size in (("_PART", 64), ("_GROUP", 300)):
        monkeypatch.setattr(candidates_module, name, size)
        assert commonness(values).tolist() == complete.tolist()
        assert commonness(values, flags).tolist() == fresh.tolist()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_the_root_of_a_component_is_its_smallest_member(pairs: list) -> None:
    components = Components(21)
    left, right = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    components.join(left, right)
    groups = [{i} for i in range(21)]
    for a, b in pairs:
        if groups[a] is not groups[b]:
            groups[a] |= groups[b]
            for member in groups[b]:
                groups[member] = groups[a]
    assert components.roots(np.arange(21)).tolist() == [min(group) for group in groups]
