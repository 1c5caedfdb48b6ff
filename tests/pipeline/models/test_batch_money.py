"""Batches of providers and money: what is billed is counted, whoever asks, and only once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli.journal import batches as batches_verb
from pipeline.errors import Exit, UserError
from pipeline.execution.runner import Runner
from pipeline.models import Batching
from pipeline.models.budget import BatchPrice, Price
from pipeline.models.engines import batches as scheduler
from pipeline.models.engines.batch_errors import unknown, waiting
from pipeline.models.engines.registry import close_engines
from pipeline.models.http import rate_limit
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.usage import TokenUsage
from tests.pipeline.models.test_batches import (
    NOW,
    PROVIDERS,
    check_paid,
    context,
    journal,
    model,
    questions,
    texts,
    waits,
)
from tests.support.servers.batches import BatchBehaviour, _json, batching
from tests.support.serving import error_response
from tests.support.teacher import teacher

KEY = "sk-a-key-of-tests-0815"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "FIRST_POLL", 0.002)
    monkeypatch.setattr(scheduler, "GRACE", timedelta(seconds=0.2))
    monkeypatch.setattr(rate_limit, "BACKOFF", 0.002)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_budget_over_runs_counts_a_batch_whose_requests_several_calls_ask(
    tmp_path: Path,
) -> None:
    """Some calls ask none of its requests, and the last two a part of them each."""
    with batching(teacher, BatchBehaviour(questions=1000)) as server:
        first, _ = context(tmp_path, money=1.0)
        waits(first, model(server, NOW), questions(20))
        (spending,) = journal(first).spendings()
        ctx, tracker = context(tmp_path, money=1.0, per="month")
        tracker.since, tracker.earlier = spending.day, spending.usage
        server.behaviour.questions = 1
        one = model(server, Batching(wait=False, poll=0.01))
        for start in (100, 200):
            waits(ctx, one, questions(2, start=start))
            assert tracker.earlier == spending.usage, "none of it is asked for"
        waits(ctx, one, questions(5))
        fourth = spending.usage.money / 4
        assert tracker.earlier.money == pytest.approx(3 * fourth, rel=0.1)
        waits(ctx, one, questions(15, start=5))
        assert tracker.earlier.money == pytest.approx(0, abs=fourth / 4)
        assert tracker.earlier.money >= -1e-12
        most = tracker.earlier.money + tracker.money
        server.batches["batch_0"].questions = 0
        texts(ctx.open(model(server)).generate(questions(20)))
        assert server.money <= most


def test_useless_answers_that_nobody_asks_for_now_are_charged(
    tmp_path: Path, provider: str
) -> None:
    behaviour = BatchBehaviour(spoiled=0.5)
    with batching(teacher, behaviour, provider=provider) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(10))
        close_engines()
        server._end(server.batches["batch_0"])
        server.behaviour.spoiled = 0.0
        ctx, _ = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(2, start=100)))
        check_paid(server, ctx)
        assert sum(entry["requests"] for entry in costs(journal(ctx))) == 12


def test_what_is_given_up_may_be_billed(tmp_path: Path) -> None:
    with batching(teacher) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(10))
        before = journal(ctx).spendings()
        with pytest.raises(SystemExit, match=r"^0$"):
            batches_verb(store=ctx.store, forget="batch_0")
        assert journal(ctx).batches.open() == []
        assert journal(ctx).spendings() == before
        assert before[0].usage.requests == 10


def test_prices_of_batches_do_not_take_that_of_writing_the_cache() -> None:
    written = TokenUsage(prompt=1_000_000, cache_written=1_000_000)
    price = Price(2.0, 8.0, cache_write=2.5, batch=BatchPrice(1.0, 4.0))
    assert price.in_batches().money(written) == 1.0
    price = Price(2.0, 8.0, cache_write=2.5, batch=BatchPrice(1.0, 4.0, cache_write=1.5))
    assert price.in_batches().money(written) == 1.5


def test_results_as_they_came_are_in_no_file_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """A server may repeat the key, which is redacted before anything is stored: also here."""
    monkeypatch.setenv("TEST_KEY", KEY)
    seen: list[Path] = []

    def interrupt(*_: object) -> None:
        seen.extend(tmp_path.rglob("*"))
        raise KeyboardInterrupt

    with batching(lambda _: (f"Your key is {KEY}.", "stop"), provider=provider) as server:
        ctx, _ = context(tmp_path)
        monkeypatch.setattr(Journal, "put_many", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ctx.open(model(server, api_key_env="TEST_KEY")).generate(questions(3))
        assert seen
        assert not [file for file in seen if file.is_file() and KEY.encode() in file.read_bytes()]


ODD = [
    {"request_counts": {"total": 3, "completed": 10**20, "failed": 0, "succeeded": 10**20}},
    {"request_counts": {"total": 3, "completed": -1, "failed": 0, "succeeded": -1}},
    {"request_counts": {"total": 3, "completed": float("inf"), "succeeded": float("inf")}},
    {"request_counts": {"total": 3, "completed": "3", "succeeded": True}},
    {"status": "\ud800", "processing_status": "\ud800"},
    {"id": None},
    {"id": ""},
    {"id": "b\ud800"},
]


@pytest.mark.parametrize("odd", ODD)
def test_a_state_that_is_none_is_no_answer(
    tmp_path: Path, odd: dict[str, Any], provider: str
) -> None:
    with batching(teacher, BatchBehaviour(questions=1), provider=provider) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(3))
        shown = server._shown
        server._shown = lambda batch: {**shown(batch), **odd}  # type: ignore[method-assign]
        error = waits(ctx, model(server, Batching(wait=0.05, poll=0.01)), questions(3))
        assert "no batch" in str(error.why)
        server._shown = shown  # type: ignore[method-assign]
        texts(ctx.open(model(server)).generate(questions(3)))
        check_paid(server, ctx)


@pytest.mark.parametrize(
    "created", [None, 10**17, 10**400, float("inf"), "now", "2026-11-30T12:00", []]
)
def test_a_time_that_is_none_is_not_said(tmp_path: Path, created: Any, provider: str) -> None:
    """A batch whose creation was not answered is searched for with it."""
    with batching(teacher, BatchBehaviour(lost_answers=1), provider=provider) as server:
        shown = server._shown
        server._shown = lambda batch: {**shown(batch), "created_at": created}  # type: ignore[method-assign]
        ctx, tracker = context(tmp_path)
        texts(ctx.open(model(server)).generate(questions(3)))
        assert server.submissions == 1
        check_paid(server, ctx, tracker)


@pytest.mark.parametrize("id", [None, "", 7, "f\ud800"])
def test_a_file_without_a_name_is_none(tmp_path: Path, id: Any) -> None:
    with batching(teacher) as server:
        server._upload = lambda _: _json({"id": id})  # type: ignore[method-assign, assignment]
        ctx, _ = context(tmp_path)
        with pytest.raises(UserError):
            ctx.open(model(server, Batching(wait=0.0, poll=0.01))).generate(questions(3))
        assert server.submissions == 0


def test_messages_about_batches_say_why_and_what_to_do(tmp_path: Path) -> None:
    with batching(teacher, BatchBehaviour(lost_answers=1)) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(3))
        (record,) = journal(ctx).batches.open()
        client: Any = SimpleNamespace(base_url="https://a", name="m")
        assert record.id is None
        assert f"--forget {record.tag}" in str(unknown(record, client).hint)
        assert waiting([], client, "").why


def test_results_of_another_batch_that_are_gone_are_not_ours(tmp_path: Path) -> None:
    behaviour = BatchBehaviour(lost_answers=1, listed_after=1)
    with batching(teacher, provider="anthropic") as server:
        other, _ = context(tmp_path / "other")
        texts(other.open(model(server)).generate(questions(3, start=50)))
        server.behaviour = behaviour
        asked = server._asked
        gone = error_response("404 Not Found", "the results are gone")
        server._asked = lambda rest: gone if rest == "batch_0/results" else asked(rest)  # type: ignore[method-assign]
        ctx, _ = context(tmp_path / "ours")
        texts(ctx.open(model(server)).generate(questions(3)))
        assert len(server.batches) == 2


def test_a_line_with_two_problems_fails_once(tmp_path: Path) -> None:
    codes = ("invalid_json_line", "invalid_url")
    problems = [{"code": code, "message": f"It is {code}.", "line": 2} for code in codes]
    with batching(teacher, BatchBehaviour(questions=0, problems=problems)) as server:
        ctx, _ = context(tmp_path)
        waits(ctx, model(server, NOW), questions(3))
        server.behaviour.problems = []
        answers = ctx.open(model(server)).generate(questions(3))
        (failed,) = [answer.error for answer in answers if answer.error]
        assert "invalid_json_line" in str(failed)
        assert len(ctx.open(model(server)).generate(questions(3))) == 3
        check_paid(server, ctx)


def test_a_step_that_waits_is_not_hidden_by_a_budget() -> None:
    runner = Runner.__new__(Runner)
    runner.waiting, runner.progress = {}, SimpleNamespace(finish=lambda _: None)
    reached, step = UserError("the budget is reached", code=Exit.BUDGET), SimpleNamespace(name="b")
    with pytest.raises(UserError), runner._noting_batches(step):  # type: ignore[arg-type]
        raise reached
    runner.waiting["a"] = UserError("waiting", code=Exit.WAITING)
    with runner._noting_batches(step):  # type: ignore[arg-type]
        raise reached
    assert runner.waiting["b"] is reached
