"""Drafts: each ends as a row, dropped or failed; only active ones are requested."""

from __future__ import annotations

import json
import logging

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.models import Decoding, LanguageModel
from stages._llm.drafts import Draft, expand, filter_drafts, generate_field, to_frame, user
from stages._llm.rows import task_messages
from stages.generate.backtranslate.humback import PROMPTS
from tests.support.scripted import scripted

ADDS = {"journal": pl.List(pl.String), "topic": pl.String}
NO_MODEL = LanguageModel(model="none")


def drafts_about(*topics: str) -> list[Draft]:
    return [Draft((topic * 4,), {"topic": topic}, "MIT") for topic in topics]


def frame_of(drafts: list[Draft]) -> pl.DataFrame:
    return to_frame(
        drafts,
        lambda d: task_messages(d.fields.get("question", ""), "", d.fields.get("answer", "")),
        "test",
        ADDS,
    )


def script(text: str) -> tuple[str, str]:
    answers = {
        "long": ("never end", "length"),
        "empty": ("  \n", "stop"),
        "broken": ("no server", "error"),
    }
    return answers.get(text, (f" about {text} ", "stop"))


def test_every_draft_is_kept_dropped_or_failed(ctx: Context) -> None:
    context = scripted(ctx, script)
    engine = context.open(NO_MODEL)
    some = drafts_about("good", "long", "empty", "broken", "refused")
    generate_field(engine, some, "question", lambda d: user(d["topic"]), Decoding(8))
    filter_drafts(some, lambda d: ("too_dull", {"why": "?"}) if d["topic"] == "refused" else None)
    generate_field(engine, some, "answer", lambda d: user(d["question"]), Decoding(8))
    rows = frame_of(some)
    assert [len(asked) for asked in engine.calls] == [5, 1]
    assert rows["drop_reason"].to_list() == [
        *(None, "question_cut", "question_unparsed", None, "too_dull"),
    ]
    assert rows["error"].to_list() == [None, None, None, "no server", None]
    assert json.loads(rows["evidence"][2]) == {"response_end": "  \n"}
    assert [(turn["role"], turn["content"]) for turn in rows["messages"][0]] == [
        ("user", "about good"),
        ("assistant", "about about good"),
    ]
    assert rows["journal"].list.len().to_list() == [2, 1, 1, 1, 1]
    assert rows["topic"].to_list() == ["good", "long", "empty", "broken", "refused"]


def test_a_draft_becomes_several_and_one_without_children_is_dropped(ctx: Context) -> None:
    some = drafts_about("a,b", "", "c")
    some[2].reject("earlier")
    parts = expand(some, lambda d: [{"question": q} for q in d["topic"].split(",") if q])
    assert [d.fields.get("question") for d in parts] == ["a", "b", None, None]
    assert [d.rejection and d.rejection[0] for d in parts] == [
        *(None, None, "nothing_parsed", "earlier"),
    ]
    parts[0].journal.append("key")
    assert parts[1].journal == []


def test_a_cut_answer_can_be_kept(ctx: Context) -> None:
    some = drafts_about("long")
    engine = scripted(ctx, script).open(NO_MODEL)
    generate_field(engine, some, "question", lambda d: user(d["topic"]), Decoding(8), keep_cut=True)
    assert some[0].active
    assert some[0]["question"] == "never end"


def test_equal_rows_are_one_and_a_duplicate(ctx: Context) -> None:
    some = drafts_about("same", "same")
    for draft in some:
        draft.fields |= {"question": "Why?", "answer": "Because."}
    rows = frame_of(some)
    assert rows["drop_reason"].to_list() == [None, "duplicate"]
    assert json.loads(rows["evidence"][1]) == {"duplicate_of": rows["id"][0]}
    assert [origin["index"] for origin in rows["origins"][0]] == [0, 1]


def test_the_text_of_a_model_is_never_a_template(ctx: Context) -> None:
    evil = "{{ 7 * 7 }}{% for x in y %}"
    assert evil in PROMPTS.render("instruction", passage=evil)


def test_a_warning_names_the_reasons_when_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    some = drafts_about("a", "b", "c")
    some[0].reject("too_dull")
    some[1].reject("too_dull")
    some[2].error = "no server"
    with caplog.at_level(logging.WARNING):
        frame_of(some)
    assert "none of 3 drafts became a row: too_dull 2, failed 1" in caplog.text


def test_no_warning_where_nothing_came_in(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert frame_of([]).is_empty()
    assert not caplog.text
