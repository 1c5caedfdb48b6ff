"""Sending requests to a server until each is answered, or has failed for good.

One coroutine starts the attempts; each attempt is a task that ends in an answer, a
reason to retry, or a failure. A request that waits for its next attempt does not count
as in flight, and holds nothing of a budget. A server that refuses requests because it has
too much to do, and answers others meanwhile, uses up no attempts: it only takes its time.
Every result is delivered as soon as it is there, and if the loop is stopped early, the
requests in flight are still awaited and delivered.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.errors import UserError
from pipeline.models.api import Limits
from pipeline.models.http.rate_limit import RateLimiter, backoff
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Discarded, Failure, PreparedRequest
from pipeline.models.journal.usage import TokenUsage

POLL_INTERVAL: Final = 0.05
"""Seconds after which an exhausted budget is tried again: requests in flight may free some."""


@dataclass(frozen=True)
class Retry:
    """The result of an attempt that may succeed later.

    Args:
        why: The reason, for the row's `error` if all attempts fail.
        overload: Whether the server has too much to do.
        after: Seconds that the server asked to wait; None if it did not.
        unread: Whether the server refused the request without looking at it, as with 429.
        billed: What the attempt is billed although it has no answer.
    """

    why: str
    overload: bool = False
    after: float | None = None
    unread: bool = False
    billed: TokenUsage | None = None


class Tries(NamedTuple):
    """What became of a request so far.

    Attributes:
        counted: Attempts that failed, but for those that were refused unread while others were
            answered.
        all: All attempts that failed.
        answers: How many answers there were when the last of them ended.
    """

    counted: int = 0
    all: int = 0
    answers: int = 0


FORGIVEN: Final = 4
"""Refusals of a request from which on it waits longer, though others are answered."""

Attempt = Callable[[PreparedRequest], Awaitable[str | Retry | Failure]]
"""One attempt: the raw response, or why there is none. A UserError ends all sending."""
Result = str | Failure | Discarded
Deliver = Callable[[PreparedRequest, Result], None]


@dataclass
class Scheduler:
    """Sends one list of requests.

    Args:
        attempt: Sends a request once.
        deliver: Called with each request and its final result, and with what is billed before.
        gate: Decides which requests the budget admits.
        limits: Timeouts and numbers of attempts.
        limiter: Decides when the next request may be sent; shared by all of one server.
        rng: Random numbers of the back-off.

    Attributes:
        pending: Requests that were never sent.
        retries: A heap of (due time, tie breaker, request, what became of it so far).
        in_flight: The tasks of the attempts that are under way.
        wake: Set whenever an attempt has ended.
        failing_since: When the first attempt failed since the last answer.
        last_reason: Why the last attempt failed.
        fatal: The exception that ends all sending.
        over_budget: Whether the gate refused the next request for good: nothing else is open.
        answers: How many requests have ended otherwise than by failing attempts.
    """

    attempt: Attempt
    deliver: Deliver
    gate: Gate
    limits: Limits
    limiter: RateLimiter
    rng: random.Random = field(default_factory=random.Random)
    pending: deque[PreparedRequest] = field(default_factory=deque)
    retries: list[tuple[float, int, PreparedRequest, Tries]] = field(default_factory=list)
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    failing_since: float | None = None
    last_reason: str = ""
    fatal: BaseException | None = None
    over_budget: bool = False
    answers: int = 0

    async def run(self, requests: list[PreparedRequest]) -> None:
        """Send all; return when every request is delivered or the budget is exhausted.

        Raises:
            UserError: No request can succeed, for instance because the key is wrong.
        """
        self.pending.extend(requests)
        try:
            while not self._finished():
                self.wake.clear()
                timeout = self._start_attempts()
                await self._wait(timeout)
        finally:
            if self.in_flight:
                await asyncio.wait(self.in_flight)
        if self.fatal is not None:
            raise self.fatal

    def _finished(self) -> bool:
        if self.fatal is not None:
            return True
        now = time.monotonic()
        patience = self.limits.patience
        if self.failing_since is not None and now - self.failing_since > patience:
            self._give_up(f"no answer for {patience:g} s; last: {self.last_reason}")
        elif (pause := self.limiter.paused_until - now) > patience:
            self._give_up(f"the server asks to wait for {pause:.0f} s, longer than {patience:g} s")
        done = not (self.pending or self.retries or self.in_flight)
        return done or self.over_budget

    def _give_up(self, why: str) -> None:
        """Fail every request that is not in flight."""
        for request in [*self.pending, *(entry[2] for entry in self.retries)]:
            self.deliver(request, Failure(why))
        self.pending.clear()
        self.retries.clear()

    def _start_attempts(self) -> float | None:
        """Start all attempts that may start now.

        Returns:
            Seconds until more may start; None: once an attempt has ended.
        """
        self.over_budget = False
        while self.pending or self.retries:
            now = time.monotonic()
            due = bool(self.retries) and self.retries[0][0] <= now
            if not due and not self.pending:
                return self.retries[0][0] - now
            request = self.retries[0][2] if due else self.pending[0]
            tokens = request.prompt_tokens + request.decoding.max_tokens
            wait = self.limiter.wait(now, len(self.in_flight), tokens)
            if wait is None or wait > 0:
                return wait
            alone = not self.in_flight and self.gate.idle
            if not self.gate.admit(request):
                self.over_budget = alone and (due or not self.retries)
                return POLL_INTERVAL
            tries = heapq.heappop(self.retries)[3] if due else Tries(answers=self.answers)
            if not due:
                self.pending.popleft()
            self.limiter.sent(tokens)
            task = asyncio.get_running_loop().create_task(self._try(request, tries))
            self.in_flight.add(task)
            task.add_done_callback(self._ended)
        return None

    async def _wait(self, seconds: float | None) -> None:
        if not self.in_flight:
            await asyncio.sleep(min(seconds or 0.0, 1.0))
            return
        try:
            # At most a second, so that the end of patience is noticed.
            async with asyncio.timeout(min(seconds or 1.0, 1.0)):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fatal = self.fatal or task.exception()
        self.wake.set()

    async def _try(self, request: PreparedRequest, tries: Tries) -> None:
        """One attempt.

        Args:
            request: The request.
            tries: What became of those before it.
        """
        sent = time.monotonic()
        try:
            result = await self.attempt(request)
        except UserError:
            # It was refused, or never sent: nobody bills it, and it is not in flight any more.
            self.gate.reconcile(request)
            raise
        now = time.monotonic()
        if not isinstance(result, Retry):
            self.failing_since = None
            self.answers += 1
            if isinstance(result, str):  # a refusal says nothing about how much it can take
                self.limiter.concurrency.answered()
            self.deliver(request, result)
            return
        self._release(request, result)
        self.failing_since = self.failing_since or now
        self.last_reason = result.why
        forgiven = result.unread and self.answers > tries.answers
        tries = Tries(tries.counted + (not forgiven), tries.all + 1, self.answers)
        # A request that is refused again and again while others are answered, such as one that is
        # too large for the caps, says nothing about how many may be in flight.
        if result.overload and not (forgiven and tries.all > self.limits.attempts):
            self.limiter.concurrency.overloaded(sent, now)
        if result.after is not None:
            self.limiter.pause(now, result.after)
        if tries.counted >= self.limits.attempts:
            self.deliver(request, Failure(f"{result.why} (attempt {tries.counted})"))
            return
        patience = max(tries.counted, tries.all - FORGIVEN, 1)
        due = now + (result.after or 0.0) + backoff(patience, self.rng)
        heapq.heappush(self.retries, (due, id(request), request, tries))

    def _release(self, request: PreparedRequest, result: Retry) -> None:
        """Replace the reservation of an attempt without an answer by what it is billed."""
        self.gate.reconcile(request, result.billed)
        if result.billed is not None:
            self.deliver(request, Discarded(result.billed))
