"""Benchmarks: all items, by name or from a file, and never an empty one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages.load.benchmarks import BUNDLED, Name, benchmarks, input_files
from stages.load.benchmarks import _check as check
from tests.support.loading import assert_accounted, failures, json_lines
from tests.support.options import options_of, problems

COUNTS = {
    "gsm8k": 1319,
    "humaneval": 164,
    "ifeval": 541,
    "mmlu": 14_042,
    "mt_bench": 80,
    "truthfulqa": 813,
    "vicuna_bench": 80,
}


def names_of(frame: pl.DataFrame) -> set[str]:
    return set(frame["texts"].explode().struct.field("name"))


def test_all_that_are_bundled(ctx: Context) -> None:
    assert set(get_args(Name)) == set(BUNDLED) == set(COUNTS)
    frame = benchmarks(ctx, names=get_args(Name))
    assert_accounted(frame)
    assert frame["error"].is_null().all()
    assert dict(frame.group_by("benchmark").len().iter_rows()) == COUNTS
    assert frame["texts"].list.len().min() == 1
    assert frame["texts"].explode().struct.field("text").str.len_chars().min() > 0


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("gsm8k", {"question", "answer"}),
        ("humaneval", {"prompt", "canonical_solution"}),
        ("mmlu", {"question", "choices"}),
        ("mt_bench", {"turns_1", "turns_2"}),
        ("truthfulqa", {"question", "answer", "correct_answers", "incorrect_answers"}),
    ],
)
def test_texts_have_names(ctx: Context, name: str, texts: set[str]) -> None:
    assert names_of(benchmarks(ctx, names=(name,))) == texts  # type: ignore[arg-type]


@given(
    items=st.lists(st.tuples(*[st.text(min_size=1)] * 3), min_size=1, unique=True),
    fields=st.booleans(),
)
@settings(max_examples=30)
def test_items_come_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str, str]], fields: bool
) -> None:
    folder = tmp_path_factory.mktemp("items")
    path = folder / "items.jsonl"
    path.write_bytes(json_lines([{"question": q, "turns": [a, b]} for q, a, b in items]))
    frame = benchmarks(
        Context.scratch(folder / "ctx"),
        path=(str(path),),
        benchmark="mine",
        fields={"asked": "question"} if fields else None,
    )
    assert_accounted(frame)
    loaded = frame.filter(pl.col("error").is_null() & pl.col("drop_reason").is_null())
    named = [{t["name"]: t["text"] for t in texts} for texts in loaded["texts"].to_list()]
    whole = [{"question": q, "turns_1": a, "turns_2": b} for q, a, b in items]
    # Without a key, the row's number is it: equal texts of two rows are two items.
    asked = [{"asked": q} for q, *_ in items]
    assert named == (asked if fields else whole)


def test_items_have_the_keys_of_the_benchmark(ctx: Context) -> None:
    frame = benchmarks(ctx, names=("humaneval",))
    assert frame["item"].to_list() == [f"HumanEval/{n}" for n in range(164)]
    assert benchmarks(ctx, names=("gsm8k",))["item"].to_list()[:2] == ["0", "1"]


def test_the_files_behind_the_names_are_told() -> None:
    files = input_files(SimpleNamespace(names=("gsm8k", "mmlu")))
    assert [file.name for file in files] == ["gsm8k_test.jsonl.gz", "mmlu_test.parquet"]
    assert all(file.is_file() for file in files)


def own(ctx: Context, rows: bytes, **options: Any) -> pl.DataFrame:
    path = ctx.work / "exam.jsonl"
    path.write_bytes(rows)
    frame = benchmarks(ctx, path=(str(path),), benchmark="mine", **options)
    assert_accounted(frame)
    return frame


def test_a_file_of_ones_own(ctx: Context) -> None:
    row = {"q": "why?", "choices": ["a", "", "c"], "n": 3, "none": None, "key": "K1"}
    frame = own(ctx, json_lines([row]))
    assert [tuple(text.values()) for text in frame["texts"][0]] == [
        ("q", "why?"),
        ("choices_1", "a"),
        ("choices_3", "c"),
        ("key", "K1"),
    ]
    frame = own(ctx, json_lines([row, row]), fields={"question": "q"}, key="key")
    assert frame["texts"][0].to_list() == [{"name": "question", "text": "why?"}]
    assert frame["item"].to_list() == ["K1", "K1"]
    assert frame["drop_reason"].to_list() == [None, "duplicate"]


def test_a_bad_row_is_a_failure(ctx: Context) -> None:
    rows = json_lines([{"q": "a", "id": 1}, {"q": "", "id": 2}, {"q": "b"}, {"q": "\ud800"}, []])
    frame = own(ctx, rows + b"{\n", fields={"question": "q"}, key="id")
    assert frame["item"].drop_nulls().to_list() == ["1"]
    assert [line for line, _ in failures(frame)] == [2, 3, 4, 5, 6]
    assert "it has no text in q; its fields are q, id" in failures(frame)[0][1]


@pytest.mark.parametrize("rows", [b"", b"\n", b"{\n", b'{"other": "a"}\n', b"\x1f\x8b"])
def test_a_benchmark_without_items_is_an_error(ctx: Context, rows: bytes) -> None:
    with pytest.raises(UserError, match="the benchmark 'mine' has no items"):
        own(ctx, rows, fields={"question": "q"})


def test_what_is_missing_is_reported_before_any_work(tmp_path: Path) -> None:
    def wrong(**options: Any) -> str:
        (problem,) = problems("load.benchmarks", **options)
        return problem

    exam = tmp_path / "exam"
    exam.write_bytes(b'{"other": "a"}\n')
    own = {"path": str(exam), "benchmark": "mine"}
    assert wrong() == "names or path must be given, got neither"
    assert wrong(path=str(exam)) == "benchmark must name what `path` holds, got no name"
    assert wrong(**own, fields={"question": "q"}) == "the benchmark 'mine' has no items"
    assert problems("load.benchmarks", names=["gsm8k"], **own) == []
    for option, value in (("benchmark", "mine"), ("key", "k"), ("fields", {"question": "q"})):
        problem = f"{option} must be left out without `path`, got {value!r}"
        assert wrong(names=["gsm8k"], **{option: value}) == problem
    exam.unlink()
    assert "there is no file" in wrong(**own)
    with pytest.raises(UserError, match="which does not exist"):
        check(options_of(benchmarks, path=(str(exam),), benchmark="mine"))


def test_several_files_each_a_benchmark_or_all_one(ctx: Context) -> None:
    paths = []
    for name, field in (("arc", "stem"), ("quiz", "Question")):
        paths.append(str(ctx.work / f"{name}.jsonl"))
        Path(paths[-1]).write_bytes(json_lines([{field: f"{name} {n}?"} for n in range(2)]))
    each = benchmarks(ctx, path=tuple(paths), benchmark=("arc", "quiz"))
    assert each.select("benchmark", "item").rows() == [
        ("arc", "0"), ("arc", "1"), ("quiz", "0"), ("quiz", "1"),
    ]  # fmt: skip
    assert names_of(each) == {"stem", "Question"}
    both = benchmarks(ctx, path=tuple(paths), benchmark="both")
    assert both.select("benchmark", "item").rows() == [("both", str(n)) for n in range(4)]
    with pytest.raises(UserError, match="each of the 2 files, got 1 names"):
        benchmarks(ctx, path=tuple(paths), benchmark=("arc",))


def test_no_file_of_several_may_be_empty(ctx: Context) -> None:
    """The others would hide it, and its items would be missing from the search."""
    good, bad = ctx.work / "good.jsonl", ctx.work / "bad.jsonl"
    good.write_bytes(json_lines([{"q": "why?"}]))
    for rows in (b"", b"{\n", b'{"q": ""}\n', b"\x1f\x8b"):
        bad.write_bytes(rows)
        with pytest.raises(UserError, match="has no items") as caught:
            benchmarks(ctx, path=(str(good), str(bad)), benchmark="mine")
        assert "bad.jsonl" in str(caught.value)
    bad.write_bytes(json_lines([{"other": "why?"}]))
    with pytest.raises(UserError, match="has no items") as caught:
        benchmarks(ctx, path=(str(good), str(bad)), benchmark="mine", fields={"question": "q"})
    assert "no text in q; its fields are other" in str(caught.value)
