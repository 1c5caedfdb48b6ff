"""Stages that take pairs beside records compare prompt and both sides, and mix nothing up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors
from pipeline.recipe.recipe import Recipe
from schemas.pairs import PAIR_COLUMNS
from stages._common.pairs import PARTS, as_conversations, place_in_pair
from stages.decontaminate.ngram import ngram
from stages.dedup.exact import exact
from stages.select.random import random
from tests.support.pairing import pair, pair_frame, turn
from tests.support.rows import SAMPLES, evidence, exam
from tests.support.running import artifact, recipe, run

NOWHERE = Context.__new__(Context)
"""None of these stages touches its context."""

QUESTION = "How many apples does Tom have if he buys five apples and eats two of them today?"
TURNS = st.lists(
    st.builds(turn, st.sampled_from(["user", "assistant"]), st.sampled_from(["a", "b"])), max_size=2
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(PARTS, TURNS)), min_size=2, max_size=6))
@settings(deadline=None)
def test_exact_duplicates_are_equal_in_prompt_and_both_sides(rows: list[dict[str, Any]]) -> None:
    rows = [row | {"id": f"{at:04}"} for at, row in enumerate(rows)]
    frame = pl.DataFrame(rows, schema=PAIR_COLUMNS)
    duplicates = evidence(frame, exact(NOWHERE, frame))
    for one, other in itertools.combinations(rows, 2):
        are_equal = all(one[name] == other[name] for name in PARTS)
        if are_equal and any(one[name] for name in PARTS):
            first = duplicates.get(one["id"], {"duplicate_of": one["id"]})["duplicate_of"]
            assert duplicates[other["id"]] == {"duplicate_of": first}
        elif not are_equal:
            assert duplicates.get(other["id"]) != {"duplicate_of": one["id"]}


def test_exact_compares_the_field_that_is_named() -> None:
    frame = pair_frame(
        [pair("q", "good", "bad"), pair("Q ", "good", "bad"), pair("q", "good", "worse"),
         pair("q", "bad", "good"), pair("q", "good", None), pair("q", None, "good")]
    )  # fmt: skip
    steps: Any = ("case", "space")
    dropped = {
        field: len(evidence(frame, exact(NOWHERE, frame, field=field, normalize=steps)))
        for field in ("conversation", "prompt", "response", "both")
    }
    assert dropped == {"conversation": 1, "prompt": 5, "response": 1, "both": 1}


def test_tool_calls_and_tools_of_pairs_are_compared() -> None:
    def calling(name: str, tools: str | None = None) -> dict[str, Any]:
        calls = [{"id": None, "name": name, "arguments": "{}"}]
        row = pair("q", None, "no", tools=tools)
        return row | {"id": f"{name}{tools}", "chosen": [turn("assistant", None, tool_calls=calls)]}

    frame = pair_frame([calling("add"), calling("sub"), calling("add", '["add"]')])
    assert len(evidence(frame, exact(NOWHERE, frame))) == 1
    assert len(evidence(frame, exact(NOWHERE, frame, view="all"))) == 0
    assert len(evidence(frame, exact(NOWHERE, frame, view="content"))) == 2


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (pair(QUESTION, "5", "3"), {"part": "prompt", "turn": 0}),
        (pair("Ask!", QUESTION, "no"), {"part": "chosen", "turn": 0}),
        (pair("Ask!", "no", QUESTION), {"part": "rejected", "turn": 0}),
        (pair("Ask!", None, QUESTION), {"part": "rejected", "turn": 0}),
        (pair("Ask!", "no", "yes", tools=json.dumps([{"d": QUESTION}])), {"part": "tools"}),
        (
            pair("Ask!", None, "no") | {"chosen": [turn("assistant", "A", reasoning=QUESTION)]},
            {"part": "chosen", "turn": 0},
        ),
    ],
)
def test_a_benchmark_item_is_seen_wherever_it_stands(
    row: dict[str, Any], place: dict[str, Any]
) -> None:
    frame = pair_frame([row, pair("Sing!", "La", "Lo")])
    causes = evidence(frame, ngram(NOWHERE, frame, exam("gsm8k", [{"question": QUESTION}])))
    assert list(causes) == [row["id"]]
    assert place.items() <= causes[row["id"]].items()


@given(st.fixed_dictionaries(dict.fromkeys(PARTS, TURNS)))
def test_every_turn_has_its_place(row: dict[str, Any]) -> None:
    (messages,) = as_conversations(pl.DataFrame([row], schema_overrides=PAIR_COLUMNS))["messages"]
    for at, message in enumerate(messages):
        if message["role"] not in PARTS:
            place = place_in_pair(row, at)
            assert row[place["part"]][place["turn"]]["content"] == message["content"]
    assert place_in_pair(row, len(messages))["part"] == "tools"


def test_a_random_sample_of_pairs() -> None:
    frame = pair_frame([pair(str(i), "good", "bad") for i in range(30)])
    chosen = random(NOWHERE, frame, budget=7)["drop_reason"].null_count()
    assert chosen == 7


LOAD = {
    "uses": "load.pairs",
    "with": {"path": str(SAMPLES / "oasst_trees.jsonl.gz"), "source": "oasst", "license": "x"},
}


def wired(step: dict[str, Any]) -> Callable[[], Recipe]:
    benchmarks = {"uses": "load.benchmarks", "with": {"names": ["mt_bench"]}}
    return lambda: recipe({"pairs": LOAD, "exams": benchmarks, "step": step})


@pytest.mark.parametrize(
    "step",
    [
        {"uses": "dedup.exact", "needs": "pairs"},
        {"uses": "select.random", "needs": "pairs", "with": {"budget": 5}},
        {"uses": "decontaminate.ngram", "needs": {"rows": "pairs", "benchmarks": "exams"}},
    ],
)
def test_recipes_lead_pairs_through_these_stages(step: dict[str, Any], tmp_path: Path) -> None:
    graph = wired(step)()
    assert run(graph, tmp_path) is Exit.DONE


def test_a_column_that_pairs_do_not_have_is_a_mistake() -> None:
    step = {"uses": "dedup.exact", "needs": "pairs", "with": {"order_by": "ifd"}}
    with pytest.raises(RecipeErrors, match="reads the column 'ifd', which 'pairs' does not have"):
        wired(step)()


def test_equal_pairs_of_two_pools_are_one_with_the_origins_of_both(tmp_path: Path) -> None:
    part = LOAD | {"with": LOAD["with"] | {"ranked": "adjacent", "source": "again"}}
    both = {"uses": "load.concat", "needs": ["pairs", "part"]}
    sampled = {"uses": "select.random", "needs": "both", "with": {"budget": 5}}
    graph = recipe({"pairs": LOAD, "part": part, "both": both, "sampled": sampled})
    assert run(graph, tmp_path) is Exit.DONE
    first, other, merged = (
        artifact(graph, tmp_path, name).read("kept") for name in ("pairs", "part", "both")
    )
    shared = set(first["id"]) & set(other["id"])
    assert 0 < len(shared) < len(first)
    assert set(merged["id"]) == {*first["id"], *other["id"]}
    sources = dict(merged.select("id", pl.col("origins").list.len()).iter_rows())
    assert {key for key, number in sources.items() if number == 2} == shared
    assert merged.columns == first.columns
