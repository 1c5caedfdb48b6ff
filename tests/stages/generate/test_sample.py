"""Sampler columns: what is drawn, how often, under which conditions, and by what alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from pipeline.recipe.recipe import Recipe
from schemas.records import record_id
from stages.generate.sample import sample
from tests.support.rows import conversations

STAGE = find("generate.sample")
ONE = {"name": "constant", "value": 1}
LEVELS = {"name": "categorical", "values": ["easy", "hard"]}


def options(columns: dict[str, Any], folder: Path = Path(), **more: Any) -> dict[str, Any]:
    """The options as a recipe's are bound."""
    bound, problems = bind(STAGE, {"columns": columns, **more}, {}, folder)
    assert not problems, problems
    assert STAGE.check is not None
    STAGE.check(bound)
    return vars(bound)


def drawn(ctx: Context, columns: dict[str, Any], number: int = 400, **more: Any) -> pl.DataFrame:
    # The number of a row makes each a record of its own.
    numbered = {"row": {"name": "integer", "low": 0, "high": 10**15}, **columns}
    return sample(ctx, **options(numbered, num_rows=number, **more))


def test_values_come_as_often_as_their_weights_say(ctx: Context) -> None:
    column = {"name": "categorical", "values": ["a", "b", "c"], "weights": [6, 3, 0]}
    counts = Counter(drawn(ctx, {"x": column}, 3000)["x"])
    assert counts["c"] == 0
    assert 1850 < counts["a"] < 2150


@pytest.mark.parametrize(
    ("sampler", "dtype", "low", "high"),
    [
        ({"name": "integer", "low": -2, "high": 3}, pl.Int64, -2, 3),
        ({"name": "uniform", "low": 0, "high": 1}, pl.Float64, 0, 1),
        ({"name": "uniform", "low": 5, "high": 6, "decimals": 1}, pl.Float64, 5, 6),
        ({"name": "categorical", "values": [1, 2.5]}, pl.Float64, 1, 2.5),
        ({"name": "expression", "template": "{{ row % 7 }}", "type": "integer"}, pl.Int64, 0, 6),
    ],
)
def test_numbers_are_of_their_type_and_range(
    ctx: Context, sampler: dict[str, Any], dtype: pl.DataType, low: float, high: float
) -> None:
    values = drawn(ctx, {"x": sampler})["x"]
    assert values.dtype == dtype
    assert low <= values.min() <= values.max() <= high  # type: ignore[operator]
    assert values.n_unique() > 1
    if "decimals" in sampler:
        assert values.n_unique() == 11


def test_the_first_sampler_whose_condition_holds_is_drawn_from(ctx: Context) -> None:
    rows = drawn(ctx, {
        "level": LEVELS,
        "n": [
            {"name": "integer", "low": 1, "high": 5, "when": "level == 'easy' and row % 2 == 0"},
            {"name": "constant", "value": 9, "when": "level == 'easy'"},
        ],
        "double": {"name": "expression", "template": "{{ n * 2 }}", "type": "integer"},
        "small": {"name": "constant", "value": True, "when": "n < 5"},
    })  # fmt: skip
    for row in rows.iter_rows(named=True):
        if row["level"] == "hard":
            assert (row["n"], row["double"], row["small"]) == (None, None, None)
        else:
            assert row["n"] == 9 if row["row"] % 2 else row["n"] in range(1, 6)
            assert row["double"] == 2 * row["n"]
            assert row["small"] == (True if row["n"] < 5 else None)


def test_columns_of_one_file_are_of_one_line(ctx: Context, tmp_path: Path) -> None:
    people = [{"name": f"Person {n}", "age": n, "home": None} for n in range(30)]
    lines = "\n\n".join(json.dumps(person) for person in people)
    (tmp_path / "people.jsonl").write_text(lines)
    (tmp_path / "topics.txt").write_text("whales\n  tides {{ 7 * 7 }}\n")
    rows = drawn(ctx, {
        "name": {"name": "file", "file": "people", "field": "name"},
        "age": {"name": "file", "file": "people.jsonl", "field": "age"},
        "home": {"name": "file", "file": "people", "field": "home"},
        "friend": {"name": "file", "file": "people", "field": "name", "number": 2},
        "topic": {"name": "file", "file": "topics"},
    }, folder=tmp_path, files=["people.jsonl", "topics.txt"],
       user="{{ name }} of {{ row }} on {{ topic }}")  # fmt: skip
    assert all(row["name"] == f"Person {row['age']}" for row in rows.iter_rows(named=True))
    assert rows["home"].null_count() == len(rows)
    assert (rows["name"] != rows["friend"]).any()
    assert {*rows["topic"]} == {"whales", "tides {{ 7 * 7 }}"}
    assert any("tides {{ 7 * 7 }}" in turns[0]["content"] for turns in rows["messages"])


@pytest.mark.parametrize(
    ("text", "field", "what"),
    [
        ("\n \n", None, "must have lines"),
        ("[1]\n", "a", "must be a JSON object"),
        ("{}", "a", ":1"),
    ],
)
def test_a_file_that_cannot_be_drawn_from_is_named(
    ctx: Context, tmp_path: Path, text: str, field: str | None, what: str
) -> None:
    (tmp_path / "people.jsonl").write_text(text)
    sampler = {"name": "file", "field": field}
    with pytest.raises(UserError, match=what):
        drawn(ctx, {"x": sampler}, folder=tmp_path, files="people.jsonl")


