"""Drafts: every one ends as a row, with a reason, or failed; steps ask only for those alive."""

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


def drafts(*topics: str) -> list[Draft]:
    return [Draft((topic * 4,), {"topic": topic}, "MIT") for topic in topics]


def made_of(found: list[Draft]) -> pl.DataFrame:
    return to_frame(
        found,
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
    found = drafts("good", "long", "empty", "broken", "refused")
    generate_field(engine, found, "question", lambda d: user(d["topic"]), Decoding(8))
    filter_drafts(found, lambda d: ("too_dull", {"why": "?"}) if d["topic"] == "refused" else None)
    generate_field(engine, found, "answer", lambda d: user(d["question"]), Decoding(8))
    made = made_of(found)
    assert [len(asked) for asked in engine.asked] == [5, 1]
    assert made["drop_reason"].to_list() == [
        *(None, "question_cut", "question_unparsed", None, "too_dull"),
    ]
    assert made["error"].to_list() == [None, None, None, "no server", None]
    assert json.loads(made["evidence"][2]) == {"response_end": "  \n"}
    assert made["messages"][0].to_list() == [
        {"role": "user", "content": "about good"},
        {"role": "assistant", "content": "about about good"},
    ]
    assert made["journal"].list.len().to_list() == [2, 1, 1, 1, 1]
    assert made["topic"].to_list() == ["good", "long", "empty", "broken", "refused"]


def test_a_draft_becomes_several_and_one_without_parts_says_so(ctx: Context) -> None:
    found = drafts("a,b", "", "c")
    found[2].reject("earlier")
    parts = expand(found, lambda d: [{"question": q} for q in d["topic"].split(",") if q])
    assert [d.fields.get("question") for d in parts] == ["a", "b", None, None]
    assert [d.rejection and d.rejection[0] for d in parts] == [
        *(None, None, "nothing_parsed", "earlier"),
    ]
    parts[0].journal.append("only mine")
    assert parts[1].journal == []


def test_a_cut_answer_may_be_wanted(ctx: Context) -> None:
    found = drafts("long")
    engine = scripted(ctx, script).open(NO_MODEL)
    generate_field(
        engine, found, "question", lambda d: user(d["topic"]), Decoding(8), keep_cut=True
    )
    assert found[0].active
    assert found[0]["question"] == "never end"


def test_equal_rows_are_one_and_a_twin(ctx: Context) -> None:
    found = drafts("same", "same")
    for draft in found:
        draft.fields |= {"question": "Why?", "answer": "Because."}
    assert made_of(found)["drop_reason"].to_list() == [None, "duplicate"]


def test_what_a_model_wrote_is_no_template(ctx: Context) -> None:
    evil = "{{ 7 * 7 }}{% for x in y %}"
    assert evil in PROMPTS.render("instruction", passage=evil)


def test_nothing_left_is_told_with_reasons(caplog: pytest.LogCaptureFixture) -> None:
    found = drafts("a", "b", "c")
    found[0].reject("too_dull")
    found[1].reject("too_dull")
    found[2].error = "no server"
    with caplog.at_level(logging.WARNING):
        made_of(found)
    assert "none of 3 drafts became a row: too_dull 2, failed 1" in caplog.text
