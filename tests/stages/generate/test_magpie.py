"""Magpie: who writes which turn after what, how turns end, and what becomes of each row."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.execution.plan import check, plan
from pipeline.models import LanguageModel, Request
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from stages.generate.magpie import PROMPTS, magpie
from tests.support.chats import tokenizer
from tests.support.options import problems
from tests.support.rows import DATA, conversations, frame, plain, record
from tests.support.scripted import Answer, ScriptedContext, scripted
from tests.support.servers import switched

MODEL = LanguageModel(model="none")
SERVED = {"engine": "openai", "base_url": "http://localhost:8000/v1"}
TOKENIZER = str(DATA / "models/tinylm")


def chatting(ctx: Context, script: Callable[[Request], Answer]) -> ScriptedContext:
    """A model whose answer is a function of the request."""
    context = scripted(ctx, lambda _: ("", "stop"))
    context.engine.tokenizer = tokenizer("tinylm")
    answer = context.engine._answer

    def of_request(request: Request) -> Any:
        text, reason = script(request)
        if reason == "error":
            return replace(answer(request), finish_reason="error", error=text)
        return replace(answer(request), text=text, finish_reason=reason)

    context.engine._answer = of_request  # type: ignore[method-assign]
    return context


def numbered(request: Request) -> Answer:
    """The user asks by number; the assistant says how much was said before."""
    if request.role == "user":
        return f" Question {request.sample} of turn {len(request.prompt) // 2}?\n", "stop"
    return f"Answer after {len(request.prompt)}.", "stop"


def texts(rows: pl.DataFrame) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in row] for row in rows["messages"].to_list()]


def test_a_user_is_sampled_and_answered_greedily(ctx: Context) -> None:
    context = chatting(ctx, numbered)
    rows = magpie(context, model=MODEL, num_rows=3, seed=7)
    assert texts(rows) == [
        [("user", f"Question {n} of turn 0?"), ("assistant", "Answer after 1.")] for n in range(3)
    ]
    asked, answered = context.engine.calls
    assert [(r.prompt, r.role, r.sample, r.seed) for r in asked] == [
        ((), "user", n, 7) for n in range(3)
    ]
    assert {(r.decoding.temperature, r.decoding.top_p, r.decoding.max_tokens) for r in asked} == {
        (1.0, 1.0, 512)
    }
    assert {(r.role, r.decoding.temperature, r.decoding.max_tokens) for r in answered} == {
        ("assistant", 0.0, 2048)
    }
    assert [len(keys) for keys in rows["journal"].to_list()] == [2, 2, 2]
    assert rows["drop_reason"].null_count() == 3


def test_further_turns_follow_the_conversation_under_a_prompt_that_no_row_has(ctx: Context) -> None:
    context = chatting(ctx, numbered)
    rows = magpie(context, model=MODEL, num_rows=2, num_turns=3)
    assert [role for role, _ in texts(rows)[0]] == ["user", "assistant"] * 3
    follow_up = ("system", PROMPTS.render("follow_up"))
    asked = [calls[0].prompt for calls in context.engine.calls[::2]]
    assert asked[0] == ()
    for number, prompt in enumerate(asked[1:], 1):
        assert prompt == (follow_up, *texts(rows)[0][: 2 * number])
    answered = [calls[0].prompt for calls in context.engine.calls[1::2]]
    assert [len(prompt) for prompt in answered] == [1, 3, 5]
    assert all(role != "system" for prompt in answered for role, _ in prompt)


@pytest.mark.parametrize("keep", [False, True])
def test_a_domain_steers_the_users_alone_unless_it_is_kept(ctx: Context, keep: bool) -> None:
    context = chatting(ctx, numbered)
    rows = magpie(context, model=MODEL, num_rows=2, num_turns=2, domain="math", keep_system=keep)
    system = ("system", PROMPTS.render("math"))
    first, answer, second, _ = (calls[0].prompt for calls in context.engine.calls)
    assert first == (system,)
    assert (answer[0] == system) == keep
    assert (second[0] == system) == keep
    assert {row[0][0] for row in texts(rows)} == {"system" if keep else "user"}
    assert json.loads(rows["extra"][0]) == {"domain": "math"}


def test_a_system_prompt_of_ones_own(ctx: Context) -> None:
    context = chatting(ctx, numbered)
    magpie(context, model=MODEL, num_rows=1, system="You sell boats.")
    assert context.engine.calls[0][0].prompt == (("system", "You sell boats."),)


def test_equal_instructions_are_one_request_for_an_answer_and_one_row(ctx: Context) -> None:
    def same(request: Request) -> Answer:
        return ("Why?", "stop") if request.role == "user" else numbered(request)

    context = chatting(ctx, same)
    rows = magpie(context, model=MODEL, num_rows=3)
    assert len({*context.engine.calls[0]}) == 3
    assert len({*context.engine.calls[1]}) == 1
    assert rows["drop_reason"].to_list() == [None, "duplicate", "duplicate"]
    assert [origin["index"] for origin in rows["origins"][0]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("asked", "answered", "reason"),
    [
        (("Why", "length"), ("So.", "stop"), "instruction_cut"),
        ((" \n", "stop"), ("So.", "stop"), "instruction_unparsed"),
        (("Sort these:\n", "stop"), ("So.", "stop"), "ends_with_colon"),
        (("排序：", "stop"), ("So.", "stop"), "ends_with_colon"),
        (("Why?", "stop"), ("So", "length"), "response_cut"),
        (("Why?", "stop"), (" ", "stop"), "response_unparsed"),
    ],
)
def test_a_turn_that_is_none_drops_its_row(
    ctx: Context, asked: Answer, answered: Answer, reason: str
) -> None:
    context = chatting(ctx, lambda r: asked if r.role == "user" else answered)
    rows = magpie(context, model=MODEL, num_rows=2)
    assert rows["drop_reason"].to_list() == [reason] * 2
    assert rows["evidence"].null_count() == 0
    assert len(context.engine.calls) == (2 if reason.startswith("response") else 1)


def test_a_failed_request_fails_its_row_with_what_was_said_before(ctx: Context) -> None:
    def fails(request: Request) -> Answer:
        failing = request.role == "assistant" and "Question 1" in request.prompt[0][1]
        return ("no server", "error") if failing else numbered(request)

    rows = magpie(chatting(ctx, fails), model=MODEL, num_rows=3)
    assert rows["error"].to_list() == [None, "no server", None]
    assert texts(rows)[1] == [("user", "Question 1 of turn 0?")]


def test_without_answers_the_rows_wait_for_another_model(ctx: Context) -> None:
    context = chatting(ctx, numbered)
    rows = magpie(context, model=MODEL, num_rows=2, answer=False, stop=("\n",))
    assert len(context.engine.calls) == 1
    assert context.engine.calls[0][0].decoding.stop == ("\n",)
    assert [row[-1][0] for row in texts(rows)] == ["user", "user"]


def test_conversations_are_continued_with_all_that_they_hold(ctx: Context) -> None:
    base = conversations([("Where?", "There.", "And then?"), ("Only this.",)])
    thinking = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello.", "reasoning": "A greeting."},
    ]
    called = [
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "tool_calls": [{"id": "1", "name": "tide", "arguments": "{}"}]},
    ]
    more = [
        {**record("x"), "id": "e" * 32, "messages": thinking},
        {**record("x"), "id": "f" * 32, "messages": called},
    ]
    rows = pl.concat([base, frame(more)])
    context = chatting(ctx, numbered)
    result = magpie(context, rows=rows, model=MODEL)
    by_parent = {row["parents"][0]: row for row in result.to_dicts()}
    assert {*by_parent} == {*rows["id"]}
    reasons = {row["drop_reason"] for row in by_parent.values()}
    assert reasons == {None, "no_answer", "has_tools"}
    kept = [row for row in by_parent.values() if row["drop_reason"] is None]
    assert len(kept) == 1
    for row in kept:
        before = plain(rows.filter(pl.col("id") == row["parents"][0])["messages"][0])
        assert plain(row["messages"])[: len(before)] == before
        assert len(row["messages"]) == len(before) + 2
        assert row["origins"][0]["license"] == "MIT"
    assert context.engine.calls[0][0].prompt[0] == ("system", PROMPTS.render("follow_up"))


def test_a_template_without_a_system_prompt_goes_without(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    own = copy(tokenizer("tinylm"))
    own.chat_template = (
        "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system role') }}"
        "{%- endif -%}" + own.chat_template
    )
    context = chatting(ctx, numbered)
    context.engine.tokenizer = own
    magpie(context, model=MODEL, num_rows=1, num_turns=2)
    assert "takes no system prompt" in caplog.text
    assert [role for role, _ in context.engine.calls[2][0].prompt] == ["user", "assistant"]


def test_reasoning_is_kept_beside_the_answer_where_that_is_wished(ctx: Context) -> None:
    def thinks(request: Request) -> Answer:
        return numbered(request)

    for keep in (False, True):
        context = chatting(ctx, thinks)
        answer = context.engine._answer
        context.engine._answer = lambda r, answer=answer: replace(answer(r), reasoning="Hm.")  # type: ignore[method-assign, misc]
        rows = magpie(context, model=MODEL, num_rows=1, num_turns=2, keep_reasoning=keep)
        reasoning = [m["reasoning"] for m in rows["messages"][0]]
        assert reasoning == [None, "Hm." if keep else None] * 2


def test_a_server_gets_the_pre_query_tokens_at_its_endpoint_for_texts(ctx: Context) -> None:
    with switched(lambda _: ("Why?", "stop")) as running:
        model = running.model("plain", tokenizer=TOKENIZER)
        rows = magpie(ctx, model=model, num_rows=2, answer_max_tokens=64)
        first = running.server.requests[0]
    body = json.loads(first)
    assert "messages" not in body
    assert tokenizer("tinylm").decode(body["prompt"]) == "<|im_start|>user\n"
    assert body["stop"][0] == "<|im_end|>"
    opens = tokenizer("tinylm").convert_tokens_to_ids("<|im_start|>")
    assert body["stop_token_ids"] == [opens]
    assert texts(rows)[0] == [("user", "Why?"), ("assistant", "Why?")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "math", "system": "x"}, "system must be left out with a domain"),
        ({"keep_system": True}, "keep_system must be false without a domain"),
        ({"answer": False, "num_turns": 2}, "num_turns must be left out with answer: false"),
        ({"answer": False, "keep_reasoning": True}, "keep_reasoning must be left out"),
        ({"domain": "law"}, "domain must be"),
        ({"temperature": -1}, "temperature must be"),
    ],
)
def test_a_recipes_mistakes(options: dict[str, Any], message: str) -> None:
    (mistake,) = problems("generate.magpie", num_rows=1, **options)
    assert message in mistake


def test_a_model_that_only_its_server_renders_is_refused_before_anything_runs() -> None:
    served = LanguageModel("gpt", **SERVED)  # type: ignore[arg-type]
    (mistake,) = problems("generate.magpie", served, num_rows=1)
    assert "chat template is at hand, got gpt" in mistake
    assert problems("generate.magpie", replace(served, tokenizer=TOKENIZER), num_rows=1) == []
    assert problems("generate.magpie", replace(MODEL, fallback=served), num_rows=1) == [mistake]


@pytest.mark.parametrize(
    ("needs", "options", "message"),
    [
        ({}, {}, "num_rows must be given where no rows come in"),
        ({"rows": "pool"}, {"num_rows": 3}, "num_rows must be left out where rows come in"),
        ({"rows": "pool"}, {"domain": "code"}, "domain must be left out where rows come in"),
    ],
)
def test_rows_that_come_in_are_as_many_as_they_are(
    needs: dict[str, str], options: dict[str, Any], message: str
) -> None:
    pool = {"path": str(DATA / "samples/user_oriented_252.jsonl"), "source": "s", "license": "x"}
    stages = {
        "pool": {"uses": "load.records", "with": pool},
        "more": {"uses": "generate.magpie", "needs": needs, "with": {"model": "m", **options}},
    }
    with pytest.raises(Exception, match=message):
        Recipe.of("more", stages, {"m": {"model": TOKENIZER}})


def test_the_recipe_has_a_profile_for_further_turns(tmp_path: Path) -> None:
    recipe = Recipe.load("magpie", profile="multi-turn")
    check(plan(recipe, Store(tmp_path)))
    assert recipe.steps["shards"].needs == {"rows": ["continued"]}


@pytest.mark.proof
def test_a_live_model_is_its_own_user(ctx: Context, tinylm: LanguageModel) -> None:
    """Rows are the same whatever others are written beside them."""
    options: dict[str, Any] = {"model": tinylm, "temperature": 0.7, "max_tokens": 32}
    rows = magpie(ctx, num_rows=8, answer_max_tokens=8, **options)
    assert len(rows) == 8
    other = Context.scratch(ctx.files.parent / "other")
    fewer = magpie(other, num_rows=2, answer_max_tokens=8, **options)
    assert texts(fewer) == texts(rows)[:2]
    assert fewer["drop_reason"].to_list() == rows["drop_reason"].to_list()[:2]
    said = [row[0][1] for row in texts(rows) if row[0][1]]
    assert said
    assert not any("<|" in text or text != text.strip() for text in said)
