"""Turns out of columns: which turns a record has, and which rows have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.estimate import estimate_steps
from pipeline.execution.plan import plan
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from schemas.records import RECORD_COLUMNS, record_id
from stages.rewrite.turns import turns
from tests.support.rows import conversations, plain
from tests.support.running import run
from tests.support.tool_rows import CONVERSATION, tool_record

ROWS = conversations([("Name a river.", "The Rhine."), ("Name a hill.", "Hawk Hill.")])


def messages(frame: pl.DataFrame) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in row] for row in frame["messages"]]


def test_a_new_conversation_has_the_turns_that_are_written(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.Series("task", ["Count {{ 7 * 7 }}.", "Sing."]))
    records = turns(ctx, rows, system="Be brief.", user="{{ task }}", assistant="{{ response }}")
    answers = [row[1]["content"] for row in rows["messages"]]
    assert messages(records) == [
        [("system", "Be brief."), ("user", task), ("assistant", answer)]
        for task, answer in zip(rows["task"], answers, strict=True)
    ]
    assert records["parents"].to_list() == [[id_] for id_ in rows["id"]]
    assert records["id"].to_list() == [record_id(row) for row in records["messages"]]
    assert records["task"].to_list() == rows["task"].to_list()


def test_without_a_request_the_rows_own_turns_stay(ctx: Context) -> None:
    record = tool_record(CONVERSATION, "[]")
    rows = pl.DataFrame([record], schema=RECORD_COLUMNS)
    (answered,) = turns(ctx, rows, assistant="Grey.")["messages"]
    before = plain(rows["messages"][0])
    last = max(i for i, turn in enumerate(before) if turn["role"] == "user")
    assert plain(answered) == [*before[: last + 1], {"role": "assistant", "content": "Grey."}]
    records = turns(ctx, rows, system="Be brief.")
    (changed,) = records["messages"]
    others = [turn for turn in before if turn["role"] != "system"]
    assert plain(changed) == [{"role": "system", "content": "Be brief."}, *others]
    assert records["tools"].to_list() == rows["tools"].to_list()


def test_each_value_of_a_list_makes_a_record(ctx: Context) -> None:
    tasks = [["a", None, "a", "b"], []]
    rows = ROWS.with_columns(
        pl.Series("task", tasks, dtype=pl.List(pl.String)),
        pl.Series("level", [[1, 2, 3, 4], []], dtype=pl.List(pl.Int64)),
        pl.lit("x").alias("tone"),
    )
    records = turns(ctx, rows, user="{{ task }} {{ level }} {{ tone }}", each=("task", "level"))
    assert records["drop_reason"].to_list() == [None, "null_value", None, None, "no_values"]
    kept = records.filter(pl.col("drop_reason").is_null())
    assert [row[0][1] for row in messages(kept)] == ["a 1 x", "a 3 x", "b 4 x"]
    assert kept["level"].to_list() == [1, 3, 4]
    assert records["task"].dtype == pl.String
    again = turns(ctx, rows.drop("level"), user="{{ task }}", each=("task",))
    assert again["drop_reason"].to_list() == [None, "null_value", "duplicate", None, "no_values"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"user": "{{ topic }}"}, "null_value"),
        ({"user": "{{ topic or '' }}"}, "blank_turn"),
    ],
)
def test_a_row_without_a_turn_is_dropped(
    ctx: Context, options: dict[str, Any], reason: str
) -> None:
    rows = ROWS.with_columns(pl.lit(None, pl.String).alias("topic"))
    records = turns(ctx, rows, **options)
    assert records["drop_reason"].to_list() == [reason] * 2
    assert json.loads(records["evidence"][0])["turn"] == "user"
    assert len(turns(ctx, rows[:0], **options)) == 0


def test_lists_of_one_row_must_be_of_one_length(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.Series("a", [[1], [1, 2]]), pl.Series("b", [[1], [1]]))
    with pytest.raises(UserError, match="must be of one length, got a 2, b 1"):
        turns(ctx, rows, user="{{ a }}", each=("a", "b"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "or system or assistant must be given"),
        ({"user": "{{ task }}"}, "user must name columns"),
        ({"user": "{{ task"}, "must be a Jinja template"),
        ({"user": "x", "each": ["task"]}, "each must name added columns of lists"),
    ],
)
def test_mistakes_are_reported_beforehand(options: dict[str, Any], what: str) -> None:
    load = {"path": "data/samples/user_oriented_252.jsonl", "source": "s", "license": "MIT"}
    own = {"uses": "rewrite.turns", "needs": "pool", "with": options}
    stages = {"pool": {"uses": "load.records", "with": load}, "own": own}
    with pytest.raises(UserError, match=what):
        Recipe.of("own", stages, {})


def test_all_rows_are_counted_although_stand_ins_are_alike(tmp_path: Path) -> None:
    load = {"path": "data/samples/user_oriented_252.jsonl", "source": "s", "license": "MIT"}
    written = {"model": "m", "prompt": "{{ instruction }}", "num_samples": 3, "column": "task"}
    writing = {"user": "{{ task }}", "each": ["task"]}
    stages = {
        "pool": {"uses": "load.records", "with": load},
        "few": {"uses": "select.random", "needs": "pool", "with": {"budget": 5}},
        "written": {"uses": "generate.column", "needs": "few", "with": written},
        "tasks": {"uses": "rewrite.turns", "needs": "written", "with": writing},
        "answers": {"uses": "generate.respond", "needs": "tasks", "with": {"models": ["m"]}},
    }
    recipe = Recipe.of("own", stages, {"m": {"model": "data/models/tinylm"}})
    run(recipe, tmp_path, "few")
    store = Store(tmp_path)
    estimates = estimate_steps(recipe, store, plan(recipe, store))
    assert estimates["written"].expected.requests == 15
    assert estimates["answers"].expected.requests == 15
