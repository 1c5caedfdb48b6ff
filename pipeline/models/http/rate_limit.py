"""How fast a server may be asked: pure bookkeeping over a clock that the caller reads.

Concurrency is found by additive increase and multiplicative decrease (Chiu and Jain
1989), as in TCP: it doubles each round trip until the server first says that it is
overloaded, then shrinks by a third on each such word and grows by one a round trip.
Caps per minute are token buckets (the other kind of token: shares of a minute).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from pipeline.models.base import Limits

FIRST: Final = 16
"""Requests in flight at the start."""
SHRINK: Final = 0.67
LONGEST: Final = 60.0
BASE: Final = 0.5
"""Back-off in seconds: at random up to BASE doubled with each attempt, at most LONGEST."""
BURST: Final = 1.0
"""Seconds whose worth of a cap may be used at once."""


@dataclass
class Concurrency:
    """How many requests may be in flight."""

    most: int
    limit: float = FIRST
    slow_start: bool = True
    _shrunk: float = -1.0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.most)

    def answered(self) -> None:
        """A request was answered: room for more."""
        step = 1.0 if self.slow_start else 1.0 / self.limit
        self.limit = min(self.limit + step, self.most)

    def overloaded(self, sent: float, now: float) -> None:
        """The server said that it has too much to do, to a request sent at that time.

        Requests that were under way when the limit last shrank say nothing new.
        """
        if sent > self._shrunk:
            self.limit = max(1.0, self.limit * SHRINK)
            self.slow_start, self._shrunk = False, now


@dataclass
class Bucket:
    """A cap per minute. What is taken may go below zero, so that nothing is too large for it."""

    per_minute: float | None
    level: float = 0.0
    filled: float | None = None

    @property
    def _capacity(self) -> float:
        return max((self.per_minute or 0.0) / 60.0 * BURST, 1.0)

    def wait(self, now: float, need: float) -> float:
        """Seconds until so much may be taken; 0: now."""
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / 60.0
        start = now if self.filled is None else self.filled
        full = self._capacity if self.filled is None else self.level + (now - start) * rate
        self.level, self.filled = min(full, self._capacity), now
        return max(0.0, (min(need, self._capacity) - self.level) / rate)

    def take(self, need: float) -> None:
        """Take it."""
        if self.per_minute is not None:
            self.level -= need


@dataclass
class RateLimiter:
    """Everything that decides whether a request may go out now."""

    limits: Limits
    concurrency: Concurrency = field(init=False)
    requests: Bucket = field(init=False)
    tokens: Bucket = field(init=False)
    paused_until: float = 0.0

    def __post_init__(self) -> None:
        self.concurrency = Concurrency(self.limits.concurrency)
        self.requests = Bucket(self.limits.requests_per_minute)
        self.tokens = Bucket(self.limits.tokens_per_minute)

    def wait(self, now: float, in_flight: int, tokens: int) -> float | None:
        """Seconds until a request with so many tokens may go; None: once another has ended."""
        if in_flight >= int(self.concurrency.limit):
            return None
        return max(
            self.paused_until - now, self.requests.wait(now, 1), self.tokens.wait(now, tokens), 0.0
        )

    def sent(self, tokens: int) -> None:
        """A request has gone out."""
        self.requests.take(1)
        self.tokens.take(tokens)

    def pause(self, now: float, seconds: float) -> None:
        """The server asked everybody to wait (Retry-After)."""
        self.paused_until = max(self.paused_until, now + seconds)


def backoff(attempt: int, noise: random.Random) -> float:
    """Seconds to wait after the so-manieth attempt (from 1): full jitter, so no two agree."""
    return noise.uniform(0.0, min(LONGEST, BASE * 2.0 ** (attempt - 1)))
