"""How fast requests are sent to a server: pure bookkeeping over a clock that the caller reads.

Concurrency adapts by additive increase and multiplicative decrease (Chiu and Jain 1989),
as in TCP: it doubles each round trip until the server first reports an overload, then
shrinks by a third with each report and grows by one each round trip. Caps per minute are
token buckets (what is in the bucket is a share of a minute, not a language model's token).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from pipeline.models.api import Limits

INITIAL_CONCURRENCY: Final = 16
DECREASE: Final = 0.67
"""Factor of the concurrency after an overload."""
BACKOFF: Final = 0.5
MAX_BACKOFF: Final = 60.0
"""Back-off in seconds: uniform up to BACKOFF, doubled with each attempt, at most MAX_BACKOFF."""
BURST: Final = 1.0
"""Seconds of a cap that may be used at once."""


@dataclass
class Concurrency:
    """How many requests may be in flight, adapted to what the server can take.

    Args:
        maximum: Upper bound, from the recipe.
        limit: The current limit; fractional, since it grows by parts of a request.
        slow_start: Whether the limit still doubles each round trip.
    """

    maximum: int
    limit: float = INITIAL_CONCURRENCY
    slow_start: bool = True
    _decreased_at: float = -1.0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.maximum)

    def answered(self) -> None:
        """Increase the limit after an answer."""
        step = 1.0 if self.slow_start else 1.0 / self.limit
        self.limit = min(self.limit + step, self.maximum)

    def overloaded(self, sent: float, now: float) -> None:
        """Decrease the limit after a report of overload.

        Args:
            sent: When the request was sent, in seconds. A request that was in flight when
                the limit last decreased shows nothing new.
            now: When the report came, in seconds.
        """
        if sent > self._decreased_at:
            self.limit = max(1.0, self.limit * DECREASE)
            self.slow_start, self._decreased_at = False, now


@dataclass
class Bucket:
    """A cap per minute, as a token bucket.

    The level may go below zero, so that no request is too large for it.

    Args:
        per_minute: The cap; None for no cap.
        level: What may be used now.
        filled: When the level was last computed, in seconds; None before the first time.

    Example:
        >>> bucket = Bucket(per_minute=60)
        >>> bucket.wait(now=0.0, amount=1)
        0.0
        >>> bucket.use(1)
        >>> bucket.wait(now=0.25, amount=1)
        0.75
    """

    per_minute: float | None
    level: float = 0.0
    filled: float | None = None

    @property
    def _capacity(self) -> float:
        return max((self.per_minute or 0.0) / 60.0 * BURST, 1.0)

    def wait(self, now: float, amount: float) -> float:
        """Seconds until this amount may be used; 0 for now."""
        if self.per_minute is None:
            return 0.0
        rate = self.per_minute / 60.0
        start = now if self.filled is None else self.filled
        full = self._capacity if self.filled is None else self.level + (now - start) * rate
        self.level, self.filled = min(full, self._capacity), now
        return max(0.0, (min(amount, self._capacity) - self.level) / rate)

    def use(self, amount: float) -> None:
        """Use an amount."""
        if self.per_minute is not None:
            self.level -= amount


@dataclass
class RateLimiter:
    """Decides when the next request may be sent; one for each server.

    Args:
        limits: The limits of the recipe.

    Attributes:
        concurrency: How many requests may be in flight.
        requests: The cap on requests per minute.
        tokens: The cap on tokens per minute.
        paused_until: Until when the server asked to wait, in seconds.
    """

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
        """When a request may be sent.

        Args:
            now: The time in seconds.
            in_flight: Number of requests in flight.
            tokens: Tokens of its prompt and of its longest answer.

        Returns:
            Seconds to wait; None: until another request has ended.
        """
        if in_flight >= int(self.concurrency.limit):
            return None
        return max(
            self.paused_until - now, self.requests.wait(now, 1), self.tokens.wait(now, tokens), 0.0
        )

    def sent(self, tokens: int) -> None:
        """Count a request that was sent, with the tokens of its prompt and longest answer."""
        self.requests.use(1)
        self.tokens.use(tokens)

    def pause(self, now: float, seconds: float) -> None:
        """Send nothing for some seconds, because the server asked for it (Retry-After)."""
        self.paused_until = max(self.paused_until, now + seconds)


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after attempt 1, 2, ...: exponential with full jitter."""
    return rng.uniform(0.0, min(MAX_BACKOFF, BACKOFF * 2.0 ** (attempt - 1)))
