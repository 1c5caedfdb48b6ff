"""How fast a server is asked: over a clock of the test's own, and against a real server."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Decoding, Limits, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.client import retry_after
from pipeline.models.http.rate_limit import (
    BASE,
    FIRST,
    LONGEST,
    Bucket,
    Concurrency,
    RateLimiter,
    backoff,
)
from tests.support.serving import Tiny, listening, served


def test_concurrency_grows_until_the_server_complains() -> None:
    room, now = Concurrency(256), 0.0
    while room.limit < 100:
        for _ in range(int(room.limit)):
            room.answered()
        now += 1
    assert now <= 4, "it doubles each round trip"
    high = room.limit
    for sent in (now - 1, now - 0.5, now - 0.1):
        room.overloaded(sent, now)
    assert room.limit == pytest.approx(high * 0.67), "one round trip is one complaint"
    low = room.limit
    for _ in range(int(low)):
        room.answered()
    assert room.limit == pytest.approx(low + 1, abs=0.1), "then one a round trip"
    for i in range(100):
        room.overloaded(now + i + 1, now + i + 1)
    assert room.limit == 1


def test_it_settles_at_what_a_server_can_take() -> None:
    """A server that refuses whatever is beyond 40 at once."""
    room, served_ = Concurrency(256), []
    for step in range(400):
        asked = int(room.limit)
        for _ in range(min(asked, 40)):
            room.answered()
        if asked > 40:
            room.overloaded(step, step)
        served_.append(min(asked, 40))
    assert sum(served_[50:]) / len(served_[50:]) > 0.75 * 40
    assert max(served_) == 40


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 400)), min_size=5, max_size=200),
    st.integers(60, 60_000),
)
def test_a_cap_per_minute_holds_over_every_span(
    steps: list[tuple[float, int]], per_minute: int
) -> None:
    bucket, now, taken = Bucket(per_minute), 0.0, list[tuple[float, float]]()
    for pause, need in steps:
        now += pause
        now += bucket.wait(now, need) + 1e-9
        assert bucket.wait(now, need) < 1e-6
        bucket.take(need)
        taken.append((now, need))
    largest = max(need for _, need in taken)
    for start in range(0, len(taken), 7):
        span = taken[-1][0] - taken[start][0]
        used = sum(need for _, need in taken[start:])
        assert used <= per_minute / 60 * (span + 1) + largest + 1


def test_no_cap_never_waits_and_a_pause_holds_all() -> None:
    pace = RateLimiter(Limits(concurrency=4))
    assert pace.wait(0.0, 0, 10**9) == 0.0
    assert pace.wait(0.0, 4, 1) is None
    pace.pause(10.0, 3.0)
    pace.pause(10.0, 1.0)
    assert pace.wait(11.0, 0, 1) == pytest.approx(2.0)
    assert RateLimiter(Limits(concurrency=4)).concurrency.limit == 4 < FIRST


def test_back_off_doubles_with_full_jitter() -> None:
    noise = random.Random(0)
    for attempt in range(1, 12):
        drawn = [backoff(attempt, noise) for _ in range(500)]
        most = min(LONGEST, BASE * 2 ** (attempt - 1))
        assert 0 <= min(drawn) < 0.05 * most
        assert 0.95 * most < max(drawn) <= most


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


def test_caps_are_kept_on_the_wire(tmp_path: Path) -> None:
    """Two at once at most, and five a second."""
    tiny = Tiny()
    limits = Limits(concurrency=2, requests_per_minute=300)
    asked = [Request((("user", f"{i}"),), Decoding(max_tokens=1)) for i in range(10)]
    with listening(tiny) as port:
        engine = Context.scratch(tmp_path).open(served(port, limits=limits))
        engine.generate(asked[:1])
        began = time.monotonic()
        engine.generate(asked)
        took = time.monotonic() - began
        close_engines()
    assert tiny.most <= 2
    assert took >= (9 - 5) / 5 - 0.2
