"""Models that reason: every form is parted from the answer, and kept beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.models import Completion, Decoding, LanguageModel, Reasoning, Request
from stages.generate.respond import respond
from tests.support.rows import conversations
from tests.support.scripted import Answer
from tests.support.servers import switched
from tests.support.servers.behaviours import Behaviour
from tests.support.servers.reasoning import PARTED, SCRATCH, UNCLOSED
from tests.support.serving import FakeServer
from tests.support.teacher import teacher

GREEDY = Decoding()
ROWS = conversations([("What is 2 and 2?",), ("What is 3 and 3?",)])


@contextmanager
def model_that(form: str, script: Any = teacher) -> Iterator[tuple[LanguageModel, FakeServer]]:
    with switched(script, own=Behaviour(form)) as running:
        yield running.model("own"), running.server


def ask(model: LanguageModel, folder: Path, decoding: Decoding = GREEDY) -> Completion:
    (completion,) = (
        Context.scratch(folder).open(model).generate([Request((("user", "2 and 2?"),), decoding)])
    )
    return completion


def four(_: str) -> Answer:
    return "4", "stop"


@pytest.mark.parametrize("form", PARTED)
def test_every_form_is_parted_and_kept(form: str, tmp_path: Path) -> None:
    with model_that(form, four) as (model, server):
        answer = ask(model, tmp_path)
        assert (answer.text, answer.finish_reason) == ("4", "stop")
        assert answer.reasoning == SCRATCH.strip()
        assert ask(model, tmp_path) == answer, "the journal keeps it as it came"
        assert len(server.requests) == 1


@pytest.mark.parametrize("form", UNCLOSED)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_reasoning_that_does_not_close_is_a_third_outcome(
    form: str, reason: str, tmp_path: Path
) -> None:
    with model_that(form, lambda _: ("", reason)) as (model, _):
        answer = ask(model, tmp_path)
    assert (answer.text, answer.error) == ("", None)
    assert answer.finish_reason == "reasoning_unclosed"
    assert "SCRATCH" in answer.reasoning


def test_keys_are_those_of_models_of_which_nothing_is_said(tmp_path: Path) -> None:
    with model_that("plain", four) as (model, server):
        plain = ask(model, tmp_path)
        marked = LanguageModel(
            model.model, model.engine, base_url=model.base_url, reasoning=Reasoning(opened=True)
        )
        unclosed = ask(marked, tmp_path)
        assert unclosed.finish_reason == "reasoning_unclosed", "it is told by the recipe alone"
        assert unclosed.key == plain.key
        assert len(server.requests) == 1
        more = Reasoning(max_tokens=500, effort="low")
        roomy = LanguageModel(model.model, model.engine, base_url=model.base_url, reasoning=more)
        assert ask(roomy, tmp_path, Decoding(max_tokens=4)).key != plain.key
    bodies = [json.loads(body) for body in server.requests]
    assert (bodies[1]["max_tokens"], bodies[1]["reasoning_effort"]) == (504, "low")
    assert "reasoning_effort" not in bodies[0]


@pytest.mark.parametrize("keep", [False, True])
def test_reasoning_becomes_the_row_s_where_that_is_asked_for(keep: bool, tmp_path: Path) -> None:
    with model_that("inline", four) as (model, _):
        ctx = Context.scratch(tmp_path)
        rows = respond(ctx, ROWS, models=(model,), keep_reasoning=keep)
    answers = [messages[-1] for messages in rows["messages"].to_list()]
    assert {answer["content"] for answer in answers} == {"4"}
    assert {answer["reasoning"] for answer in answers} == {SCRATCH.strip() if keep else None}


def test_cut_reasoning_is_asked_again_with_more_tokens(tmp_path: Path) -> None:
    with model_that("unclosed", lambda _: ("", "length")) as (model, server):
        rows = respond(Context.scratch(tmp_path), ROWS, models=(model,), retry_max_tokens=(4000,))
    assert rows["drop_reason"].to_list() == ["reasoning_unclosed"] * 2
    assert len(server.requests) == 4
