"""Light-IF: prompts with constraints that go together, parted by how often answers follow all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from schemas.records import record_id
from stages._constraints.conflicts import conflicts
from stages._constraints.constraint import Constraint
from stages._constraints.stored import read_turns
from stages.compose.constraints import Drawn, constraints
from stages.compose.constraints.drawn import KINDS, Kind
from stages.evaluate.constraints import constraints as evaluated
from tests.support.rows import conversations, frame, kept, record, self_instruct

POOL = self_instruct(150)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def asked(extra: str) -> list[Constraint]:
    (turn,), by_turn = read_turns(extra)
    assert not by_turn
    return turn


def test_prompts_get_constraints_that_go_together_and_wait_for_an_answer(ctx: Context) -> None:
    new = kept(constraints(ctx, POOL, method=Drawn(number=(2, 5))))
    own = {row["id"]: row for row in POOL.to_dicts()}
    counts = Counter[int]()
    for row in new.to_dicts():
        chosen, old = asked(row["extra"]), own[row["parents"][0]]
        counts[len(chosen)] += 1
        assert not conflicts(chosen)
        assert row["constraint_kinds"] == [one.kind for one in chosen]
        (turn,) = row["messages"]
        before, start = old["messages"][0]["content"], old["input_start"]
        assert turn["content"].startswith(before[:start].rstrip())
        assert all(
            any(one.worded(n) in turn["content"] for n in range(len(one.wordings)))
            for one in chosen
        )
        if start is not None:
            assert turn["content"][row["input_start"] :] == before[start:]
        answer = old["messages"][-1]["content"]
        assert row["trivially_true"] == all(one.holds(answer) for one in chosen)
    assert {*counts} == {2, 3, 4, 5}
    assert KINDS.keys() == {*get_args(Kind)}
    assert {k for kinds in new["constraint_kinds"] for k in kinds}.__len__() == len(KINDS)


def test_one_kind_alone_leaves_no_second_constraint(ctx: Context) -> None:
    new = constraints(ctx, POOL.head(5), method=Drawn(kinds=("no_comma",), number=(2, 3)))
    assert {*new["drop_reason"]} == {"conflict"}
    assert {*new["id"]} == {*POOL.head(5)["id"]}


def test_a_row_needs_a_request_and_no_answer(ctx: Context) -> None:
    rows = frame([record("Why?"), record(" ", "So."), record("Who?", "  ")])
    new = constraints(ctx, rows, method=Drawn())
    assert Counter(new["drop_reason"]) == {None: 2, "no_request": 1}
    assert kept(new)["trivially_true"].to_list() == [None, None]


def test_neither_order_nor_other_rows_change_a_prompt(ctx: Context) -> None:
    whole = kept(constraints(ctx, POOL, method=Drawn()))
    part = kept(constraints(ctx, POOL[20:60].reverse(), method=Drawn()))
    same = whole.filter(pl.col("id").is_in(part["id"].to_list()))
    columns = [name for name in whole.columns if name != "origins"]
    assert len(part) == 40
    assert_frame_equal(same.sort("id").select(columns), part.sort("id").select(columns))


def test_prompts_are_parted_by_the_share_of_their_answers_that_follow_all(ctx: Context) -> None:
    prompts = kept(
        constraints(
            ctx,
            conversations([[f"Say {n}, will you?", "No."] for n in range(3)]),
            method=Drawn(kinds=("no_comma",), number=(1, 1)),
        )
    )
    rows = []
    for number, prompt in enumerate(prompts["messages"].to_list()):
        for sample in range(4):
            text = "Well" + (" it is" if sample < 2 * number else ", so") + f" {sample}"
            turns = [*prompt, {"role": "assistant", "content": text}]
            rows.append({**record(), "id": record_id(turns), "messages": turns})
    answers = pl.DataFrame(rows, schema=POOL.schema)
    result = evaluated(ctx, answers, prompts)
    rates = result["constraints_prompt_rate"].to_list()
    assert rates == [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    # What `light-if` keeps: answers to prompts between, that follow all.
    chosen = result.filter((pl.col("constraints_prompt_rate") < 1) & pl.col("constraints_followed"))
    assert len(chosen) == 2
    assert json.loads(prompts["extra"][0])["instruction_id_list"] == ["punctuation:no_comma"]
