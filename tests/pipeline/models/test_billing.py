"""Money: what is counted is what the server billed, and a budget stops within what is in flight.

The server keeps its own bill; see `tests.support.billing`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Completion, Decoding, Limits, Price, Request
from pipeline.models.ask import ask
from pipeline.models.budget import (
    PROBES,
    BatchPrice,
    Budget,
    BudgetLimit,
    BudgetTracker,
    Usage,
)
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.quota import quota_is_used_up
from pipeline.models.journal.costs import costs
from pipeline.models.journal.gate import Billing, Gate
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import PreparedRequest
from pipeline.models.journal.usage import TokenUsage
from tests.support.billing import PRICE, SHAPES, BillingServer
from tests.support.serving import FakeServer, error_response, fixed, listening, served

SHORT = Decoding(max_tokens=20)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


def requests(count: int, decoding: Decoding = SHORT) -> list[Request]:
    return [Request((("user", f"Name the sea number {i}."),), decoding) for i in range(count)]


def context(folder: Path, **limits: float) -> tuple[Context, BudgetTracker]:
    ctx = Context.scratch(folder)
    tracker = BudgetTracker("the budget", BudgetLimit(**limits))  # type: ignore[arg-type]
    ctx.budget = Budget([tracker], "recipe", "stage")
    return ctx, tracker


def generate(ctx: Context, port: int, count: int, **more: object) -> list[Completion]:
    return ctx.open(served(port, price=PRICE, **more)).generate(requests(count))


def paid(ctx: Context) -> float:
    """What the journal says was paid, in tokens' money."""
    return float(sum(entry["money"] for entry in costs(Journal(ctx.store / "journal"))))


# What is counted


@pytest.mark.parametrize("shape", SHAPES)
def test_money_is_what_the_server_billed(tmp_path: Path, shape: str) -> None:
    """Reasoning, caches, answers that were thrown away, and refusals, which cost nothing."""
    server = BillingServer(shape, reasoning=800, cached=0.5, written=0.25, spoiled=0.2, busy=0.2)
    ctx, tracker = context(tmp_path)
    with listening(FakeServer(server)) as port:
        answers = generate(ctx, port, 60, limits=Limits(attempts=20))
    assert all(answer.error is None for answer in answers)
    assert server.answers > 60, "some were thrown away"
    assert tracker.spent.money == pytest.approx(server.money, rel=0.01)
    assert tracker.spent == Usage(server.answers, server.tokens, tracker.spent.money)
    assert (tracker.requests, tracker.tokens) == (server.answers, server.tokens), "all is settled"
    assert paid(ctx) == pytest.approx(server.money, rel=0.01)
    (entry,) = costs(Journal(ctx.store / "journal"))
    assert (entry["recipe"], entry["stage"]) == ("recipe", "stage")
    assert entry["prompt_tokens"] + entry["completion_tokens"] == server.tokens
    assert entry["in_flight"] is None
    assert ctx.counters["requests"] == server.answers


def test_answers_that_are_repaired_and_sampled_anew_are_paid(tmp_path: Path) -> None:
    server = BillingServer(text="no label", reasoning=50, shape="xai")
    ctx, tracker = context(tmp_path)
    label = Decoding(max_tokens=20, choice=("A", "B"))
    with listening(FakeServer(server)) as port:
        engine = ctx.open(served(port, price=PRICE))
        results = ask(engine, requests(6, label), retry_max_tokens=(40,))
    assert all(result.rejection for result in results)
    assert server.answers == 6 * 4, "one, a repair, and two that were sampled anew"
    assert tracker.spent.money == pytest.approx(server.money, rel=0.01)


def test_what_the_journal_answers_is_paid_once(tmp_path: Path) -> None:
    server = BillingServer(reasoning=50)
    ctx, _ = context(tmp_path)
    with listening(FakeServer(server)) as port:
        generate(ctx, port, 10)
        generate(ctx, port, 12)
    assert server.answers == 12
    assert paid(ctx) == pytest.approx(server.money, rel=0.01)


