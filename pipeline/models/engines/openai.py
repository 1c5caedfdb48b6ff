"""The engine for servers: attached by `base_url`, or vLLM's own, started here.

Where the prompts are rendered here (see `local/rendering.py`) they are sent as token ids
to the completions endpoint, so the server adds and changes nothing. Otherwise messages go
to the chat endpoint and texts to completions. One request is one answer: several samples
are several requests, each with a seed of its own, so that a resumed run sends the same
requests; servers that cache prefixes compute a shared prompt once.

How a provider wants it is in `pipeline.models.http.providers`.

What comes back is a response if it is JSON and can be parsed; the journal stores all of it.
Everything else is a transmission error and is tried again. The key is taken from the
environment when something is sent, and is redacted from everything that the server says,
answers and errors alike; so a key must be long enough to be no word of an answer.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.base import EngineContext, LanguageModel
from pipeline.models.engines.journaled import JournaledEngine
from pipeline.models.engines.vllm_server import Server
from pipeline.models.http.client import HttpClient
from pipeline.models.http.rate_limit import RateLimiter
from pipeline.models.http.redaction import MIN_KEY_LENGTH
from pipeline.models.http.refusals import PARAMETERS, History
from pipeline.models.http.scheduler import Result, Scheduler
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, Discarded, PreparedRequest
from pipeline.models.local.rendering import Rendering

COMMIT_SIZE: Final = 1000
"""The largest number of answers that are committed together."""

Results = SimpleQueue[tuple[PreparedRequest, Result] | None]
"""Requests with their results, as they come; None at the end."""


class RemoteModel:
    """A model on a server. Nothing is started or sent before it is needed.

    Args:
        model: The model, with `base_url` or `serve`.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.process = model.serve
        self.rendering = Rendering(model)
        self.limiter = RateLimiter(model.limits)
        self._server: Server | None = None
        self._client: HttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(
        self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext
    ) -> OpenAIEngine:
        """The engine for one stage; see `registry.Loaded`."""
        return OpenAIEngine(self, model, identity, ctx)

    def client(self, log: Path) -> HttpClient:
        """The client of the server, which is started if need be.

        Args:
            log: The file for the output of a server that is started here.

        Raises:
            UserError: The server does not start, or there is no usable key.
        """
        if self._client is None:
            model = self.model
            if model.serve:
                server = self._server = Server(model, log)
                self._client = HttpClient(model, server.base_url, server.name, server.key)
            else:
                name = model.served_name or model.model
                key = _secret(model.api_key_env, model.model)
                headers = {
                    name: str(_secret(variable, model.model, f"the value of the header {name}"))
                    for name, variable in model.api.headers.items()
                }
                self._client = HttpClient(model, str(model.base_url), name, key, headers)
        return self._client

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this server's connections, in a thread of its own."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="openai", daemon=True).start()
        return self._loop

    def close(self) -> None:
        """Close the connections, and stop the server if it was started here."""
        if self._loop is not None:
            if self._client is not None:
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._server is not None:
            self._server.close()
        self._server = self._client = self._loop = None


