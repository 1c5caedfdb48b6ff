"""The engine for any OpenAI-compatible server: attached by `base_url`, or vLLM's own, started here.

Where the prompts are rendered here (see `rendering.py`) they go as token ids to the
completions endpoint, so the server adds and changes nothing. Otherwise messages go to
the chat endpoint and texts to completions. One request is one answer: several samples
are several requests, each with a seed of its own, so that a resumed run asks the same;
servers that cache prefixes pay for their prompt once.

What comes back is a response when it is JSON and can be read; it is journalled as the
text that came. Everything else is a fault on the way and is tried again. The key is
taken from the environment when something is sent, and is blotted out of whatever the
server says, answers and errors alike; so a key may not be a mere word.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Completion, LanguageModel, Request, Scored
from pipeline.models.engines.vllm_server import Server
from pipeline.models.http.client import HttpClient
from pipeline.models.http.rate_limit import RateLimiter
from pipeline.models.http.scheduler import Scheduler
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, Failure, Gate, Prepared, complete
from pipeline.models.local.rendering import Rendering, only_generates

BATCH: Final = 1000
"""Answers that are made durable together at most."""
SECRET: Final = 8
"""Characters of a key at least: one as short as `x` or `EMPTY` stands in many an answer by itself,
and could neither be kept out of the journal nor blotted out without loss."""


class Remote:
    """A server as this process knows it: nothing is started or asked before it is needed."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.process = model.serve
        self.rendering = Rendering(model)
        self.pace = RateLimiter(model.limits)
        self._server: Server | None = None
        self._wire: HttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, model: LanguageModel, identity: dict[str, Any], ctx: Context) -> OpenAIEngine:
        return OpenAIEngine(self, model, identity, ctx)

    def wire(self, log: Path) -> HttpClient:
        """The connection. Raises UserError when no server or no key is there.

        log: what a server that is started here says goes there.
        """
        if self._wire is None:
            model = self.model
            if model.serve:
                server = self._server = Server(model, log)
                self._wire = HttpClient(model, server.base_url, server.name, server.key)
            else:
                name = model.served_name or model.model
                self._wire = HttpClient(model, str(model.base_url), name, _key(model))
        return self._wire

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this server's connections, in a thread of its own."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="openai", daemon=True).start()
        return self._loop

    def close(self) -> None:
        """Close the connections, and end the server if it was started here."""
        if self._loop is not None:
            if self._wire is not None:
                asyncio.run_coroutine_threadsafe(self._wire.close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._server is not None:
            self._server.close()
        self._server = self._wire = self._loop = None


class OpenAIEngine:
    """A served model as one stage sees it: bound to a journal and to counters."""

    def __init__(
        self, remote: Remote, model: LanguageModel, identity: dict[str, Any], ctx: Context
    ) -> None:
        self._remote, self._model = remote, model
        self._identity, self._ctx = identity, ctx

    @property
    def tokenizer(self) -> Any:
        return self._remote.rendering.tokenizer

    @property
    def context_tokens(self) -> int | None:
        return self._remote.rendering.context_tokens

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._ctx.store / "journal")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions, in the order of the requests; see `pipeline.models.journal.requests`."""
        prepared = self._remote.rendering.prepare(requests, self._identity)
        return complete(prepared, self._journal, self._send, self._ctx, self._model.price)

    def loglikelihood(
        self,
        sequences: Sequence[Scored],  # noqa: ARG002
    ) -> list[NDArray[np.float32]]:
        raise only_generates(self._model)

    def _send(self, prepared: list[Prepared], gate: Gate) -> Iterator[Batch]:
        """Answers as they come. The event loop never waits for the journal, nor it for the loop."""
        arrived: SimpleQueue[tuple[Prepared, str | Failure] | None] = SimpleQueue()
        wire, loop = self._remote.wire(self._ctx.work / "server.log"), self._remote.loop
        sending = Scheduler(
            attempt=wire.attempt,
            deliver=lambda one, result: arrived.put((one, result)),
            gate=gate,
            limits=self._model.limits,
            pace=self._remote.pace,
        )
        rows = [one for one in prepared if one.key in gate.missing]
        future = asyncio.run_coroutine_threadsafe(_sent(wire, sending, rows), loop)
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while batch := _drain(arrived):
                yield batch
            future.result()
        finally:
            future.cancel()


async def _sent(wire: HttpClient, sending: Scheduler, rows: list[Prepared]) -> None:
    await wire.check()
    await sending.run(rows)


def _drain(arrived: SimpleQueue[tuple[Prepared, str | Failure] | None]) -> Batch:
    """At least one that arrived and all that are there; nothing once the sending has ended."""
    batch: Batch = []
    entry = arrived.get()
    while entry is not None:
        batch.append(entry)
        try:
            entry = arrived.get_nowait() if len(batch) < BATCH else None
        except Empty:
            return batch
    if batch and len(batch) < BATCH:
        arrived.put(None)
    return batch


def _key(model: LanguageModel) -> str | None:
    if model.api_key_env is None:
        return None
    key = os.environ.get(model.api_key_env)
    if not key:
        raise UserError(
            f"the environment variable {model.api_key_env} is not set",
            where=model.model,
            why="it holds the key for the model's server",
            hint=f"export {model.api_key_env}=...",
        )
    if not (key.isascii() and key.isprintable()):
        # Refused here, and not by the client: its error would spell out the key.
        raise UserError(
            f"the environment variable {model.api_key_env} holds no key",
            where=model.model,
            why="there is a character in it that no header may carry, such as a line's end",
            hint=f"export {model.api_key_env}=...",
        )
    if len(key) < SECRET:
        raise UserError(
            f"the environment variable {model.api_key_env} holds no secret",
            where=model.model,
            why=f"a key of fewer than {SECRET} characters may be a word of an answer as well, "
            "and no key is ever written down",
            hint="leave api_key_env out for a server that wants no key, else give it a longer one",
        )
    return key


def load(model: LanguageModel) -> Remote:
    """Take note of a server; see `Remote`."""
    return Remote(model)