def test_absurd_numbers_fail_the_row_and_not_the_run(tmp_path: Path) -> None:
    choice = '{"message": {"content": "sea"}, "finish_reason": "stop"}'
    body = f'{{"choices": [{choice}], "usage": {{"prompt_tokens": 1e400}}}}'.encode()
    response = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    ctx, tracker = context(tmp_path)
    with listening(FakeServer(fixed(response + b"%d\r\n\r\n" % len(body) + body))) as port:
        answers = generate(ctx, port, 2, limits=Limits(attempts=2))
    assert all("cannot be right" in str(answer.error) for answer in answers)
    assert tracker.spent.money == 0


# Prices


def test_prices_of_caches_and_batches() -> None:
    tokens = TokenUsage(prompt=1000, cached=600, completion=100, cache_written=200)
    assert Price(10, 20).money(tokens) == pytest.approx((10 * 1000 + 20 * 100) / 1e6)
    price = Price(10, 20, cached=1, cache_write=12)
    whole = (10 * 200 + 1 * 600 + 12 * 200 + 20 * 100) / 1e6
    assert price.money(tokens) == pytest.approx(whole)
    assert price.in_batches().money(tokens) == pytest.approx(whole / 2)
    own = Price(10, 20, cached=1, batch=BatchPrice(prompt=4, completion=8), currency="EUR")
    assert own.in_batches().money(tokens) == pytest.approx((4 * 1000 + 8 * 100) / 1e6)
    assert own.in_batches().currency == "EUR"


# Budgets


@pytest.mark.parametrize("concurrency", [1, 16, 64])
@pytest.mark.parametrize("unit", ["tokens", "money"])
def test_a_budget_stops_within_what_is_in_flight(
    tmp_path: Path, unit: str, concurrency: int
) -> None:
    """Every answer is billed some sixty times of what it may be long."""
    server = BillingServer("xai", reasoning=2400, seconds=0.02)
    most = {"tokens": 100 + 2 + 2400, "money": (100 * 1000 + 2402 * 5000) / 1e6}[unit]
    limit = {"tokens": 20_000, "money": 100.0}[unit]
    ctx, tracker = context(tmp_path, **{unit: limit})
    with listening(FakeServer(server)) as port, pytest.raises(UserError) as error:
        generate(ctx, port, 400, limits=Limits(concurrency=concurrency))
    assert error.value.code == Exit.BUDGET
    spent = {"tokens": server.tokens, "money": server.money}[unit]
    assert getattr(tracker.spent, unit) == pytest.approx(spent, rel=0.01)
    assert limit - most <= spent, "and it is used"
    # Only the answers that came before the largest may be billed beyond what was kept free.
    assert spent <= limit + most * min(concurrency, PROBES)


def test_a_budget_holds_exactly_where_servers_keep_to_max_tokens(tmp_path: Path) -> None:
    server = BillingServer("openai", reasoning=18)
    for tokens in (500, 3000):
        ctx, tracker = context(tmp_path / str(tokens), tokens=tokens)
        before = server.tokens
        with listening(FakeServer(server)) as port, pytest.raises(UserError):
            # Prompts are estimated with more than this server counts.
            ctx.open(served(port)).generate(requests(400, Decoding(max_tokens=100)))
        assert server.tokens - before == tracker.spent.tokens <= tokens


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1, max_size=40),
    st.integers(0, 3000),
    st.integers(1, 8),
)
def test_the_promise_holds_whatever_is_billed_in_whatever_order(
    answers: list[tuple[int, int]], limit: int, width: int
) -> None:
    """When the last request is sent all fits; what is billed beyond that is all the excess."""
    tracker = BudgetTracker("the budget", BudgetLimit(tokens=limit))
    gate = Gate(frozenset(), Budget([tracker]), Billing("m", None, metered=True))
    in_flight: list[tuple[PreparedRequest, int]] = []
    reserved: dict[str, Usage] = {}
    bills: dict[str, int] = {}

    def end(position: int) -> None:
        request, bill = in_flight.pop(position % len(in_flight))
        gate.reconcile(request, TokenUsage(completion=bill))

    for number, (position, bill) in enumerate(answers):
        request = PreparedRequest(str(number), "", "", (1,) * 5, Decoding(max_tokens=10))
        while not (admitted := len(in_flight) < width and gate.admit(request)) and in_flight:
            end(position)
        if admitted:
            in_flight.append((request, bill))
            reserved = dict(gate._reserved)
            bills = {request.key: bill for request, bill in in_flight}
            assert tracker.tokens <= limit
    while in_flight:
        end(0)
    excess = sum(max(0, bill - reserved[key].tokens) for key, bill in bills.items())
    assert tracker.tokens == tracker.spent.tokens <= limit + excess


