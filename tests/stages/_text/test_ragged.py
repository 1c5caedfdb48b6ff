"""Ragged arrays against plain Python lists and sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages._text.ragged import (
    Ragged,
    blocks,
    distinct,
    intersection_sizes,
    offsets_of,
    sort_each,
    take,
)

ragged_values = st.lists(st.lists(st.integers(0, 6), max_size=7), max_size=9)


def ragged(values: list[list[int]]) -> Ragged:
    flat = np.array([value for part in values for value in part], dtype=np.uint64)
    return Ragged(offsets_of(np.array([len(part) for part in values], dtype=np.int64)), flat)


def listed(arrays: Ragged) -> list[list[int]]:
    borders = zip(arrays.offsets[:-1], arrays.offsets[1:], strict=True)
    return [arrays.values[start:stop].tolist() for start, stop in borders]


@given(ragged_values, st.data())
def test_take_sort_and_distinct(values: list, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=6)) if values else []
    positions = np.array(rows, dtype=np.int64)
    assert listed(take(ragged(values), positions)) == [values[i] for i in rows]
    arrays = ragged(values)
    sort_each(arrays)
    assert listed(arrays) == [sorted(part) for part in values]
    assert listed(distinct(ragged(values))) == [sorted(set(part)) for part in values]


@given(ragged_values, st.data())
def test_overlaps_are_those_of_python_sets(values: list, data: st.DataObject) -> None:
    sets = [set(part) for part in values]
    position = st.integers(0, len(sets) - 1)
    pairs = data.draw(st.lists(st.tuples(position, position), max_size=9)) if sets else []
    left, right = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    sets_of = distinct(ragged(values))
    assert intersection_sizes(sets_of, left, right).tolist() == [
        len(sets[i] & sets[j]) for i, j in pairs
    ]


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 15))
def test_blocks_follow_each_other_and_stay_small(costs: list[int], limit: int) -> None:
    parts = list(blocks(np.array(costs, dtype=np.int64), limit))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(costs)))
    assert all(sum(costs[part]) <= limit or part.stop - part.start == 1 for part in parts)
