"""PASER's rule: budgets by degradation, rows by efficiency, and none that contradicts another."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages.select.clusters import clusters
from stages.select.clusters.paser import ConceptGraph, Paser, concepts
from tests.support.options import problems

PHRASES = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=4, unique=True)


def pool(texts: list[str], groups: list[int], degradation: list[float]) -> pl.DataFrame:
    """Rows in clusters far from each other, the first ones the most efficient."""
    return pl.DataFrame(
        {
            "id": [f"{i:03}" for i in range(len(texts))],
            "messages": [
                [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
                for text in texts
            ],
            "vector": [[100.0 * group, 0.01 * i] for i, group in enumerate(groups)],
            "degradation": degradation,
            "ies": [1.0 - i / 100 for i in range(len(texts))],
        },
        schema_overrides={"vector": pl.List(pl.Float32)},
    )


def chosen(ctx: Context, rows: pl.DataFrame, **options: Any) -> pl.DataFrame:
    defaults = {"rule": Paser(), "score": "ies", "n_clusters": 2}
    return clusters(ctx, rows, **{**defaults, **options})


def kept(rows: pl.DataFrame, result: pl.DataFrame) -> list[str]:
    return rows["id"].filter(result["drop_reason"].is_null()).to_list()


def test_a_cluster_gets_the_part_that_its_degradation_is_rounded_down(ctx: Context) -> None:
    rows = pool(["Sing"] * 10, [0] * 5 + [1] * 5, [0.3] * 5 + [0.1] * 5)
    result = chosen(ctx, rows, budget=7)
    # 7 * 3/4 and 7 * 1/4: 5 and 1, and the rest is left.
    assert kept(rows, result) == ["000", "001", "002", "003", "004", "005"]
    assert json.loads(result["evidence"][9])["quota"] == 1
    # What a cluster cannot take is not given to another one.
    assert len(kept(rows, chosen(ctx, rows, budget=9))) == 5 + 2


def test_a_row_that_joins_known_concepts_anew_is_passed_over(ctx: Context) -> None:
    texts = [
        "red apples and green pears",
        "blue plums and old figs",
        "red apples and blue plums",  # both are known, and no row has joined them
        "red apples and new dates",
        "green pears and red apples",
    ]
    rows = pool(texts, [0] * 5, [1.0] * 5)
    result = chosen(ctx, rows, budget=5, n_clusters=1)
    assert kept(rows, result) == ["000", "001", "003", "004"]
    assert json.loads(result["evidence"][2])["conflict"] == ["red apples", "blue plums"]
    # The next rows take the place of one that is passed over.
    assert kept(rows, chosen(ctx, rows, budget=3, n_clusters=1)) == ["000", "001", "003"]


@settings(max_examples=60)
@given(st.lists(PHRASES, max_size=8))
def test_of_what_is_taken_no_two_known_concepts_meet_unjoined(rows: list[list[str]]) -> None:
    """Against the graph as the code has it: nodes and edges of the rows before."""
    graph = ConceptGraph()
    edges: set[frozenset[str]] = set()
    for phrases in rows:
        nodes = {node for edge in edges for node in edge}
        pairs = [(a, b) for a in phrases for b in phrases if a < b and {a, b} <= nodes]
        conflicts = [pair for pair in pairs if frozenset(pair) not in edges]
        assert (graph.conflict(phrases) is not None) == bool(conflicts)
        if not conflicts:
            graph.add(phrases)
            edges |= {frozenset((a, b)) for a in phrases for b in phrases if a != b}


def test_key_phrases_are_runs_between_stop_words_and_punctuation() -> None:
    text = "Compatibility of systems of linear constraints over the set of natural numbers."
    assert concepts(text, 1) == [
        "compatibility", "systems", "linear constraints", "set", "natural numbers",
    ]  # fmt: skip
    assert concepts(text, 2) == ["linear constraints", "natural numbers"]
    assert concepts("Grün-weiße Fahnen; 3 rote Sterne", 2) == ["grün-weiße fahnen", "3 rote sterne"]
    assert concepts("", 1) == concepts("the of ...", 1) == []


def test_rows_without_a_score_or_chosen_before_are_not_taken(ctx: Context) -> None:
    rows = pool(["Sing"] * 4, [0] * 4, [1.0] * 4).with_columns(ies=pl.Series([None, 0.5, 0.4, 0.3]))
    result = chosen(ctx, rows, budget=2, n_clusters=1)
    assert result["drop_reason"].to_list() == ["missing_score", None, None, "not_selected"]
    again = clusters(ctx, rows, rows[1:2], budget=2, n_clusters=1, rule=Paser(), score="ies")
    assert again["drop_reason"].to_list() == ["missing_score", "held", None, None]


def test_a_degradation_that_divides_nothing_is_refused(ctx: Context) -> None:
    for value in (0.0, -1.0, None):
        rows = pool(["Sing"] * 2, [0, 0], [1.0, 1.0]).with_columns(
            degradation=pl.lit(value, pl.Float64)
        )
        with pytest.raises(UserError, match="must be 0 or more on average in every cluster"):
            chosen(ctx, rows, budget=1, n_clusters=1)
    assert len(chosen(ctx, pool([], [], []), budget=1)) == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"budget": 3}, "score must be given with rule: paser, got null"),
        ({"score": "ies"}, "budget must be one number with rule: paser, got None"),
        (
            {"score": "ies", "budget": 3, "keep_chosen": True},
            "keep_chosen must be left out with rule: paser, got true",
        ),
    ],
)
def test_options_that_the_rule_has_no_use_for(options: dict[str, Any], problem: str) -> None:
    assert problems("select.clusters", rule="paser", **options) == [problem]