# Refusals


def test_429_uses_up_no_attempts_while_answers_come(tmp_path: Path) -> None:
    server = BillingServer(busy=0.6)
    ctx, _ = context(tmp_path)
    with listening(FakeServer(server)) as port:
        answers = generate(ctx, port, 150, limits=Limits(attempts=3))
    assert server.refused > 100
    assert [answer.error for answer in answers] == [None] * 150


def test_429_alone_uses_them_up(tmp_path: Path) -> None:
    ctx, _ = context(tmp_path)
    with listening(FakeServer(fixed(error_response("429 Too Many", "later")))) as port:
        answers = generate(ctx, port, 3, limits=Limits(attempts=2))
    assert all(str(answer.error).endswith("later (attempt 2)") for answer in answers)


def test_a_quota_that_is_used_up_stops_at_once(tmp_path: Path) -> None:
    server = BillingServer(quota=5)
    ctx, _ = context(tmp_path)
    began = time.monotonic()
    with listening(FakeServer(server)) as port, pytest.raises(UserError) as error:
        generate(ctx, port, 200)
    assert time.monotonic() - began < 5
    assert error.value.code == Exit.BUDGET
    assert "insufficient" not in error.value.what
    assert "current quota" in str(error.value)
    assert "all answers are kept" in str(error.value.hint)
    assert Journal(ctx.store / "journal").count() == server.answers
    assert paid(ctx) == pytest.approx(server.money, rel=0.01)


GEMINI_DAY = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}
GEMINI_MINUTE = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}


def gemini(violation: dict[str, str]) -> object:
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    return {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": kind, "violations": [violation]}],
    }


@pytest.mark.parametrize(
    ("status", "error", "used_up"),
    [
        (429, {"message": "...", "type": "insufficient_quota", "code": "insufficient_quota"}, True),
        (429, {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}, False),
        (429, {"message": "Billing hard limit", "code": "billing_hard_limit_reached"}, True),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low"}, True),
        (400, {"type": "invalid_request_error", "message": "max_tokens: too large"}, False),
        (429, {"type": "rate_limit_error", "message": "This would exceed your limit"}, False),
        (402, {"message": "Insufficient Balance", "type": "unknown_error"}, True),
        (403, "Your team has used all available credits or reached its monthly limit", True),
        (403, "Forbidden", False),
        (429, gemini(GEMINI_DAY), True),
        (429, gemini(GEMINI_MINUTE), False),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, False),
    ],
)
def test_which_errors_are_about_quotas(status: int, error: object, used_up: bool) -> None:
    assert quota_is_used_up(status, {"error": error}) is used_up
    assert quota_is_used_up(status, [{"error": error}]) is used_up


@pytest.mark.parametrize("content", ["<html>", "", [], [[]], None, 3, {"error": None}])
def test_other_bodies_say_nothing_of_a_quota(content: object) -> None:
    assert not quota_is_used_up(429, content)
