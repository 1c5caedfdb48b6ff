"""Similarities that a column lists: each method's formula over a matrix, against `diverse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from stages.score.one_shot import UTILITIES
from stages.select.diverse import diverse
from stages.select.diverse.lazy_greedy import Picks
from stages.select.diverse.methods import (
    ConditionalGain,
    Covering,
    FacilityLocation,
    MutualInformation,
)
from tests.stages.select.test_lazy_greedy import Value, is_greedy
from tests.support.options import problems

ROWS, HELD, TARGET = (range(0, 5), range(5, 7), range(7, 9))
"""Positions of the rows of each edge in the matrix of what one is worth to another."""

NOTHING = Context(Path(), Path(), Path())


def edge(worth: np.ndarray, span: range) -> pl.DataFrame:
    """Rows that list what is not 0 in their line of the matrix, and a stranger."""
    lists = [
        [{"id": f"r{v}", "value": worth[u, v]} for v in range(9) if worth[u, v]]
        + [{"id": "stranger", "value": 1.0}]
        for u in span
    ]
    return pl.DataFrame({"id": [f"r{u}" for u in span], "worth": pl.Series(lists, dtype=UTILITIES)})


def value_of(method: Covering, worth: np.ndarray, held: bool) -> Value:
    """The formula at the head of `select.diverse`, with what is below 0 as nothing."""
    s = np.maximum(worth, 0)
    before = s[np.ix_(HELD, range(9))].max(axis=0) if held else np.zeros(9)
    relevant = s[np.ix_(ROWS, TARGET)].max(axis=1)

    def value(picks: list[int]) -> float:
        covered = np.maximum(s[picks].max(axis=0, initial=0), before)
        match method:
            case FacilityLocation():
                return float(covered[ROWS].sum())
            case ConditionalGain():
                cover = s[picks].max(axis=0, initial=0)[ROWS]
                return float(np.maximum(cover - method.relevance * before[ROWS], 0).sum())
            case MutualInformation(represent="target"):
                return float(covered[TARGET].sum() + method.relevance * relevant[picks].sum())
        capped = np.minimum(covered[ROWS], method.relevance * relevant)
        return float(np.maximum(capped, before[ROWS]).sum())

    return value


@settings(max_examples=12)
@given(
    st.lists(st.lists(st.sampled_from([-0.5, 0.0, 0.0, 0.25, 0.5, 1.0]), min_size=9, max_size=9),
             min_size=9, max_size=9),
    st.integers(1, 5),
    st.booleans(),
)  # fmt: skip
def test_every_covering_method_is_its_formula(
    lines: list[list[float]], budget: int, held: bool
) -> None:
    worth = np.array(lines)
    methods: list[Covering] = [
        FacilityLocation(),
        ConditionalGain(relevance=0.5),
        MutualInformation(relevance=0.75),
        MutualInformation(represent="target", relevance=0.5),
    ]
    for method in methods:
        target = edge(worth, TARGET) if isinstance(method, MutualInformation) else None
        others = edge(worth, HELD) if held or isinstance(method, ConditionalGain) else None
        result = diverse(
            NOTHING, edge(worth, ROWS), target, others, method=method, budget=budget,
            similarities="worth",
        )  # fmt: skip
        ranked = result.with_row_index("row").drop_nulls("gain_rank").sort("gain_rank")
        picks = Picks(ranked["row"].to_numpy(), ranked["gain"].to_numpy())
        is_greedy(picks, value_of(method, worth, others is not None), 5, budget)


def test_a_row_that_is_not_picked_names_what_is_worth_most_to_it() -> None:
    worth = np.zeros((9, 9))
    worth[0, 1], worth[0, 2], worth[3, 1], worth[2, 4] = 0.5, 0.75, 0.25, -0.5
    result = diverse(
        NOTHING, edge(worth, ROWS), method=FacilityLocation(), budget=1, similarities="worth"
    )
    assert result["gain_rank"].to_list() == [1, None, None, None, None]
    assert [e and "nearest" in e for e in result["evidence"]] == [None, True, True, False, False]
    assert "0.75" in result["evidence"][2]


@pytest.mark.parametrize("method", ["k_center", "threshold", "graph_cut"])
def test_the_methods_that_compare_vectors_refuse_a_list(method: str) -> None:
    options: dict[str, Any] = {"method": method, "similarities": "worth", "budget": 3}
    if method == "threshold":
        options["score"] = "ifd"
    assert "must be facility_location" in str(problems("select.diverse", **options))
