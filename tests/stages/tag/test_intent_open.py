"""Open tags: read from JSON or a list, never from prose; what was merged is in the files."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.models import Embedder, LanguageModel
from stages.select.coverage import coverage
from stages.tag.intent import Open, intent
from tests.support.options import problems
from tests.support.rows import conversations, sample
from tests.support.scripted import Answer, ScriptedContext, scripted

MODEL = LanguageModel(model="none")
ROWS = conversations([("What is 2 and 3?", "5"), ("Write a poem about rain.", "Drop.")])
TAGS = [
    {"tag": "Creative Writing", "explanation": "A poem."},
    {"tag": "weather", "explanation": "Rain."},
]
ALL = Open(min_count=1, min_support=None)


def saying(ctx: Context, answer: str) -> ScriptedContext:
    def script(text: str) -> Answer:
        return answer, "stop"

    return scripted(ctx, script)


def facts(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "tags.json").read_text("utf-8"))


def merges(ctx: Context) -> list[dict[str, Any]]:
    lines = (ctx.files / "merges.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(TAGS),
        "Sure!\n```json\n" + json.dumps(TAGS, indent=1) + "\n```\nEnjoy.",
        json.dumps([*TAGS, {"tag": " ", "explanation": ""}]),
    ],
)
def test_tags_are_read_with_their_explanations(ctx: Context, answer: str) -> None:
    rows = intent(saying(ctx, answer), ROWS, model=MODEL, method=ALL)
    assert rows["raw_tags"].to_list() == [["Creative Writing", "weather"]] * 2
    assert rows["tag_explanations"].to_list() == [["A poem.", "Rain."]] * 2
    assert rows["tags"].to_list() == [["creative writing", "weather"]] * 2
    assert rows["tag_count"].to_list() == [2, 2]
    assert facts(ctx)["distinct_tags"] == facts(ctx)["tags_per_row"] == 2
    assert merges(ctx) == [
        {"step": "wording", "tag": "Creative Writing", "into": "creative writing", "rows": 2,
         "similarity": pytest.approx(0.875)},
    ]  # fmt: skip


PROSE = "The user wants a poem, which is about the weather."


@pytest.mark.parametrize("explain", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        PROSE,
        "creative writing, weather",
        "I'm sorry, but I can't help with that.",
        "[]",
        "",
        json.dumps([{"tag": PROSE, "explanation": ""}, {"tag": "", "explanation": "So."}]),
        "1. " + PROSE + " It is short, and it rhymes.",
        '[{"tag": "weather", "explan',
    ],
)
def test_what_names_no_tags_drops_the_row_with_its_end(
    ctx: Context, answer: str, explain: bool
) -> None:
    method = Open(min_count=1, explain=explain)
    rows = intent(saying(ctx, answer), ROWS, model=MODEL, method=method)
    assert rows["drop_reason"].to_list() == ["unreadable"] * 2
    assert {json.loads(text)["response_end"] for text in rows["evidence"]} == {answer[-200:]}
    assert rows.select("raw_tags", "tags", "tag_count").null_count().row(0) == (2, 2, 2)
    assert facts(ctx)["rows"] == 0
    assert facts(ctx)["tags_per_row"] is None


def test_a_list_of_tags_alone(ctx: Context) -> None:
    answer = "Here they are:\n1. **Creative Writing**\n2. weather\n3. " + PROSE + "\n\nEnjoy!"
    rows = intent(saying(ctx, answer), ROWS, model=MODEL, method=Open(min_count=1, explain=False))
    assert rows["tags"].to_list() == [["creative writing", "weather"]] * 2
    assert rows["raw_tags"].list.len().to_list() == [3, 3]
    assert "tag_explanations" not in rows.columns
    assert [merge["step"] for merge in merges(ctx)][-1] == "wording"
    assert facts(ctx)["dropped"] == {"form": 1}


def test_a_row_keeps_its_place_when_all_of_its_tags_are_rare(ctx: Context) -> None:
    rows = intent(saying(ctx, json.dumps(TAGS)), ROWS, model=MODEL, method=Open())
    assert rows["tags"].to_list() == [[], []]
    assert rows["tag_count"].to_list() == [0, 0]
    assert rows["drop_reason"].null_count() == 2
    assert facts(ctx)["rows_without_tags"] == 2


def test_failed_and_blank_requests_do_not_count(ctx: Context) -> None:
    def script(text: str) -> Answer:
        return ("no server", "error") if "poem" in text else (json.dumps(TAGS), "stop")

    rows = conversations([("What is 2?", "2"), ("Write a poem.", "Drop."), (" ", "?")])
    result = intent(scripted(ctx, script), rows, model=MODEL, method=ALL)
    assert sorted(result["error"].to_list(), key=str) == [None, None, "no server"]
    assert sorted(result["drop_reason"].to_list(), key=str) == [None, None, "no_instruction"]
    assert facts(ctx)["rows"] == 1


def test_tags_of_a_column_need_no_model(ctx: Context) -> None:
    raw = [["Recipes", None, "Food!"], ["recipe", "food"], None, []]
    rows = pl.DataFrame({"id": list("abcd"), "raw": raw}, schema_overrides={"raw": pl.List(str)})
    method = Open(column="raw", min_count=2, min_support=None)
    result = intent(ctx, rows, method=method)
    assert result["tags"].to_list() == [["recipe", "food"], ["recipe", "food"], None, []]
    assert result["drop_reason"].to_list() == [None, None, "missing_tags", None]
    assert "raw_tags" not in result.columns


def test_the_embedder_merges_and_every_merge_has_its_similarity(
    ctx: Context, potion: Embedder
) -> None:
    raw = [["mathematics", "cooking"], ["math problems"], ["mathematics problem"], ["mathematics"]]
    rows = pl.DataFrame({"id": list("abcd"), "raw": raw})
    method = Open(column="raw", min_count=1, min_similarity=0.5, min_support=None)
    result = intent(ctx, rows, method=method, embedder=potion)
    assert result["tags"].to_list() == [["mathematics", "cooking"], *[["mathematics"]] * 3]
    steps = {
        (m["tag"], m["into"]): m["similarity"] for m in merges(ctx) if m["step"] == "embedding"
    }
    assert set(steps) == {("math problems", "mathematics"), ("mathematics problem", "mathematics")}
    assert all(0.5 <= similarity <= 1 for similarity in steps.values())


def test_selection_takes_complex_rows_that_cover_the_tags(ctx: Context) -> None:
    raw = [["a", "b", "c"], ["a", "b"], ["d"], ["d", "e"]]
    rows = pl.DataFrame({"id": list("wxyz"), "raw": raw})
    tagged = intent(ctx, rows, method=Open(column="raw", min_count=1, min_support=None))
    chosen = coverage(ctx, rows.hstack(tagged.select("tags", "tag_count")), budget=2)
    assert chosen["coverage_rank"].to_list() == [1, None, None, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None, "method": {"name": "open"}}, "model must be a language model"),
        ({"method": {"name": "open", "column": "raw"}}, "model must be left out"),
        (
            {"model": None, "method": {"name": "open", "column": "raw", "explain": False}},
            "explain must be left out",
        ),
        ({"method": {"name": "open", "min_similarity": 0.9}}, "min_similarity must be left out"),
        ({"method": {"name": "open", "clustering": "dbscan"}}, "clustering must be left out"),
        (
            {"method": {"name": "open", "min_support": None, "min_confidence": 0.9}},
            "min_confidence must be left out",
        ),
        ({"method": {"name": "open", "min_count": 0}}, "min_count must be"),
        ({"method": {"name": "open", "sets": ["quality"]}}, "has no option 'sets'"),
    ],
)
def test_a_recipes_mistakes(options: dict[str, Any], message: str) -> None:
    (mistake,) = problems("tag.intent", **options)
    assert message in mistake


@pytest.mark.proof
def test_a_live_model_lists_tags_or_loses_the_row(ctx: Context, tinylm: LanguageModel) -> None:
    rows = sample("self_instruct.jsonl.gz").head(3)
    method = Open(explain=False, min_count=1)
    result = intent(ctx, rows, model=tinylm, method=method, max_tokens=16)
    for tags, reason, end in result.select("tags", "drop_reason", "evidence").iter_rows():
        assert (tags is None) == (reason == "unreadable") == (end is not None)