def test_a_row_is_drawn_by_its_number_and_each_column_by_itself(ctx: Context) -> None:
    whole = drawn(ctx, {"level": LEVELS})
    assert_frame_equal(drawn(ctx, {"level": LEVELS}, 40), whole[:40])
    more = drawn(ctx, {"tone": LEVELS, "level": LEVELS})
    assert more["level"].to_list() == whole["level"].to_list()
    assert more["tone"].to_list() != more["level"].to_list()
    assert drawn(ctx, {"level": LEVELS}, seed=1)["level"].to_list() != whole["level"].to_list()


def test_rows_that_come_in_stay_and_are_drawn_by_their_ids(ctx: Context) -> None:
    rows = conversations([(f"Name river {n}.", "The Rhine.") for n in range(30)])
    rows = rows.with_columns(pl.lit(2).alias("words"))
    columns = {
        "level": LEVELS,
        "text": {"name": "expression", "template": "{{ words }} {{ response }} {{ level }}"},
    }
    bound = options(columns)
    first = sample(ctx, rows, **bound)
    assert_frame_equal(first.select(rows.columns), rows)
    assert first["text"].to_list() == [f"2 The Rhine. {level}" for level in first["level"]]
    turned = sample(ctx, rows[7:19].reverse(), **bound)
    assert_frame_equal(turned.reverse(), first[7:19])


def test_rows_are_new_records_and_repeated_ones_are_drawn_again(ctx: Context) -> None:
    columns = {"level": LEVELS, "tone": {"name": "categorical", "values": ["dry", "warm"]}}
    bound = options(columns, num_rows=20, user="{{ level }} {{ tone }}", system="Be {{ tone }}.")
    rows = sample(ctx, **bound)
    kept = rows.filter(pl.col("drop_reason").is_null())
    assert len(kept) == 4
    assert {*rows["drop_reason"]} == {None, "duplicate"}
    (turns, id_) = kept.select("messages", "id").row(0)
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert id_ == record_id(turns)


def test_a_turn_that_would_show_a_null_drops_its_row(ctx: Context) -> None:
    columns = {"tone": {**LEVELS, "when": "row % 2 == 0"}}
    rows = drawn(ctx, columns, user="{{ tone }} {{ row }}")
    for row in rows.iter_rows(named=True):
        assert row["drop_reason"] == ("null_value" if row["tone"] is None else None)


def test_an_expression_of_another_type_is_an_error(ctx: Context) -> None:
    sampler = {"name": "expression", "template": "about {{ row }}", "type": "number"}
    with pytest.raises(UserError, match="x must be of type number, got 'about"):
        drawn(ctx, {"x": sampler})


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"columns": {"a": {"name": "category", "values": ["x"]}}}, "did you mean 'categorical'"),
        ({"columns": {"a": {"name": "categorical", "values": ["x", 1]}}}, "all texts, numbers"),
        ({"columns": {"a": {**LEVELS, "weights": [1]}}}, "one for each of the 2 values"),
        ({"columns": {"a": {**LEVELS, "weights": [0, 0]}}}, "not all 0"),
        ({"columns": {"a": {**LEVELS, "when": "x ==="}}}, "must be an expression"),
        ({"columns": {"a": {**LEVELS, "when": "b == 1"}, "b": LEVELS}}, "got 'b'"),
        ({"columns": {"a": {"name": "expression", "template": "{{"}}}, "must be a Jinja"),
        ({"columns": {"a": {"name": "integer", "low": 5, "high": 3}}}, "low must be at most"),
        ({"columns": {"a": {"name": "constant", "value": 2**64}}}, "within 64 bits"),
        ({"columns": {"a": [{**LEVELS, "when": "true"}, ONE]}}, "of one kind, got integer, text"),
        ({"columns": {}}, "at least 1"),
        ({"columns": {"a": LEVELS}, "user": "{{ b }}"}, "user must name"),
        ({"columns": {"extra": LEVELS}}, "is there already"),
        ({"columns": {"a": LEVELS}, "num_rows": None}, "num_rows must be given"),
    ],
)
def test_mistakes_are_reported_beforehand(options: dict[str, Any], what: str) -> None:
    stages = {"own": {"uses": "generate.sample", "with": {"num_rows": 3, **options}}}
    with pytest.raises(UserError, match=what):
        Recipe.of("own", stages, {})


@pytest.mark.parametrize("more", [{"num_rows": 3}, {"user": "{{ a }}"}])
def test_rows_that_come_in_keep_their_number_and_turns(more: dict[str, Any]) -> None:
    load = {"path": "data/samples/user_oriented_252.jsonl", "source": "s", "license": "MIT"}
    own = {"uses": "generate.sample", "needs": "pool", "with": {"columns": {"a": LEVELS}, **more}}
    stages = {"pool": {"uses": "load.records", "with": load}, "own": own}
    with pytest.raises(UserError, match="must be left out where rows come in"):
        Recipe.of("own", stages, {})


def test_samplers_behind_one_without_a_condition_are_a_mistake() -> None:
    with pytest.raises(OptionError, match="must have a condition"):
        options({"a": [LEVELS, LEVELS]}, num_rows=3)
