"""How fast requests are sent: over a simulated clock, and to a real server."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Decoding, Limits, Request
from pipeline.models.budget import Budget
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.rate_limit import (
    BACKOFF,
    INITIAL_CONCURRENCY,
    MAX_BACKOFF,
    Bucket,
    Concurrency,
    RateLimiter,
    backoff,
)
from pipeline.models.http.reading import retry_after
from pipeline.models.http.scheduler import Result, Retry, Scheduler
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Failure, PreparedRequest, prepare
from tests.support.serving import FakeServer, listening, served


def test_concurrency_grows_until_the_server_complains() -> None:
    concurrency, now = Concurrency(256), 0.0
    while concurrency.limit < 100:
        for _ in range(int(concurrency.limit)):
            concurrency.answered()
        now += 1
    assert now <= 4, "it doubles each round trip"
    high = concurrency.limit
    for sent in (now - 1, now - 0.5, now - 0.1):
        concurrency.overloaded(sent, now)
    assert concurrency.limit == pytest.approx(high * 0.67), "one round trip is one complaint"
    low = concurrency.limit
    for _ in range(int(low)):
        concurrency.answered()
    assert concurrency.limit == pytest.approx(low + 1, abs=0.1), "then one a round trip"
    for i in range(100):
        concurrency.overloaded(now + i + 1, now + i + 1)
    assert concurrency.limit == 1


def test_it_converges_to_what_a_server_can_take() -> None:
    """A server that refuses whatever is beyond 40 at once."""
    concurrency, answered = Concurrency(256), []
    for step in range(400):
        sent = int(concurrency.limit)
        for _ in range(min(sent, 40)):
            concurrency.answered()
        if sent > 40:
            concurrency.overloaded(step, step)
        answered.append(min(sent, 40))
    assert sum(answered[50:]) / len(answered[50:]) > 0.75 * 40
    assert max(answered) == 40


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 400)), min_size=5, max_size=200),
    st.integers(60, 60_000),
)
def test_a_cap_per_minute_holds_over_every_span(
    steps: list[tuple[float, int]], per_minute: int
) -> None:
    bucket, now, used = Bucket(per_minute), 0.0, list[tuple[float, float]]()
    for pause, amount in steps:
        now += pause
        now += bucket.wait(now, amount) + 1e-9
        assert bucket.wait(now, amount) < 1e-6
        bucket.use(amount)
        used.append((now, amount))
    largest = max(amount for _, amount in used)
    for start in range(0, len(used), 7):
        span = used[-1][0] - used[start][0]
        total = sum(amount for _, amount in used[start:])
        assert total <= per_minute / 60 * (span + 1) + largest + 1


def test_no_cap_never_waits_and_a_pause_holds_all() -> None:
    limiter = RateLimiter(Limits(concurrency=4))
    assert limiter.wait(0.0, 0, 10**9) == 0.0
    assert limiter.wait(0.0, 4, 1) is None
    limiter.pause(10.0, 3.0)
    limiter.pause(10.0, 1.0)
    assert limiter.wait(11.0, 0, 1) == pytest.approx(2.0)
    assert RateLimiter(Limits(concurrency=4)).concurrency.limit == 4 < INITIAL_CONCURRENCY


def test_back_off_doubles_with_full_jitter() -> None:
    rng = random.Random(0)
    for attempt in range(1, 12):
        seconds = [backoff(attempt, rng) for _ in range(500)]
        maximum = min(MAX_BACKOFF, BACKOFF * 2 ** (attempt - 1))
        assert 0 <= min(seconds) < 0.05 * maximum
        assert 0.95 * maximum < max(seconds) <= maximum


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_server_gets_no_more_than_the_caps(tmp_path: Path) -> None:
    """Two at once at most, and five a second."""
    server = FakeServer()
    limits = Limits(concurrency=2, requests_per_minute=300)
    requests = [Request((("user", f"{i}"),), Decoding(max_tokens=1)) for i in range(10)]
    with listening(server) as port:
        engine = Context.scratch(tmp_path).open(served(port, limits=limits))
        engine.generate(requests[:1])
        began = time.monotonic()
        engine.generate(requests)
        took = time.monotonic() - began
        close_engines()
    assert server.max_concurrent <= 2
    assert took >= (9 - 5) / 5 - 0.2


def test_one_request_that_is_always_refused_does_not_starve_the_others() -> None:
    """As a server does with one that is larger than its cap of tokens a minute."""
    identity = {"weights": {"id": "m"}}
    requests = [prepare(Request(f"{i}"), identity, None, None) for i in range(400)]
    results: dict[str, Result] = {}

    async def attempt(request: PreparedRequest) -> str | Retry | Failure:
        await asyncio.sleep(0.01)
        if request.key == requests[0].key:
            return Retry("429", overload=True, unread=True)
        return "an answer"

    limits = Limits(concurrency=8, attempts=3)
    limiter = RateLimiter(limits)
    scheduler = Scheduler(
        attempt=attempt,
        deliver=lambda request, result: results.update({request.key: result}),
        gate=Gate(frozenset(request.key for request in requests), Budget()),
        limits=limits,
        limiter=limiter,
        rng=random.Random(0),
    )
    began = time.monotonic()
    asyncio.run(scheduler.run(requests))
    assert sum(result == "an answer" for result in results.values()) == 399
    assert isinstance(results[requests[0].key], Failure)
    assert limiter.concurrency.limit > 2
    assert time.monotonic() - began < 20
