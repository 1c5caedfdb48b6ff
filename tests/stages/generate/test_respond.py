"""Answers to prompts: what the model is shown, what the row keeps, and by whom it was written."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from schemas.records import DOCUMENT_COLUMNS, RECORD_COLUMNS, record_id
from stages.generate.respond import _check, _explanations, first_part, nearest, respond
from tests.support.options import options_of
from tests.support.rows import DATA, conversations, json_lines
from tests.support.scripted import scripted

ONE = (LanguageModel(model="teacher"),)
TWO = (*ONE, LanguageModel(model="other"))


def echo(text: str) -> tuple[str, str]:
    return f"on {text[-40:]!r}", "stop"


def documents(*texts: str) -> pl.DataFrame:
    lines = [
        {"id": f"{i:032x}", "text": text, "origins": [{"license": "MIT"}]}
        for i, text in enumerate(texts)
    ]
    return pl.DataFrame(lines, schema=DOCUMENT_COLUMNS)


@pytest.fixture
def rows() -> pl.DataFrame:
    return conversations([("Why is it?", "No."), ("A?", "B.", "C?", "D.")])


def roles(frame: pl.DataFrame) -> set[tuple[str, ...]]:
    return {tuple(m["role"] for m in messages) for messages in frame["messages"]}


def test_n_answers_of_every_model_to_the_last_thing_said(ctx: Context, rows: pl.DataFrame) -> None:
    context = scripted(ctx, echo)
    made = respond(context, rows, models=TWO, n=2)
    assert len(made) == 8
    assert Counter(zip(made["model"], made["sample"], strict=True)) == {
        (model, sample): 2 for model in ("teacher", "other") for sample in (0, 1)
    }
    assert roles(made) == {("user", "assistant"), ("user", "assistant") * 2}
    asked = {request.prompt for request in context.engine.asked[0]}
    assert (("user", "A?"), ("assistant", "B."), ("user", "C?")) in asked
    assert {request.sample for request in context.engine.asked[0]} == {0, 1}
    assert set(made["origins"].list.first().struct.field("license")) == {"CC0-1.0"}


def test_a_system_prompt_of_the_user_s_stays(ctx: Context, rows: pl.DataFrame) -> None:
    made = respond(scripted(ctx, echo), rows[:1], models=ONE, system="Be brief.")
    assert made["messages"][0][0] == {"role": "system", "content": "Be brief."}


def test_explanations_are_dealt_out_and_stay(ctx: Context, rows: pl.DataFrame) -> None:
    made = respond(scripted(ctx, echo), rows, models=ONE, method="explain", n=3)
    for _, group in made.group_by("parents"):
        assert group["manner"].n_unique() == 3
    assert set(made["manner"]) <= set(_explanations())
    assert all(m[0]["role"] == "system" for m in made["messages"])
    with pytest.raises(UserError, match="none called"):
        _check(options_of(respond, models=ONE, method="explain", explanations=("loud",)))


def test_reasoning_goes_from_guideline_to_outline_to_path(ctx: Context, rows: pl.DataFrame) -> None:
    context = scripted(ctx, echo)
    made = respond(context, rows[:1], models=ONE, method="reason", n=2)
    assert [len(asked) for asked in context.engine.asked] == [2, 2, 2]
    first, second, third = (asked[0].prompt[-1][1] for asked in context.engine.asked)
    guideline = made["manner"][0]
    assert guideline in first
    assert guideline not in second
    assert echo(first)[0] in second
    assert echo(second)[0] in third
    assert made["manner"].n_unique() == 2
    assert roles(made) <= {("user", "assistant"), ("user", "assistant") * 2}
    assert made["journal"].list.len().to_list() == [3, 3]


def test_context_is_shown_and_left_out_of_the_row(ctx: Context) -> None:
    rows = conversations([("How do wasps nest?", "x")])
    texts = documents("Bees dance.", "Wasps chew wood to nest.", "Rust borrows.")
    context = scripted(ctx, echo)
    made = respond(context, rows, texts, models=ONE, method="context", passages=1)
    assert "Wasps chew wood" in context.engine.asked[0][0].prompt[-1][1]
    assert made["messages"][0][0]["content"] == "How do wasps nest?"


def test_nearest_passages_are_those_that_share_words() -> None:
    passages = ["red apples", "green pears", "red pears", "stones"]
    assert (
        nearest(["red pears please", "nothing"], passages, 2)
        == [
            ["red pears", "red apples"],
            [],
        ]
        or nearest(["red pears please"], passages, 2)[0][0] == "red pears"
    )
    assert nearest(["a"], [], 2) == [[]]
    assert nearest(["a"], ["* * *", "..."], 2) == [[]], "signs are no words"
    assert nearest([], passages, 2) == []


def test_texts_are_cut_and_continued(ctx: Context) -> None:
    book = json_lines(DATA / "samples/rust_book.jsonl.gz")[:6]
    texts = documents(*(row["text"] for row in book), "one")
    context = scripted(ctx, echo)
    made = respond(context, None, texts, models=ONE, method="continue", most_documents=4)
    assert Counter(made["drop_reason"]) == {None: 4, "not_sampled": 2, "no_prompt": 1}
    for messages, parents in (
        made.filter(pl.col("drop_reason").is_null()).select("messages", "parents").iter_rows()
    ):
        whole = texts.filter(pl.col("id") == parents[0])["text"][0].strip()
        beginning = messages[0]["content"]
        assert whole.startswith(beginning)
        assert len(beginning) == pytest.approx(len(whole) / 2, abs=400)
        assert beginning[-1] in ".!?\"')]"


def test_the_first_part_ends_with_a_sentence_or_a_word() -> None:
    assert first_part("One. Two three four. Five.", 0.7) == "One. Two three four."
    assert first_part("one two three four", 0.5) == "one two"
    assert first_part("word", 0.5) == ""
    assert first_part("  ", 0.5) == ""


def test_rows_without_a_question_are_told(ctx: Context) -> None:
    messages = [{"role": "assistant", "content": "Hello."}]
    row = {"id": record_id(messages), "messages": messages, "origins": []}
    made = respond(scripted(ctx, echo), pl.DataFrame([row], schema=RECORD_COLUMNS), models=ONE)
    assert made["drop_reason"].to_list() == ["no_prompt"]


def test_a_cut_answer_is_asked_again_where_that_is_allowed(
    ctx: Context, rows: pl.DataFrame
) -> None:
    def long(text: str) -> tuple[str, str]:
        return "so far", "length"

    context = scripted(ctx, long)
    made = respond(context, rows, models=ONE, max_tokens=8, larger=(16, 32))
    assert [r.decoding.max_tokens for asked in context.engine.asked for r in asked] == [
        *(8, 8, 16, 16, 32, 32),
    ]
    assert set(made["drop_reason"]) == {"response_cut"}
    assert made["journal"].list.len().to_list() == [3, 3]


def test_edges_that_a_method_needs_are_told(ctx: Context, rows: pl.DataFrame) -> None:
    with pytest.raises(UserError, match="'documents'"):
        respond(scripted(ctx, echo), rows, models=ONE, method="continue")
    with pytest.raises(UserError, match="'rows'"):
        respond(scripted(ctx, echo), None, documents("a b"), models=ONE)
    with pytest.raises(UserError, match="'documents'"):
        respond(scripted(ctx, echo), rows, models=ONE, method="context")


def test_a_live_model_answers(ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame) -> None:
    made = respond(ctx, rows, models=(tinylm,), n=2, max_tokens=24)
    assert len(made) == 4
    assert set(made["drop_reason"]) <= {None, "response_cut", "duplicate"}
