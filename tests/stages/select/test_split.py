"""select.split: parts are whole components of related rows, stable, and of their sizes."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError
from stages.report._overlaps import refuse_overlaps
from stages.select.split import split
from tests.stages._selection.binding import problems_of
from tests.support.related_rows import components
from tests.support.rows import conversations, kept, sample

CTX = Context(Path(), Path(), Path())
RELATION = {"threshold": 0.5, "ngram_size": 2, "shared_ngram_size": 4}
HALVES = {"a": 0.5, "b": 0.5}
COUNTS = {"a": 3, "b": 2, "c": "rest"}

WORDS = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "1", "x"]), max_size=9)
TEXTS = st.lists(st.lists(WORDS.map(" ".join), min_size=1, max_size=4), max_size=14)


def parts_of(rows: pl.DataFrame, **options: Any) -> dict[str, str]:
    return dict(zip(rows["id"], split(CTX, rows, **options)["split"], strict=True))


@settings(max_examples=12)
@given(TEXTS, st.sampled_from([HALVES, COUNTS]), st.integers(0, 3))
def test_components_of_related_rows_stay_together(
    texts: list[list[str]], parts: dict[str, Any], seed: int
) -> None:
    rows = conversations(texts)
    result = split(CTX, rows, parts=parts, keep="a", seed=seed, **RELATION)
    part = dict(zip(rows["id"], result["split"], strict=True))
    groups = components(rows, *RELATION.values())
    for key, group in groups.items():
        assert {part[other] for other in group} == {part[key]}
    for key, reason, evidence in zip(
        rows["id"], result["drop_reason"], result["evidence"], strict=True
    ):
        assert reason == (None if part[key] == "a" else "other_split")
        if reason:
            assert json.loads(evidence) == {"split": part[key], "group_rows": len(groups[key])}


@settings(max_examples=10)
@given(TEXTS, TEXTS)
def test_added_rows_move_no_component_that_they_leave_as_it_is(
    texts: list[list[str]], more: list[list[str]]
) -> None:
    few, many = conversations(texts), conversations([*texts, *more])
    before, after = (parts_of(rows, parts=HALVES, **RELATION) for rows in (few, many))
    groups = [components(rows, *RELATION.values()) for rows in (few, many)]
    for key in before:
        if groups[0][key] == groups[1][key]:
            assert before[key] == after[key]


@settings(max_examples=12)
@given(TEXTS, st.integers(1, 9), st.integers(1, 9))
def test_numbers_of_rows_are_not_exceeded_and_spent_where_groups_fit(
    texts: list[list[str]], first: int, second: int
) -> None:
    rows = conversations(texts)
    sizes = {"a": first, "b": second}
    part = parts_of(rows, parts={**sizes, "train": "rest"}, **RELATION)
    counts = Counter(part.values())
    groups = components(rows, *RELATION.values())
    left_over = {len(groups[key]) for key in part if part[key] == "train"}
    for name, size in sizes.items():
        assert counts[name] <= size
        assert all(counts[name] + group > size for group in left_over)


@settings(max_examples=10)
@given(st.permutations(["a", "b", "c"]), st.randoms(use_true_random=False))
def test_neither_the_order_of_parts_nor_of_rows_matters(
    names: list[str], order: random.Random
) -> None:
    rows = conversations([[f"question {i}"] for i in range(60)])
    parts = {"a": 0.2, "b": 0.3, "c": 0.5}
    expected = parts_of(rows, parts=parts)
    shuffled = rows[order.sample(range(60), 60)]
    assert parts_of(shuffled, parts={name: parts[name] for name in names}) == expected


def test_steps_that_keep_one_part_each_partition_the_rows() -> None:
    rows = sample("self_instruct.jsonl.gz")
    parts = {"train": 0.8, "valid": 0.1, "heldout": 0.1}
    each = {
        name: kept(pl.concat([rows, split(CTX, rows, parts=parts, keep=name)], how="horizontal"))
        for name in parts
    }
    ids = pl.concat([one["id"] for one in each.values()])
    assert sorted(ids) == rows["id"].to_list()
    # Related rows differ in number, so that parts are only about as large as asked for.
    assert {n: round(len(one) / len(rows), 1) for n, one in each.items()} == parts
    refuse_overlaps({"train": each["train"]}, {"heldout": each["heldout"]})


def test_fractions_are_chances_and_seeds_differ() -> None:
    rows = conversations([[f"question {i}", f"answer {i}"] for i in range(2000)])
    parts = {"heldout": 0.1, "train": "rest"}
    first = parts_of(rows, parts=parts)
    assert 150 < Counter(first.values())["heldout"] < 250
    assert first == parts_of(rows, parts={"heldout": 0.1, "train": 0.9})
    other = parts_of(rows, parts=parts, seed=1)
    assert 10 < sum(first[k] == other[k] == "heldout" for k in first) < 35
    larger = parts_of(rows, parts={"heldout": 0.2, "train": "rest"})
    assert all(larger[key] == "heldout" for key in first if first[key] == "heldout")


@settings(max_examples=10)
@given(TEXTS, TEXTS, st.sampled_from([HALVES, COUNTS, {"b": 4, "a": "rest"}]))
def test_held_rows_keep_their_part_when_others_come(
    texts: list[list[str]], more: list[list[str]], parts: dict[str, Any]
) -> None:
    few, many = conversations(texts), conversations([*texts, *more])
    before = parts_of(few, parts=parts, **RELATION)
    held = few.filter(pl.Series([before[key] == "a" for key in few["id"]], dtype=pl.Boolean))
    after = parts_of(many, held=held, held_part="a", parts=parts, **RELATION)
    groups = [components(rows, *RELATION.values()) for rows in (few, many)]
    grown = any(groups[0][key] != groups[1][key] for key in held["id"])
    if not grown or not isinstance(parts["a"], int):  # else their groups may not fit any more
        assert {after[key] for key in held["id"]} <= {"a"}
    for group in groups[1].values():
        assert len({after[key] for key in group}) == 1
    for name, size in parts.items():
        assert not isinstance(size, int) or Counter(after.values())[name] <= size
    assert parts_of(few, held=held.head(0), held_part="a", parts=parts, **RELATION) == before


def test_steps_that_share_rows_out_agree_on_what_is_held() -> None:
    rows = conversations([[f"question {i}", f"answer {i}"] for i in range(300)])
    parts = {"heldout": 40, "train": "rest"}
    held = rows.filter(pl.Series([i % 2 == 0 for i in range(300)]))
    by_part = {
        part: kept(pl.concat([rows, split(CTX, rows, held, parts=parts, keep=part,
                                          held_part="train")], how="horizontal"))
        for part in parts
    }  # fmt: skip
    assert not set(by_part["heldout"]["id"]) & set(held["id"])
    assert {part: len(frame) for part, frame in by_part.items()} == {"heldout": 40, "train": 260}
    with pytest.raises(OptionError, match="held_part must be one of the parts"):
        split(CTX, rows, held, parts=parts)


def test_a_text_that_all_rows_share_connects_them_unless_runs_do_not_count() -> None:
    template = "Below is an instruction that describes a task please write a response to it now: "
    rows = conversations([[f"{template} question {i} {'z' * i}"] for i in range(1, 40)])
    assert len({*parts_of(rows, parts=HALVES, threshold=None).values()}) == 1
    alone = parts_of(rows, parts=HALVES, threshold=None, shared_ngram_size=None)
    assert {*alone.values()} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"parts": {"a": 0.5}}, "must be two parts or more"),
        ({"parts": {"a": 0.5, "b": 0.6}}, "must be fractions that sum to 1, got 1.1"),
        ({"parts": {"a": 0.5, "b": 10}}, "must be fractions or numbers of rows, not both"),
        ({"parts": {"a": 5, "b": 10}}, "must have a part `rest`"),
        ({"parts": {"a": "rest", "b": "rest", "c": 0.1}}, "one of them `rest` at most"),
        ({"parts": {"a": 0.6, "b": 0.4, "c": "rest"}}, "must leave something for `rest`"),
        ({"parts": {"a": 1.5, "b": "rest"}}, "parts.a must be a fraction above 0"),
        ({"parts": {"a": "some", "b": "rest"}}, "parts.a must be a fraction above 0"),
        ({"parts": {"a": 0, "b": "rest"}}, "parts.a must be a fraction above 0"),
        ({"parts": HALVES, "keep": "c"}, "keep: keep must be one of the parts (a, b), got 'c'"),
        ({"parts": HALVES, "held_part": "c"}, "held_part must be one of the parts (a, b), got"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(options: dict, problem: str) -> None:
    assert problems_of("select.split", parts=HALVES, keep="a") == []
    messages = problems_of("select.split", **options)
    assert messages
    assert all(problem in message for message in messages)
