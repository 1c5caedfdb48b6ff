"""compose.combine: what is joined can be read back, fits the budget, and loses no row."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.models.base import LanguageModel
from schemas.records import record_id
from stages._llm.token_counts import token_lengths, tokenizer_of
from stages.compose.combine import Method, combine
from stages.compose.combine.layouts import FORMATS, PRIMARY, Layout
from stages.compose.combine.mosaic import Mosaic
from stages.compose.combine.rules import MASKS, ORDERS, masked, ordered
from stages.compose.combine.sequence import SequenceMethod
from stages.tag.tokens import tokens
from tests.support.rows import DATA, conversations, frame, kept, record, self_instruct

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
POOL = self_instruct(150)
ODD = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}] * 2,
    [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": " "}, {"role": "assistant", "content": "Ho"}],
    [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B", "reasoning": "C"}],
    [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B", "train": False}],
]


def odd(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {**record(), "id": record_id(messages), "messages": messages}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def combined(ctx: Context, rows: pl.DataFrame, method: Method, **options: Any) -> pl.DataFrame:
    return combine(ctx, rows, model=TINYLM, method=method, **options)


def texts(row: dict[str, Any]) -> tuple[str, str]:
    return row["messages"][0]["content"], row["messages"][1]["content"]


@pytest.mark.parametrize("strategy", ["primary", "format", "permute", "mask"])
@pytest.mark.parametrize("sizes", ["uniform", "fixed", "exponential"])
def test_answers_are_read_back_in_the_stated_order(ctx: Context, strategy: Any, sizes: Any) -> None:
    method = Mosaic(strategies=(strategy,), epochs=2, max_rows=6, sizes=sizes)
    parts = {row["id"]: texts(row) for row in POOL.iter_rows(named=True)}
    rows = kept(combined(ctx, POOL, method)).to_dicts()
    assert max(len(row["parents"]) for row in rows) > 2
    for row in rows:
        request, answer = texts(row)
        layout = Layout(**json.loads(row["extra"]))
        expected = [(n, parts[row["parents"][n - 1]][1]) for n in row["answered"]]
        assert layout.split(answer) == expected
        assert all(
            layout.task(n, parts[id_][0]) in request for n, id_ in enumerate(row["parents"], 1)
        )
        left_out = len(row["parents"]) - len(row["answered"])
        assert (left_out > 0) == (row["strategy"] == "mask")
        single = "primary" if strategy == "primary" else "format"
        assert row["strategy"] == (strategy if len(row["parents"]) > 1 else single)


def test_each_epoch_uses_every_row_once_or_drops_it(ctx: Context) -> None:
    rows = combined(ctx, POOL, Mosaic(epochs=3), max_tokens=160)
    for epoch in (1, 2, 3):
        of_epoch = rows.filter(epoch=epoch)
        used = of_epoch["parents"].explode().to_list()
        assert sorted(used) == sorted(POOL["id"].to_list())
        skipped = of_epoch.filter(drop_reason="over_budget")
        assert 0 < len(skipped) < len(POOL) / 2
        assert {len(ids) for ids in skipped["parents"]} == {1}
    orders = [rows.filter(epoch=epoch)["parents"].explode().to_list() for epoch in (1, 2)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("method", [Mosaic(epochs=2), Mosaic(sizes="fixed"), SequenceMethod()])
@pytest.mark.parametrize("max_tokens", [120, 400, 1500])
def test_no_row_exceeds_the_budget_of_the_target(
    ctx: Context, method: Method, max_tokens: int
) -> None:
    rows = kept(combined(ctx, POOL, method, max_tokens=max_tokens))
    counted = tokens(ctx, rows, model=TINYLM)["tokens"]
    assert counted.to_list() == rows["tokens"].to_list()
    assert 0 < counted.max() <= max_tokens  # type: ignore[operator]


def test_halved_rows_fit(ctx: Context) -> None:
    """Marks and meta-instruction take more than their estimate where the rows are tiny."""
    rows = conversations([(f"{n}?", f"{n}.") for n in range(200)])
    new = combined(ctx, rows, Mosaic(epochs=1, max_rows=10, sizes="fixed"), max_tokens=190)
    assert new["drop_reason"].null_count() == len(new)
    assert {len(ids) for ids in new["parents"]} > {5}
    assert sorted(new["parents"].explode()) == sorted(rows["id"])


@pytest.mark.parametrize("method", [Mosaic(epochs=2), SequenceMethod()])
def test_the_order_of_the_rows_changes_nothing(ctx: Context, method: Method) -> None:
    def by_id(rows: pl.DataFrame) -> pl.DataFrame:
        return kept(rows).drop("origins").sort("id")

    shuffled = POOL.sample(fraction=1, shuffle=True, seed=1)
    first = by_id(combined(ctx, POOL, method))
    assert_frame_equal(first, by_id(combined(ctx, shuffled, method)))


def test_another_seed_joins_other_rows(ctx: Context) -> None:
    one, other = (combined(ctx, POOL, Mosaic(epochs=1), seed=seed) for seed in (0, 1))
    assert not {*one["id"]} & {*other["id"]}


@pytest.mark.parametrize("method", [Mosaic(epochs=2), SequenceMethod()])
def test_rows_that_would_lose_something_are_dropped_whole(ctx: Context, method: Method) -> None:
    rows = frame([odd(messages) for messages in ODD])
    tool = frame([record("Hi", "Ho")]).with_columns(tools=pl.lit("[]"), id=pl.lit("t"))
    new = combined(ctx, pl.concat([rows, tool]), method)
    assert len(new) == len(kept(new)) + 7
    assert Counter(new["drop_reason"]) == {
        **{"multi_turn": 1, "has_system": 1, "empty_part": 2, "has_reasoning": 1},
        **{"not_trained": 1, "has_tools": 1},
    }
    assert {*new["parents"].explode()} == {*rows["id"], "t"}
    assert new["evidence"].null_count() == 0


def test_long_rows_and_other_scripts(ctx: Context) -> None:
    short, long = [("歌って", "ラララ"), ("غنّي", "لا لا")], [("Sing", "La " * 20_000)]
    rows = conversations([*short, *long])
    new = combined(ctx, rows, Mosaic(epochs=1, sizes="fixed"), max_tokens=600)
    assert new.filter(drop_reason="over_budget")["parents"].to_list() == [
        conversations(long)["id"].to_list()
    ]
    assert {*kept(new)["parents"].explode()} == {*conversations(short)["id"]}


def test_licenses_hold_together(ctx: Context) -> None:
    of = {f"Say {n}.": license for n, license in enumerate(["MIT", "CC0-1.0", "MIT"] * 9)}
    pool = frame(
        record(text, "Yes.", origins=[("s", n, license)])
        for n, (text, license) in enumerate(of.items())
    )
    by_id = {id_: origins[0]["license"] for id_, origins in pool["id", "origins"].iter_rows()}
    rows = kept(combined(ctx, pool, Mosaic(epochs=1, max_rows=4)))
    licenses = [origins[0]["license"] for origins in rows["origins"].to_list()]
    expected = [{by_id[id_] for id_ in ids} for ids in rows["parents"].to_list()]
    assert licenses == [" AND ".join(sorted(together)) for together in expected]
    assert len({*licenses}) > 1


def test_sequences_repeat_the_input_before_the_answer(ctx: Context) -> None:
    rows = combined(ctx, POOL, SequenceMethod())
    parts = {row["id"]: row for row in POOL.iter_rows(named=True)}
    assert rows["parents"].explode().sort().to_list() == sorted(parts)
    new = kept(rows)
    assert len(new) > 30
    for row in new.iter_rows(named=True):
        part = parts[row["parents"][0]]
        request, answer = texts(row)
        input = texts(part)[0][part["input_start"] :].strip()
        assert request[row["input_start"] :] == input
        instruction = texts(part)[0][: part["input_start"]].strip()
        first = "First repeat the input word for word, then do the following with it: "
        assert request == f"{first}{instruction}\n\n{input}"
        assert answer == f"Input: {input}\n\nResponse: {texts(part)[1]}"
    without = rows.filter(drop_reason="no_input")["parents"].explode()
    assert all(parts[id_]["input_start"] is None for id_ in without)


ANSWERS = st.lists(st.text(alphabet="a1.)([]#\n <>=BEGIND/answer:Task", max_size=30), max_size=5)


@settings(max_examples=200, deadline=None)
@given(answers=ANSWERS, layout=st.sampled_from([*PRIMARY, *FORMATS]))
def test_a_layout_reads_what_it_wrote_unless_an_answer_looks_like_it(
    answers: list[str], layout: Layout
) -> None:
    numbered = [*enumerate(answers, 1)]
    digits = layout.number.format(n=1).strip("1")
    if not any(digits in answer or layout.closing in answer for answer in answers) or not answers:
        assert layout.split(layout.join(numbered)) == numbered


def test_answers_that_look_like_a_layout_get_another(ctx: Context) -> None:
    texts = [f"1.\n{one.opening}\nx\n{one.closing}\n\n2.\n{one.opening}" for one in FORMATS[:5]]
    rows = conversations([(f"Say {n}", text) for n, text in enumerate(texts)])
    new = combined(ctx, rows, Mosaic(epochs=2))
    assert new["drop_reason"].null_count() == len(new)


@pytest.mark.parametrize("rule", ORDERS)
def test_orders_follow_their_rule(rule: str) -> None:
    instructions = ["bb b", "A", "a", "c c c", "Bb", "longest of all"]
    order = ordered(rule, instructions, random.Random(3))
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    expected = {
        "reverse": [6, 5, 4, 3, 2, 1],
        "odd_even": [1, 3, 5, 2, 4, 6],
        "even_odd": [2, 4, 6, 1, 3, 5],
        "alphabetical": [2, 3, 5, 1, 4, 6],
        "alphabetical_descending": [6, 4, 1, 5, 2, 3],
        "words": [2, 3, 5, 1, 4, 6],
        "words_descending": [4, 6, 1, 2, 3, 5],
        "characters": [2, 3, 5, 1, 4, 6],
        "characters_descending": [6, 4, 1, 5, 2, 3],
    }
    assert order == expected.get(rule, order)


@pytest.mark.parametrize("rule", MASKS)
def test_masks_leave_some_and_never_all(rule: str) -> None:
    for count in range(2, 11):
        instructions = ["word " * (1 + n * 7 % count) for n in range(count)]
        numbers = masked(rule, instructions, (0.1, 0.5), random.Random(count))
        assert 0 < len(numbers) <= (count + 1) // 2
        words = [len(text.split()) for text in instructions]
        left = {*range(1, count + 1)} - {*numbers}
        for out in numbers:
            if rule == "longest":
                assert all(words[out - 1] >= words[n - 1] for n in left)
            if rule == "shortest":
                assert all(words[out - 1] <= words[n - 1] for n in left)
            if rule in ("odd", "even"):
                assert out % 2 == (rule == "odd")


def test_combining_costs_little_more_than_tokenizing(ctx: Context) -> None:
    """Parts are counted once, new rows once; nothing else may take as long as that."""
    pool = self_instruct(1000)
    method = Mosaic(epochs=4)
    began = time.process_time()
    new = kept(combined(ctx, pool, method))
    combining = time.process_time() - began
    tokenizer = tokenizer_of(TINYLM)
    texts = [
        text for row in new["messages"].to_list() for turn in row for text in [turn["content"]]
    ]
    began = time.process_time()
    token_lengths(tokenizer, texts)
    assert combining < 6 * (time.process_time() - began)
