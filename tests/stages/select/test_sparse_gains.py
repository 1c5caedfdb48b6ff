"""The lists of pairs under facility location, against plain numpy; and machine code as such."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages._vectors.arrays import parallel_map
from stages.select.diverse.jit import compiled
from stages.select.diverse.sparse_gains import Pairs, Piece, above, above_across


def lists(piece: Piece) -> list[tuple[list[int], list[float]]]:
    """Each row's others and values."""
    cuts = np.cumsum(piece.lengths)[:-1]
    both = zip(np.split(piece.others, cuts), np.split(piece.values, cuts), strict=True)
    return [(others.tolist(), values.tolist()) for others, values in both]


@given(st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_what_is_above_its_floor(rows: int, others: int, capped: bool, seed: int) -> None:
    """Of rows and of columns, with floors that nothing is above and caps below some values."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-4, 5, (rows, others)).astype(np.float32)
    floors = rng.choice(np.array([-5, -1, 0, 2, np.inf], np.float32), others)
    caps = np.full(others, np.inf, np.float32)
    if capped:
        caps = np.where(np.isinf(floors), floors, floors + np.float32(1.5))
    expected = [
        ([o for o in range(others) if row[o] > floors[o]], np.minimum(row, caps)) for row in values
    ]
    for piece in (
        Piece(*above(values, floors, caps)),
        Piece(*above_across(np.ascontiguousarray(values.T), floors, caps)),
    ):
        assert lists(piece) == [(columns, kept[columns].tolist()) for columns, kept in expected]
        gained = [float((kept[columns] - floors[columns]).sum()) for columns, kept in expected]
        assert piece.gained.tolist() == gained


def test_sums_while_floors_rise() -> None:
    """Pairs that no longer count are removed; the others are summed as before, row by row."""
    rng = np.random.default_rng(0)
    values = rng.random((50, 70), np.float32)
    floors, caps = np.full(70, 0.2, np.float32), np.full(70, np.inf, np.float32)
    with parallel_map() as each:
        halves = [(0, slice(0, 30)), (30, slice(30, 70))]
        parts = [
            [
                (first, Piece(*above(values[rows, some].copy(), floors[some], caps[some])))
                for first, some in halves
            ]
            for rows in (slice(0, 20), slice(20, 50))
        ]
        pairs = Pairs(parts, np.uint16, each)
        for _ in range(6):
            floors = np.maximum(floors, rng.random(70, np.float32))
            rows = rng.permutation(50)[:33]
            exact = np.maximum(values[rows] - floors, 0).astype(np.float64).sum(axis=1)
            np.testing.assert_allclose(pairs.sums(rows, floors), exact, rtol=1e-6)
            for row in rows.tolist():
                others, kept = pairs.get(row)
                assert others.tolist() == np.flatnonzero(values[row] > floors).tolist()
                np.testing.assert_array_equal(kept, values[row, others])
        assert pairs.sums(np.zeros(0, np.int64), floors).shape == (0,)


def test_machine_code_that_cannot_be_kept() -> None:
    """A function without a file, as where no folder can be written to; two threads at once."""
    names: dict[str, Any] = {}
    exec("def doubled(values):\n    return values * 2\n", names)
    doubled = compiled(names["doubled"])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(doubled, [np.arange(3), np.arange(4)]))
    assert [one.tolist() for one in results] == [[0, 2, 4], [0, 2, 4, 6]]
