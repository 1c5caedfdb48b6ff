"""Data set cards become tasks, and rows fill them; every refused proposal says why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from stages.generate.from_metadata import _check, from_metadata, input_files, proposals
from tests.support.rows import DATA
from tests.support.scripted import scripted

NO_MODEL = LanguageModel(model="none")
GSM8K = DATA / "benchmarks/gsm8k_test.jsonl.gz"
GOOD = {
    "instruction": "Solve the problem.",
    "input_fields": ["question"],
    "output_field": "answer",
}
BAD = [
    {**GOOD, "output_field": ""},
    {**GOOD, "input_fields": ["question", "hint"]},
    {**GOOD, "input_fields": ["answer"]},
    {**GOOD, "instruction": "solve  the PROBLEM."},
    {**GOOD, "instruction": ""},
]


def card(folder: Path, name: str, rows: str, **more: str) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "license": "MIT", "rows": rows, **more}))
    return str(path)


def test_rows_fill_the_tasks_that_pass_the_filters(ctx: Context, tmp_path: Path) -> None:
    gsm8k = card(tmp_path, "GSM8K", str(GSM8K), description="Grade school mathematics.")
    context = scripted(ctx, lambda _: (json.dumps([GOOD, *BAD]), "stop"))
    rows = from_metadata(context, model=NO_MODEL, cards=(gsm8k,), num_tasks=6, max_instances=7)
    assert Counter(rows["drop_reason"]) == {
        None: 7,
        "no_output_field": 2,
        "unknown_field": 2,
        "field_given_and_asked": 2,
        "repeated_instruction": 3,  # one of the first answer, two of the second
        "no_instruction": 2,
    }
    described, bare = (request.prompt[-1][1] for request in context.engine.calls[0])
    assert "Grade school mathematics." in described
    assert "Grade school mathematics." not in bare
    assert bare.split("Now this one.")[1].count("- question: ") == 2, "two rows are shown"
    assert bare.count("Tasks:") == 2, "after two demonstrations"
    source = [json.loads(line) for line in pl.read_ndjson(GSM8K).write_ndjson().splitlines()]
    for messages, extra, start in (
        rows.filter(pl.col("drop_reason").is_null())
        .select("messages", "extra", "input_start")
        .iter_rows()
    ):
        row = source[json.loads(extra)["row"]]
        assert messages[0]["content"] == f"Solve the problem.\n\nquestion: {row['question']}"
        assert messages[0]["content"][start:].startswith("question: ")
        assert messages[1]["content"] == row["answer"].strip()
    assert set(rows["data_set"]) == {"GSM8K"}


def test_labels_are_told_and_empty_answers_dropped(ctx: Context, tmp_path: Path) -> None:
    lines = ["text,mood,score", "fine,happy,1", "sad,gloomy,2", "so so,,3", "well,happy,4"]
    (tmp_path / "moods.csv").write_text("\n".join(lines))
    tasks = [{"instruction": "Name the mood.", "input_fields": ["text"], "output_field": "mood"}]
    rows = from_metadata(
        scripted(ctx, lambda _: (json.dumps(tasks), "stop")),
        model=NO_MODEL,
        cards=(card(tmp_path, "moods", "moods.csv"),),
        descriptions=("without",),
    )
    assert Counter(rows["drop_reason"]) == {None: 3, "empty_output": 1}
    first = rows.filter(pl.col("drop_reason").is_null())["messages"][0][0]["content"]
    assert first.startswith("Name the mood. The answer is one of: gloomy, happy.\n\ntext: ")


def labelled(ctx: Context, folder: Path, labels: list[str], **options: Any) -> pl.DataFrame:
    """The rows of one task whose output are these labels."""
    lines = [f"row {n},{label}" for n, label in enumerate(labels)]
    (folder / "labels.csv").write_text("\n".join(["text,label", *lines]))
    tasks = [{"instruction": "Name it.", "input_fields": ["text"], "output_field": "label"}]
    return from_metadata(
        scripted(ctx, lambda _: (json.dumps(tasks), "stop")),
        model=NO_MODEL,
        cards=(card(folder, "labels", "labels.csv"),),
        descriptions=("without",),
        **options,
    )


@pytest.mark.parametrize(
    ("labels", "dropped"),
    [
        (["a"] * 7 + ["b"] * 3, None),
        (["a"] * 8 + ["b"] * 2, {"label": "a", "share": 0.8}),
        (["a"] * 5 + ["b"] * 3 + ["c"] * 2, None),
        (["a"] * 6 + ["b"] * 3 + ["c"], {"label": "a", "share": 0.6}),
        (["a"] * 4, {"label": "a", "share": 1.0}),
        ([f"answer {n}" for n in range(4)], None),  # nothing occurs twice: no labels
        (["a"] * 50 + [f"answer {n}" for n in range(10)], None),  # more than ten values
    ],
)
def test_tasks_with_one_label_too_frequent_are_dropped(
    labels: list[str], dropped: dict[str, Any] | None, ctx: Context, tmp_path: Path
) -> None:
    rows = labelled(ctx, tmp_path, labels)
    if dropped is None:
        assert set(rows["drop_reason"]) == {None}
        assert len(rows) == len(labels)
    else:
        assert rows["drop_reason"].to_list() == ["unbalanced_labels"]
        assert json.loads(rows["evidence"][0]) == dropped
    assert len(labelled(ctx, tmp_path, labels, max_labels=0)) == len(labels)


def test_long_labels_are_not_listed(ctx: Context, tmp_path: Path) -> None:
    for label, listed in (("fifteen letters", True), ("sixteen  letters", False)):
        rows = labelled(ctx, tmp_path, [label, "short"] * 2)
        text = rows["messages"][0][0]["content"]
        assert ("The answer is one of: " in text) is listed, label


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (json.dumps([GOOD]), 1),
        (f"Sure:\n```json\n{json.dumps([GOOD, GOOD])}\n```", 2),
        (json.dumps(GOOD), 1),
        ('[{"instruction": "x"}]', 1),
        ("[1, 2]", 0),
        ("no tasks here", 0),
        ("", 0),
    ],
)
def test_proposals_are_read_or_not(text: str, number: int) -> None:
    assert len(proposals(text) or []) == number


@pytest.mark.proof
def test_a_live_model_that_cannot_is_told(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gsm8k = card(tmp_path, "GSM8K", str(GSM8K))
    rows = from_metadata(ctx, model=tinylm, cards=(gsm8k,), max_tokens=24)
    assert set(rows["drop_reason"]) <= {"tasks_cut", "tasks_unparsed"}
    assert "from_metadata: none of 2 drafts became a row" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 0}, "num_tasks must be at least 1, got 0"),
        ({"descriptions": []}, "descriptions must be of at least 1 element"),
        ({"descriptions": ["both"]}, "must be 'with' or 'without', got 'both'"),
        ({"max_instances": 0}, "max_instances must be at least 1, got 0"),
        ({"max_labels": -1}, "max_labels must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str, tmp_path: Path) -> None:
    raw = {"model": "m", "cards": card(tmp_path, "x", "x.csv"), **options}
    _, problems = bind(find("generate.from_metadata"), raw, {"m": NO_MODEL}, tmp_path)
    assert len(problems) == 1
    assert message in problems[0].what


def test_tables_are_part_of_the_fingerprint_and_cards_are_checked(tmp_path: Path) -> None:
    from types import SimpleNamespace

    path = card(tmp_path, "x", "x.csv")
    options = SimpleNamespace(cards=(path,))
    assert input_files(options) == [tmp_path / "x.csv"]
    with pytest.raises(UserError, match="cards must name tables that exist"):
        _check(options)
    Path(path).write_text("name: x\nrows: y.csv\n")
    with pytest.raises(UserError, match="must be a data set card") as caught:
        input_files(options)
    assert "license" in str(caught.value.why)
