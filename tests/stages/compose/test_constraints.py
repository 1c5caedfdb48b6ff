"""compose.constraints: what is asked for holds of the final text, and rows stay whole otherwise."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.context import Context
from schemas.records import RECORD_COLUMNS, record_id
from stages._constraints.conflicts import conflicts
from stages._constraints.constraint import Constraint
from stages._constraints.ifeval.detectable import placeholders
from stages._constraints.ifeval.lengths import NumberWords
from stages._constraints.ifeval.whole import EnglishCapital, EnglishLowercase
from stages._constraints.lengths import BANDS, length_in_words
from stages._constraints.stored import read_turns
from stages._constraints.units import words
from stages.compose._row_drafts import drafts_of
from stages.compose.constraints import Method, constraints
from stages.compose.constraints.edits import EDITS, Edit, edited
from stages.compose.constraints.facts import RULES, Facts, Rule
from stages.compose.constraints.methods import Lengths, LengthTokens, Rules
from stages.evaluate.constraints import constraints as evaluated
from tests.support.rows import conversations, frame, kept, record, self_instruct

POOL = self_instruct(400)
METHODS: list[Method] = [
    Rules(edited=0),
    Rules(edited=1, max_rules=5),
    LengthTokens(),
    LengthTokens(in_request=True),
    Lengths(),
]


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def checked(row: dict[str, Any]) -> list[Constraint]:
    turns, by_turn = read_turns(row["extra"])
    assert not by_turn
    return turns[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_constraint_holds_of_the_final_text_and_its_negation_does_not(
    ctx: Context, method: Method
) -> None:
    new = kept(constraints(ctx, POOL, method=method))
    assert len(new)
    for row in new.iter_rows(named=True):
        asked, answer = checked(row), row["messages"][-1]["content"]
        assert asked
        assert row["constraint_kinds"] == [one.kind for one in asked]
        assert all(one.holds(answer) for one in asked)
        negated = [one.negation() for one in asked]
        assert not any(one.holds(answer) for one in negated if one)
        assert not any(one.holds("") for one in asked)
        assert not conflicts(asked)
    # Another stage reads them and says the same.
    assert evaluated(Context.scratch(ctx.work / "e"), new)["constraints_followed"].all()


def test_the_request_asks_for_every_constraint(ctx: Context) -> None:
    for row in kept(constraints(ctx, POOL)).iter_rows(named=True):
        request = row["messages"][0]["content"]
        for one in checked(row):
            assert any(one.worded(n) in request for n in range(len(one.wordings)))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_rule_finds_what_its_answer_has(ctx: Context, rule: Rule) -> None:
    answers = [
        *("14 RAINS fell, and 3 did not.", '"It rains."', "[1, 2]", "<<Rain>>\n* one\n- *two*"),
        *("Dear [name], it rains on rain.", "Rain", "rain falls"),
    ]
    rows = conversations([["Does rain fall where nobody lives?", a] for a in answers])
    new = constraints(ctx, rows, method=Rules(rules=(rule,), edited=0))
    assert {*new["drop_reason"].unique()} <= {None, "no_rule"}
    assert len(kept(new))


@pytest.mark.parametrize("edit", get_args(Edit))
def test_a_change_makes_the_answer_follow_what_it_did_not(edit: Edit) -> None:
    text = "It rains in the town, and nobody knows why it does."
    result = edited(text, "Tell me why it rains.", edit, random.Random(0))
    assert result is not None
    changed, one = result
    assert one.holds(changed)
    assert not one.holds(text)
    assert edited(changed, "Tell me why it rains.", edit, random.Random(0)) is None
    assert EDITS.keys() == {*get_args(Edit)}
    assert RULES.keys() == {*get_args(Rule)}


def test_a_change_that_falsifies_an_earlier_constraint_is_seen() -> None:
    draft = drafts_of(conversations([["Why?", "It rains."]]))[0]
    few = NumberWords(num_words=3, relation="less than")
    assert draft.row("It rains.", [few], [])["drop_reason"] is None
    dropped = draft.row("It rains. It rains.", [few], [])
    assert dropped["drop_reason"] == "not_satisfied"
    assert json.loads(dropped["evidence"]) == {"kinds": [few.kind]}
    assert dropped["messages"][-1]["content"] == "It rains."
    both = draft.row("IT RAINS.", [EnglishCapital(), EnglishLowercase()], [])
    assert both["drop_reason"] == "conflict"


def test_what_is_no_answer_is_dropped_whole(ctx: Context) -> None:
    rows = frame(
        [
            record("Hi"),
            record("Hi", " "),
            record(" ", "Ho"),
            record("Be.", "Ho", roles=("system", "assistant")),
        ]
    )
    silent = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B", "train": False},
    ]
    calls = [{"id": "1", "name": "add", "arguments": "{}"}]
    calling = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    odd = [{**record(), "id": record_id(m), "messages": m} for m in (silent, calling)]
    rows = pl.concat([rows, pl.DataFrame(odd, schema=rows.schema)])
    for method in METHODS:
        new = constraints(ctx, rows, method=method)
        assert len(new) == len(rows)
        assert Counter(new["drop_reason"]) == {"no_answer": 4, "no_request": 1, "not_trained": 1}
        assert {*new["id"]} == {*rows["id"]}


def test_all_else_of_a_row_stays(ctx: Context) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho", "reasoning": "A greeting."},
        {"role": "user", "content": "Does it rain?"},
        {"role": "assistant", "content": "It rains in town.", "reasoning": "It does."},
    ]
    row = {**record(), "id": record_id(messages), "messages": messages, "tools": "[]"}
    new = kept(constraints(ctx, pl.DataFrame([row], schema=RECORD_COLUMNS)))
    turns = new["messages"][0].to_list()
    before = row["messages"]
    changed = [n for n in range(5) if turns[n]["content"] != before[n]["content"]]
    assert changed == [3]
    assert turns[3]["content"].startswith("Does it rain?\n\n")
    assert [turn["reasoning"] for turn in turns] == [None, None, "A greeting.", None, "It does."]
    assert new["tools"].to_list() == ["[]"]
    assert new["parents"].to_list() == [[row["id"]]]
    assert new["origins"][0][0]["license"] == "MIT"
    assert new["id"][0] == record_id(turns, "[]") != row["id"]


def test_constraints_stand_before_a_separate_input(ctx: Context) -> None:
    rows = frame([record("Translate.\n\nIl pleut.", "It rains, madam.", input_start=12)])
    for row in kept(constraints(ctx, rows, method=Lengths())).iter_rows(named=True):
        content = row["messages"][0]["content"]
        assert content[row["input_start"] :] == "Il pleut."
        instruction = content[: row["input_start"]].rstrip()
        assert instruction.startswith("Translate.\n\n")
        assert instruction.endswith(".")


def test_neither_order_nor_other_rows_change_a_row(ctx: Context) -> None:
    for method in (Rules(), Lengths(), LengthTokens()):
        whole = constraints(ctx, POOL, method=method)
        shuffled = constraints(ctx, POOL.sample(fraction=1, shuffle=True, seed=1), method=method)
        part = constraints(ctx, POOL[100:200], method=method)
        columns = [name for name in whole.columns if name != "origins"]
        of = {
            name: f.select(columns).sort("parents")
            for name, f in {"a": whole, "b": shuffled}.items()
        }
        assert_frame_equal(of["a"], of["b"])
        parents = part["parents"].list.first().to_list()
        same = whole.filter(pl.col("parents").list.first().is_in(parents))
        assert_frame_equal(
            same.select(columns).sort("parents"), part.select(columns).sort("parents")
        )
    other = constraints(ctx, POOL, seed=1)
    assert not other["id"].equals(constraints(ctx, POOL)["id"])


def test_length_tokens_have_their_bands_and_quotas(ctx: Context) -> None:
    texts = [["Why?", " ".join([f"w{n}"] * n)] for n in (5, 6, 15, 16, 140, 155, 156, 800, 801)]
    new = constraints(ctx, conversations(texts), method=LengthTokens())
    by_count = {
        len(words(row["messages"][1]["content"].partition("\n\n")[2])): row
        for row in kept(new).iter_rows(named=True)
    }
    assert {n: r["messages"][1]["content"].split("\n")[0] for n, r in by_count.items()} == {
        6: "[MLT:10]", 15: "[MLT:10]", 140: "[MLT:150]", 155: "[MLT:150]", 801: "[MLT:>800]",
    }  # fmt: skip
    assert all(row["messages"][0]["content"] == "Why?" for row in by_count.values())
    dropped = new.filter(pl.col("drop_reason") == "between_bands")["evidence"]
    assert sorted(json.loads(e)["words"] for e in dropped) == [5, 16, 156, 800]
    few = constraints(ctx, conversations(texts), method=LengthTokens(max_per_token=1))
    assert Counter(few["drop_reason"]) == {"between_bands": 4, "over_quota": 2, None: 3}
    assert [*BANDS] == ["10", "30", "50", "80", "150", "300", "500", "700", ">800"]


@given(count=st.integers(1, 1500), seed=st.integers(0, 50))
def test_a_length_in_words_is_that_of_the_answer(count: int, seed: int) -> None:
    rows = conversations([["Why?", "rain " * count]])
    for draft in drafts_of(rows):
        row = Lengths().rows([draft], seed)[0]
        assert row["drop_reason"] is None
        assert length_in_words(draft.answer) == count


def test_scripts_and_long_answers(ctx: Context) -> None:
    texts = [
        "雨が降る。誰も知らない。",
        "Идёт дождь, и никто не знает.",
        "🌧",
        "a" * 50_000,
        "x, " * 20_000,
    ]
    rows = conversations([["Why? {braces} %s", text] for text in texts])
    start = time.perf_counter()
    for method in METHODS:
        new = constraints(ctx, rows, method=method)
        assert len(new) == len(rows)
        assert {*new["drop_reason"]} <= {None, "no_rule", "between_bands"}
    assert time.perf_counter() - start < 20


def test_facts_are_counted_of_the_answer_alone() -> None:
    facts = Facts("It rains on rain", "Why does rain fall upon people?", random.Random(0))
    assert facts.keywords == ["rains", "rain"]
    assert facts.occurrences("rain") == 2
    one = RULES["forbidden_words"](facts)
    assert one is not None
    assert {*one.arguments["forbidden_words"]} <= {"fall", "upon", "people"}


PIECES = [*"abcABİßſé ,.!?'\"*-[]{}<>\n1٣好", "the ", "and ", "CAN'T ", "İyi ", ' "', " U.S. "]


@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=40), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_rule_holds_of_the_text_that_it_was_found_in(pieces: list[str], seed: int) -> None:
    text = "".join(pieces)
    assert placeholders(text) == len(re.findall(r"\[.*?\]", text))
    for rule in RULES.values() if text.strip() else ():
        one = rule(Facts(text, "Say where the river ends.", random.Random(seed)))
        assert one is None or one.holds(text)


@pytest.mark.parametrize("text", ["* " + "word " * 10_000, "[" * 50_000, "[a " * 15_000])
@pytest.mark.parametrize("rule", ["highlights", "placeholders"])
def test_a_long_line_is_counted_in_no_time(text: str, rule: Rule) -> None:
    start = time.perf_counter()
    RULES[rule](Facts(text, "", random.Random(0)))
    assert time.perf_counter() - start < 1


def test_edited_without_edits_is_refused() -> None:
    with pytest.raises(ValueError, match="edited must be 0 without edits"):
        Rules(edits=())
