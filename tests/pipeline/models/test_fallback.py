"""A second model for what the first refuses or fails: whose answer it is, and that it stays so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.estimate import estimate_steps
from pipeline.execution.plan import plan
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Limits
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker, Price
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from stages.generate.respond import respond
from tests.support.rows import DATA, conversations
from tests.support.running import run
from tests.support.serving import FakeServer, HttpMessage, error_response, http_response, listening

REFUSAL = "I'm sorry, but I can't help with that."
TEXT = Decoding()
LABELS = Decoding(max_tokens=4, choice=("yes", "no"))
Says = Callable[[str, str], tuple[str, str] | None]
"""From model and question to text and finish reason; None for a server that is broken."""


@contextmanager
def two_models(says: Says, **more: Any) -> Iterator[tuple[LanguageModel, FakeServer]]:
    """The model "first" with the fallback "second", behind one server."""

    async def answer(request: HttpMessage) -> bytes:
        body = json.loads(request.body)
        said = says(body["model"], body["messages"][0]["content"])
        if said is None:
            return error_response("500 Internal Server Error", "it broke")
        choice = {"message": {"content": said[0]}, "finish_reason": said[1]}
        usage = {"prompt_tokens": 1000, "completion_tokens": 1000}
        body = {"choices": [choice], "usage": usage}
        return http_response("200 OK", json.dumps(body).encode())

    server = FakeServer(answer)
    with listening(server) as port:
        options = {"base_url": f"http://127.0.0.1:{port}/v1", "limits": Limits(attempts=1)}
        second = LanguageModel("second", "openai", price=Price(20.0, 20.0), **options)
        first = LanguageModel(
            "first", "openai", price=Price(1.0, 1.0), fallback=second, **options, **more
        )
        try:
            yield first, server
        finally:
            close_engines()


def asked(
    ctx: Context, model: LanguageModel, *questions: str, decoding: Decoding = TEXT
) -> list[ParsedCompletion]:
    requests = [Request((("user", question),), decoding) for question in questions]
    return ask(ctx.open(model), requests, repair=False)


def models_of(server: FakeServer) -> list[str]:
    return [json.loads(body)["model"] for body in server.requests]


def says(model: str, question: str) -> tuple[str, str] | None:
    """The first model answers "fine" alone."""
    if model == "second" or question == "fine":
        return f"{model}: yes", "stop"
    return {
        "refused": (REFUSAL, "stop"),
        "withheld": ("", "content_filter"),
        "unreadable": ("maybe", "stop"),
        "unclosed": ("<think>hm", "stop"),
        "broken": None,
    }[question]


@pytest.mark.parametrize("question", ["refused", "withheld", "unclosed", "broken"])
def test_what_is_refused_or_failed_is_the_fallback_s(question: str, tmp_path: Path) -> None:
    ctx = Context.scratch(tmp_path)
    with two_models(says) as (model, server):
        fine, other = asked(ctx, model, "fine", question)
        assert (fine.value, fine.fallback) == ("first: yes", None)
        assert (other.value, other.error, other.fallback) == ("second: yes", None, "second")
        assert sorted(models_of(server)) == ["first", "first", "second"]
        again = asked(ctx, model, "fine", question)
        assert [(a.value, a.journal, a.fallback) for a in again] == [
            (a.value, a.journal, a.fallback) for a in (fine, other)
        ]
        assert len(server.requests) == 3, "nothing is sent again, what failed neither"
        replayed = asked(ctx, replace(model, engine="replay"), "fine", question)
    assert [(a.value, a.journal) for a in replayed] == [(a.value, a.journal) for a in again]
    assert all(
        key in Journal(ctx.store / "journal").get_many(other.journal) for key in other.journal
    )


def test_an_unreadable_label_is_the_fallback_s_once_it_was_sampled_anew(tmp_path: Path) -> None:
    def label(model: str, _: str) -> tuple[str, str]:
        return ("maybe" if model == "first" else "yes"), "stop"

    ctx = Context.scratch(tmp_path)
    with two_models(label, resample=2) as (model, server):
        (answer,) = asked(ctx, model, "?", decoding=LABELS)
    assert (answer.value, answer.fallback, len(answer.journal)) == ("yes", "second", 4)
    assert models_of(server) == ["first"] * 3 + ["second"]


def test_a_label_that_refuses_is_unreadable_and_text_that_quotes_a_refusal_is_none(
    tmp_path: Path,
) -> None:
    def quote(model: str, _: str) -> tuple[str, str]:
        return f'He said: "{REFUSAL}"', "stop"

    with two_models(quote) as (model, server):
        (answer,) = asked(Context.scratch(tmp_path), model, "?")
    assert answer.fallback is None
    assert models_of(server) == ["first"]


def test_what_the_fallback_says_counts_a_refusal_too(tmp_path: Path) -> None:
    with two_models(lambda *_: (REFUSAL, "stop")) as (model, server):
        (answer,) = asked(Context.scratch(tmp_path), model, "?")
    assert (answer.value, answer.fallback) == (REFUSAL, "second")
    assert models_of(server) == ["first", "second"]


def test_where_both_fail_the_row_has_failed_and_both_are_asked_again(tmp_path: Path) -> None:
    broken = {"first", "second"}
    ctx = Context.scratch(tmp_path)
    with two_models(lambda m, _: None if m in broken else (m, "stop")) as (model, server):
        (answer,) = asked(ctx, model, "?")
        assert "it broke" in str(answer.error)
        broken.remove("first")
        (answer,) = asked(ctx, model, "?")
    assert (answer.value, answer.fallback) == ("first", None)
    assert models_of(server) == ["first", "second", "first"]


def test_an_answer_in_the_place_of_another_is_no_answer_of_its_own(tmp_path: Path) -> None:
    """A model that is asked for itself, too, is not taken for the fallback of another."""
    ctx = Context.scratch(tmp_path)
    with two_models(says) as (model, server):
        assert model.fallback is not None
        asked(ctx, model.fallback, "broken")
        asked(ctx, model, "broken")
    assert models_of(server) == ["second", "first", "second"]


def test_each_answer_is_paid_at_the_price_of_the_model_that_gave_it(tmp_path: Path) -> None:
    ctx, tracker = Context.scratch(tmp_path), BudgetTracker("b", BudgetLimit())
    ctx.budget = Budget([tracker])
    with two_models(says) as (model, _):
        asked(ctx, model, "fine", "refused")
    assert tracker.spent.money == pytest.approx(2 * 2000 * 1e-6 + 2000 * 20e-6)
    assert ctx.counters["handed_over"] == 1


def test_rows_say_whose_answer_they_hold(tmp_path: Path) -> None:
    rows = conversations([("fine",), ("refused",)])
    with two_models(says) as (model, _):
        answers = respond(Context.scratch(tmp_path), rows, models=(model,))
    whose = {r["messages"][0]["content"]: (r["model"], r["extra"]) for r in answers.to_dicts()}
    assert whose["fine"] == ("first", "{}")
    assert whose["refused"][0] == "second"
    assert json.loads(whose["refused"][1]) == {"fallback": {"response": "second"}}


def test_a_wrong_address_still_ends_the_stage(tmp_path: Path) -> None:
    server = FakeServer(key="a-long-secret-key")
    with listening(server) as port:
        base_url = f"http://127.0.0.1:{port}/v1"
        second = LanguageModel("second", "openai", base_url=base_url)
        first = LanguageModel("first", "openai", base_url=base_url, fallback=second)
        with pytest.raises(UserError, match="401"):
            asked(Context.scratch(tmp_path), first, "?")
        close_engines()


# Recipes

MODELS = {
    "w": {"engine": "openai", "model": "first", "base_url": "http://127.0.0.1:9/v1"},
    "big": {"engine": "openai", "model": "second", "base_url": "http://127.0.0.1:9/v1"},
    "e": {"engine": "sentence-transformers", "model": "data/models/potion-base-4m"},
}
POOL = {"path": str(DATA / "seeds/self_instruct_seed_tasks.jsonl"), "source": "s", "license": "MIT"}


def wired(folder: Path, fallback: Any, **prices: Any) -> Recipe:
    models = {**MODELS, "w": {**MODELS["w"], "fallback": fallback}}
    models = models if fallback else MODELS
    stages = {
        "pool": {"uses": "load.records", "with": POOL},
        "answers": {"uses": "generate.respond", "needs": {"rows": "pool"}, "with": {"models": "w"}},
    }
    path = folder / f"{fallback}.yaml"
    content = {"name": "r", "models": models, "stages": stages, "prices": prices}
    path.write_text(json.dumps(content))
    return Recipe.load(path)


PRICES = {"w": {"prompt": 1.0, "completion": 1.0}, "big": {"prompt": 9.0, "completion": 9.0}}


def test_a_recipe_names_the_fallback_which_has_its_own_price(tmp_path: Path) -> None:
    (model,) = wired(tmp_path, "big", **PRICES).steps["answers"].options.models
    assert model.price.prompt == 1.0
    assert (model.fallback.model, model.fallback.price.prompt) == ("second", 9.0)


@pytest.mark.parametrize(
    ("fallback", "message"),
    [
        ("bog", "there is no model 'bog'"),
        ("w", "fallback must name another model without a fallback, got 'w'"),
        ("e", "got the embedder 'e'"),
        (["big"], "fallback must be the name of a model"),
    ],
)
def test_a_wrong_fallback_is_told_at_its_line(fallback: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        wired(tmp_path, fallback)


def test_a_fallback_belongs_to_the_fingerprint_and_to_what_a_run_may_cost(tmp_path: Path) -> None:
    store, plans, most = Store(tmp_path / "store"), [], []
    run(wired(tmp_path, None), tmp_path / "store", "pool")
    for fallback in (None, "big"):
        recipe = wired(tmp_path, fallback, **PRICES)
        planned = plan(recipe, store)
        plans.append(next(p for p in planned if p.step.name == "answers"))
        most.append(estimate_steps(recipe, store, planned)["answers"])
    assert plans[0].fingerprint != plans[1].fingerprint
    alone, both = (estimate.at_most for estimate in most)
    assert both.requests == 2 * alone.requests
    assert both.money == pytest.approx(10 * alone.money, rel=0.01)
    assert most[0].expected == most[1].expected