class OpenAIEngine(JournaledEngine):
    """A served model as one stage sees it.

    Args:
        remote: The model's server.
        model: The model, as the stage names it.
        identity: The identity of the model.
        ctx: The store, the budget and the counters of the stage.
    """

    def __init__(
        self,
        remote: RemoteModel,
        model: LanguageModel,
        identity: dict[str, Any],
        ctx: EngineContext,
    ) -> None:
        super().__init__(remote.rendering, model, identity, ctx)
        self._remote = remote
        self._history = History()

    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        """Yield answers as they come: in batches of the provider, or one by one.

        Requests that are in a batch of an earlier run are awaited there, whatever the model's
        options say now.
        """
        missing = [request for request in prepared if request.key in gate.missing]
        keys = [request.key for request in missing]
        batching, history = self._model.batching is not None, self._history
        if missing and not history.answered and self._journal.has_answered(missing[0].payload):
            # What is refused now is about its text: a run of failed rows alone must not stop.
            history.answered, history.accepted = True, {*PARAMETERS}
        if not (batching or self._journal.batches.holding(keys)):
            yield from self._send_singly(missing, gate)
            return
        ended: set[str] = set()
        for batch in self._send_in_batches(missing, gate, len(prepared) - len(missing)):
            ended |= {p.key for p, result in batch if not isinstance(result, Discarded)}
            yield batch
        left = [request for request in missing if request.key not in ended]
        if left and not batching:
            yield from self._send_singly(left, gate)

    def _send_in_batches(
        self, missing: list[PreparedRequest], gate: Gate, known: int
    ) -> Iterator[Batch]:
        from pipeline.models.engines.batches import BatchScheduler
        from pipeline.models.http.batches.calls import BatchCalls

        client = self._remote.client(self._ctx.work / "server.log")
        calls = BatchCalls(client, self._remote.loop)
        scheduler = BatchScheduler(
            *(client, calls, self._journal, gate, self._model, self._ctx, self._history),
            known=known,
            waiting_since=self._waiting_since,
        )
        return scheduler.run(missing)

    @cached_property
    def _waiting_since(self) -> float:
        """When the stage has begun to wait for batches."""
        return time.monotonic()

    def _send_singly(self, missing: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        """Yield answers as they come. Neither the event loop nor the journal waits for the other.

        The loop runs in its own thread and puts results into a queue, which is read here.
        """
        results: Results = SimpleQueue()
        client, loop = self._remote.client(self._ctx.work / "server.log"), self._remote.loop
        history = self._history

        def deliver(request: PreparedRequest, result: Result) -> None:
            sent = history.sent.pop(request.key, None)
            results.put((replace(request, sent=sent) if sent else request, result))

        scheduler = Scheduler(
            attempt=lambda request: client.attempt(request, history),
            deliver=deliver,
            gate=gate,
            limits=self._model.limits,
            limiter=self._remote.limiter,
        )
        future = asyncio.run_coroutine_threadsafe(_check_and_send(client, scheduler, missing), loop)
        future.add_done_callback(lambda _: results.put(None))
        try:
            while batch := _next_batch(results):
                yield batch
            future.result()
        finally:
            future.cancel()


async def _check_and_send(
    client: HttpClient, scheduler: Scheduler, requests: list[PreparedRequest]
) -> None:
    await client.check()
    await scheduler.run(requests)


def _next_batch(results: Results) -> Batch:
    """Wait for a result and take all that are there; empty once all sending has ended."""
    batch: Batch = []
    result = results.get()
    while result is not None:
        batch.append(result)
        try:
            result = results.get_nowait() if len(batch) < COMMIT_SIZE else None
        except Empty:
            return batch
    if batch and len(batch) < COMMIT_SIZE:
        results.put(None)
    return batch


def _secret(variable: str | None, where: str, what: str = "the key") -> str | None:
    """A key or a header's value from the environment. No error shows it.

    Args:
        variable: The name of the variable; None for no key.
        where: The model, for the message.
        what: What it holds, likewise.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set",
            where=where,
            why=f"it must hold {what} for the model's server",
            hint=f"export {variable}=...",
        )
    if not (key.isascii() and key.isprintable()):
        # Checked before the HTTP client does: its error would contain the key.
        raise UserError(
            f"the environment variable {variable} must hold printable ASCII characters only",
            where=where,
            why="another one, such as a line break, cannot be sent in a header",
            hint=f"export {variable}=...",
        )
    if len(key) < MIN_KEY_LENGTH:
        raise UserError(
            f"the environment variable {variable} must hold at least {MIN_KEY_LENGTH} characters",
            where=where,
            why="a shorter key may be a word of an answer as well, from which it is redacted",
            hint="leave api_key_env out for a server that needs no key, else give it a longer one",
        )
    return key


def load(model: LanguageModel) -> RemoteModel:
    """A model on a server; see `RemoteModel`."""
    return RemoteModel(model)
