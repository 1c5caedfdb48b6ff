"""Sending requests to a server until each is answered, or has failed for good.

One coroutine launches; each attempt is a task of its own that ends in an answer, a
reason to try again, or a failure. A request that waits for its next attempt holds no
place. Every answer is handed over the moment it is there (`deliver`), and whoever
stops this loop early still gets those that are under way.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.models.base import Limits
from pipeline.models.http.rate_limit import RateLimiter, backoff
from pipeline.models.journal.requests import Failure, Gate, Prepared

POLL: Final = 0.05
"""Seconds between two looks at a budget that others must free first."""


@dataclass(frozen=True)
class Again:
    """An attempt that may succeed later. overload: the server has too much to do.

    after: seconds that the server asked to wait.
    """

    why: str
    overload: bool = False
    after: float | None = None


Attempt = Callable[[Prepared], Awaitable[str | Again | Failure]]
"""One attempt: the raw response, or why there is none. Raises UserError to end it all."""
Deliver = Callable[[Prepared, str | Failure], None]


@dataclass
class Scheduler:
    """The state of sending one list of requests."""

    attempt: Attempt
    deliver: Deliver
    gate: Gate
    limits: Limits
    pace: RateLimiter
    noise: random.Random = field(default_factory=random.Random)
    fresh: deque[Prepared] = field(default_factory=deque)
    waiting: list[tuple[float, int, Prepared, int]] = field(default_factory=list)
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    failing_since: float | None = None
    last_reason: str = ""
    fatal: BaseException | None = None
    refused: bool = False

    async def run(self, rows: list[Prepared]) -> None:
        """Send all; returns when every request was delivered or the budget is reached.

        Raises UserError for what no request can get past, such as a wrong key.
        """
        self.fresh.extend(rows)
        try:
            while not self._over():
                self.wake.clear()
                timeout = self._launch()
                await self._nap(timeout)
        finally:
            if self.in_flight:
                await asyncio.wait(self.in_flight)
        if self.fatal is not None:
            raise self.fatal

    def _over(self) -> bool:
        if self.fatal is not None:
            return True
        now = time.monotonic()
        patience = self.limits.patience
        if self.failing_since is not None and now - self.failing_since > patience:
            self._give_up(f"no answer for {patience:g} s; last: {self.last_reason}")
        elif (pause := self.pace.paused_until - now) > patience:
            self._give_up(f"the server asks to wait for {pause:.0f} s, longer than {patience:g} s")
        done = not (self.fresh or self.waiting or self.in_flight)
        stuck = self.refused and not (self.waiting or self.in_flight) and self.gate.idle
        return done or stuck

    def _give_up(self, why: str) -> None:
        """What has not been sent fails: nothing was, or will be, answered for too long."""
        for prepared in [*self.fresh, *(entry[2] for entry in self.waiting)]:
            self.deliver(prepared, Failure(why))
        self.fresh.clear()
        self.waiting.clear()

    def _launch(self) -> float | None:
        """Start what may start. Seconds until more may; None: once something has ended."""
        self.refused = False
        while self.fresh or self.waiting:
            now = time.monotonic()
            due = bool(self.waiting) and self.waiting[0][0] <= now
            if not due and not self.fresh:
                return self.waiting[0][0] - now
            prepared = self.waiting[0][2] if due else self.fresh[0]
            tokens = prepared.prompt_tokens + prepared.decoding.max_tokens
            wait = self.pace.wait(now, len(self.in_flight), tokens)
            if wait is None or wait > 0:
                return wait
            if not due and not self.gate.admit(prepared):
                self.refused = True
                return POLL
            tried = heapq.heappop(self.waiting)[3] if due else 0
            if not due:
                self.fresh.popleft()
            self.pace.sent(tokens)
            task = asyncio.get_running_loop().create_task(self._try(prepared, tried + 1))
            self.in_flight.add(task)
            task.add_done_callback(self._ended)
        return None

    async def _nap(self, seconds: float | None) -> None:
        if not self.in_flight:
            await asyncio.sleep(min(seconds or 0.0, 1.0))
            return
        try:
            # Now and then a look at the clock, to see when patience ends.
            async with asyncio.timeout(min(seconds or 1.0, 1.0)):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fatal = self.fatal or task.exception()
        self.wake.set()

    async def _try(self, prepared: Prepared, number: int) -> None:
        sent = time.monotonic()
        result = await self.attempt(prepared)
        now = time.monotonic()
        if not isinstance(result, Again):
            self.failing_since = None
            self.pace.concurrency.answered()
            self.deliver(prepared, result)
            return
        self.failing_since = self.failing_since or now
        self.last_reason = result.why
        if result.overload:
            self.pace.concurrency.overloaded(sent, now)
        if result.after is not None:
            self.pace.pause(now, result.after)
        if number >= self.limits.attempts:
            self.deliver(prepared, Failure(f"{result.why} (attempt {number})"))
            return
        due = now + (result.after or 0.0) + backoff(number, self.noise)
        heapq.heappush(self.waiting, (due, id(prepared), prepared, number))
