"""Benchmarks: all items, by name or from a file, and never an empty one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.save_rows import save
from pipeline.recipe.discovery import find
from schemas.records import ITEM_COLUMNS
from stages.decontaminate.ngram import ngram
from stages.load._item_texts import layout
from stages.load.benchmarks import BUNDLED, Name, benchmarks, input_files, preview
from stages.load.benchmarks import _check as check
from tests.support.loading import assert_accounted, failures, json_lines
from tests.support.options import options_of, problems
from tests.support.rows import sample

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
    row = {"problem": "why?", "choices": ["a", "", "c"], "n": 3, "none": None, "key": "K1"}
    frame = own(ctx, json_lines([row]))
    assert [tuple(text.values()) for text in frame["texts"][0]] == [
        ("problem", "why?"),
        ("choices_1", "a"),
        ("choices_3", "c"),
    ]
    frame = own(ctx, json_lines([row, row]), fields={"question": "problem"}, key="key")
    assert frame["texts"][0].to_list() == [{"name": "question", "text": "why?"}]
    assert frame["item"].to_list() == ["K1", "K1"]
    assert frame["drop_reason"].to_list() == [None, "duplicate"]


def test_a_bad_row_is_a_failure(ctx: Context) -> None:
    rows = json_lines([{"q": "a", "id": 1}, {"q": "", "id": 2}, {"q": "b"}, {"q": "\ud800"}, []])
    frame = own(ctx, rows + b"{\n", fields={"question": "q"}, key="id")
    assert frame["item"].drop_nulls().to_list() == ["1"]
    assert [line for line, _ in failures(frame)] == [2, 3, 4, 5, 6]
    assert "it has no text in q; its columns are q, id" in failures(frame)[0][1]


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
    assert wrong(**own) == "the benchmark 'mine' has no items"
    assert problems("load.benchmarks", names=["gsm8k"], **own, fields={"question": "other"}) == []
    wrong_column = "fields must name columns of the files, got 'answr'"
    assert wrong(**own, fields={"question": "other", "answer": "answr"}) == wrong_column
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
    good.write_bytes(json_lines([{"question": "why?"}]))
    for rows in (b"", b"{\n", b'{"question": ""}\n', b'{"flag": "yes"}\n', b"\x1f\x8b"):
        bad.write_bytes(rows)
        with pytest.raises(UserError, match="has no items") as caught:
            benchmarks(ctx, path=(str(good), str(bad)), benchmark="mine")
        assert "bad.jsonl" in str(caught.value)
    bad.write_bytes(json_lines([{"other": "why?"}]))
    with pytest.raises(UserError, match="has no items") as caught:
        benchmarks(ctx, path=(str(good), str(bad)), benchmark="mine", fields={"q": "question"})
    assert "no text in question; its columns are other" in str(caught.value)


LAYOUTS: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        {"question": "Why?", "choices": {"text": ["So", "No"], "label": ["A", "B"]}, "id": "x"},
        {"question": "Why?", "choices_1": "So", "choices_2": "No"},
    ),
    (
        {"question": {"stem": "Why?", "choices": [{"text": "So", "label": "A"}]}, "answerKey": "A"},
        {"question_stem": "Why?", "question_choices_1": "So"},
    ),
    ({"ctx": "He runs", "endings": ["home", "off"], "ind": 4}, None),
    ({"goal": "Dry it", "sol1": "In the sun", "sol2": "Under water", "label": 0}, None),
    ({"sentence": "It fits _.", "option1": "him", "option2": "her", "answer": "1"}, None),
    ({"Question": "Why?", "Correct Answer": "So", "Incorrect Answer 1": "No", "Writer": 1}, None),
    ({"passage": "Long ago", "question": "When?", "answer": True}, None),
    (
        {"context": "Long ago", "question": "When?", "answers": {"text": ["then"], "start": [3]}},
        {"context": "Long ago", "question": "When?", "answers_1": "then"},
    ),
    ({"problem": "1+1", "solution": "2", "level": "Level 5", "type": "Algebra"}, None),
    ({"turns": [{"content": "Hi"}, {"content": "Go on"}]}, {"turns_1": "Hi", "turns_2": "Go on"}),
    ({"instruction": "Add", "input": "1 2", "output": "3"}, None),
    ({"Question": "问", "A": "甲", "B": "乙", "Answer": "A"}, None),
    (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {"conversations_1": "Hi", "conversations_2": "Ho"},
    ),
    (
        {"instruction": "Add", "instances": [{"input": "1 2", "output": "3"}]},
        {"instruction": "Add", "instances_1_input": "1 2", "instances_1_output": "3"},
    ),
    ({"conversations": ["Hi", "Ho"]}, {"conversations_1": "Hi", "conversations_2": "Ho"}),
    (
        {"prompt": "unread", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]},
        {"messages_1_1": "Hi"},
    ),
]


@pytest.mark.parametrize(("row", "texts"), LAYOUTS)
def test_usual_layouts_are_read(ctx: Context, row: dict, texts: dict[str, str] | None) -> None:
    """Ids, labels and flags are no texts; where nothing else is said, all others are."""
    ignored = {"id", "label", "Writer", "ind", "level", "type"}
    expected = texts or {k: v for k, v in row.items() if k not in ignored and isinstance(v, str)}
    (item,) = own(ctx, json_lines([row]))["texts"].to_list()
    shown = {text["name"]: text["text"] for text in item}
    expected |= {"endings_1": "home", "endings_2": "off"} if "endings" in row else {}
    assert shown == expected


@given(
    st.dictionaries(
        st.sampled_from(["id", "flag", "uid", "drop_reason", "label", "language", "answer"])
        | st.text(min_size=1).filter(lambda name: layout({name: ""}) is None),
        st.text(min_size=1) | st.integers() | st.booleans() | st.lists(st.text()),
        min_size=1,
    )
)
def test_no_other_column_is_taken_for_a_text(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    with pytest.raises(UserError, match="has no items") as caught:
        own(ctx, json_lines([row]))
    reason = str(caught.value)
    assert "surrogate" in reason or ("no column is known" in reason and "fields: {" in reason)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_cat_writes_of_rows_and_of_items(ctx: Context, suffix: str) -> None:
    """Each verbatim row is dropped, whatever other columns stand beside its messages."""
    pool = sample("self_instruct.jsonl.gz").head(200)
    flags = pl.lit("yes").alias("flag")
    path = str(ctx.work / f"heldout.{suffix}")
    save(pool.with_columns(flags, language=pl.lit("en"), prompt=pl.lit("a b c d e f")), path)
    items = benchmarks(ctx, path=(path,), benchmark="heldout")
    assert items["error"].is_null().all()
    contents = pool["messages"].list.eval(pl.element().struct.field("content")).to_list()
    read = [[text["text"] for text in texts] for texts in items["texts"].to_list()]
    assert read == contents
    searchable = pl.Series(contents).list.eval(words_of(pl.element()) >= 13).list.any()
    dropped = ngram(ctx, pool, items)["drop_reason"].is_not_null()
    assert dropped.sum() >= searchable.sum() > 100
    save(items.select(*ITEM_COLUMNS), path)
    again = benchmarks(ctx, path=(path,), benchmark="heldout")
    assert again.select(*ITEM_COLUMNS).equals(items.select(*ITEM_COLUMNS))


def words_of(text: pl.Expr) -> pl.Expr:
    return text.str.extract_all(r"[a-zA-Z]+").list.unique().list.len()


def test_system_prompts_are_no_items(ctx: Context) -> None:
    roles = ("system", "user", "assistant", "tool")
    row = {"messages": [{"role": role, "content": f"I am the {role}"} for role in roles]}
    (item,) = own(ctx, json_lines([row]))["texts"].to_list()
    assert [text["text"] for text in item] == ["I am the user", "I am the assistant"]


def test_plan_shows_an_item_of_every_file(tmp_path: Path) -> None:
    """As it will be searched for, with what is left out, and without control sequences."""
    paths = []
    for name in ("arc", "quiz"):
        paths.append(str(tmp_path / f"{name}.jsonl"))
        rows = [
            {"question": ""},
            {"question": f"{name}\x1b[2J?", "flag": "f" * 99, "answer": "x" * 99},
        ]
        Path(paths[-1]).write_bytes(json_lines(rows))
    options = options_of(benchmarks, path=tuple(paths), benchmark=("a", "q"))
    shown = [line for line in preview(options) if "item" in line]
    answer = f"answer '{'x' * 57}...'"
    assert shown[0] == rf"a, item 1 of arc.jsonl: question 'arc\x1b[2J?', {answer}"
    assert len(shown) == 2
    assert preview(options)[1] == "columns of arc.jsonl that are not read: flag"
    entries = find("load.benchmarks").preview(options)
    assert entries == preview(options)
    assert find("load.concat").preview(options) == []


def test_cells_may_be_parted_otherwise(tmp_path: Path, ctx: Context) -> None:
    """Also beside a bundled table, whose cells are parted by commas."""
    file = tmp_path / "quiz.csv"
    file.write_text("question;answer\nWhy, and how?;So\n")
    files: dict[str, Any] = {"path": (str(file),), "benchmark": "quiz"}
    with pytest.raises(UserError, match=r"\(delimiter: ';'\)"):
        benchmarks(ctx, **files)
    alone = benchmarks(ctx, names=("truthfulqa",))
    items = benchmarks(ctx, names=("truthfulqa",), delimiter=";", **files)
    assert items[: len(alone)].equals(alone)
    assert [text["text"] for text in items["texts"][-1]] == ["Why, and how?", "So"]
    shown = preview(options_of(benchmarks, delimiter=";", **files))
    assert shown[0] == "quiz, item 0 of quiz.csv: question 'Why, and how?', answer 'So'"
