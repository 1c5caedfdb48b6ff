"""Row-scope stages over chunks of rows, in this process or by a backend.

The pool cuts the chunks and takes their results; where they are computed is for its backend.
A stage that asks a language model runs in this process, which has the journal.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.backends import Backend, ChunkLost, StageCall
from pipeline.models.base import Embedder, LanguageModel
from pipeline.store.row_cache import KEY

_log = logging.getLogger(__name__)

FIRST_CHUNK: Final = 32
GROWTH: Final = 8
CHUNK_SECONDS: Final = 10.0
"""Target time of a chunk here; results are durable after each. It always takes less than 30 s."""

JOURNALLED_CHUNK: Final = 20_000
"""Rows per chunk where the journal keeps every response: with small chunks the engine would idle
while it waits for the last responses of each."""

MIN_PARALLEL_SECONDS: Final = 6.0
"""Seconds of remaining work below which starting processes costs more than it saves."""

MIN_RATE_SECONDS: Final = 0.25
"""Seconds that a chunk must take for its rate to count: a shorter one is mostly set-up."""

CHUNK_BYTES: Final = 64 << 20
"""What the rows of a chunk may take in memory."""

POLL_SECONDS: Final = 0.2


@dataclass
class WorkerPool:
    """Calls row-scope stages, in chunks whose results are durable one by one.

    Args:
        backend: Computes what is worth it; None: everything is computed here.

    Attributes:
        peak: Peak memory of any worker in bytes, for the caller to reset.
    """

    backend: Backend | None = None
    peak: int = field(default=0, init=False)

    def close(self) -> None:
        """End the workers: nobody needs what they still compute."""
        if self.backend is not None:
            self.backend.close()

    def run(
        self, call: StageCall, rows: Iterable[pl.DataFrame], total: int, ctx: Context
    ) -> Iterator[tuple[pl.DataFrame, Any]]:
        """Call a stage on chunks of rows.

        Args:
            call: The stage with its options and other inputs.
            rows: The rows of its first input in parts, each with its key.
            total: How many there are, about.
            ctx: The context of the step.

        Yields:
            Each chunk as it is done, with its key, and the output.

        Raises:
            UserError: A worker was killed.
        """
        journalled = _journalled(call)
        feed = _Feed(rows, math.inf if journalled else CHUNK_BYTES)
        size, rate = JOURNALLED_CHUNK if journalled else FIRST_CHUNK, 0.0
        if _batched(call):
            size = max(total, 1)  # each chunk would wait for a batch of its own
        elsewhere = self.backend is not None and _goes_elsewhere(call, self.backend)
        begun = elsewhere and self.backend is not None and self.backend.begun(call) is not None
        while True:
            left = total - feed.taken
            if begun or (elsewhere and rate and left / rate > MIN_PARALLEL_SECONDS):
                yield from self._by_backend(call, feed, left, rate, ctx)
                return
            start = feed.taken
            chunk = feed.take(size)
            if not len(chunk):
                return
            start_time = time.perf_counter()
            of_chunk = _chunk_context(ctx, start, len(chunk), total)
            result = call(of_chunk, _without_key(chunk))
            seconds = max(time.perf_counter() - start_time, 1e-6)
            yield chunk, result
            # The first chunk includes the time for imports.
            if start and not journalled:
                size = max(1, int(min(size * GROWTH, len(chunk) / seconds * CHUNK_SECONDS)))
            if start and seconds > MIN_RATE_SECONDS:
                rate = len(chunk) / seconds

    def _by_backend(
        self, call: StageCall, feed: _Feed, left: int, rate: float, ctx: Context
    ) -> Iterator[tuple[pl.DataFrame, Any]]:
        backend = self.backend
        assert backend is not None
        size = backend.begun(call) or int(min(rate * backend.chunk_seconds, left / backend.slots))
        size = max(size, 1)
        prepared = backend.prepare(call, size)
        halves: list[pl.DataFrame] = []
        pending: dict[Any, pl.DataFrame] = {}
        while True:
            while len(pending) < backend.slots + 1:
                chunk = halves.pop() if halves else feed.take(size)
                if not len(chunk):
                    break
                pending[backend.submit(prepared, _without_key(chunk))] = chunk
            if not pending:
                return
            # A signal that another thread received is handled once the main thread wakes.
            for handle in backend.wait(list(pending), POLL_SECONDS):
                chunk = pending.pop(handle)
                try:
                    result, peak, used = backend.result(handle)
                except ChunkLost as error:
                    halves += _halves(chunk, error)
                    continue
                self.peak = max(self.peak, peak)
                ctx.count(**used)
                yield chunk, result


class _Feed:
    """Rows that come in parts, taken in chunks.

    Args:
        parts: The rows.
        limit: Bytes that a chunk may hold.

    Attributes:
        taken: How many rows were taken.
    """

    def __init__(self, parts: Iterable[pl.DataFrame], limit: float) -> None:
        self._parts, self._limit = iter(parts), limit
        self._rest: pl.DataFrame | None = None
        self.taken = 0

    def take(self, size: int) -> pl.DataFrame:
        """The next rows: as many as asked for, or as chunks may hold; none at the end."""
        frames: list[pl.DataFrame] = []
        rows = held = 0
        while rows < size and held < self._limit:
            part = next(self._parts, None) if self._rest is None else self._rest
            if part is None:
                break
            per_row = max(part.estimated_size() / max(len(part), 1), 1)
            number = int(min(size - rows, max((self._limit - held) / per_row, 1)))
            frames.append(part.head(number))
            self._rest = part.slice(number) if number < len(part) else None
            rows, held = rows + len(frames[-1]), held + int(per_row * len(frames[-1]))
        self.taken += rows
        return pl.concat(frames) if frames else pl.DataFrame()


def _without_key(chunk: pl.DataFrame) -> pl.DataFrame:
    return chunk.drop(KEY, strict=False)


def _halves(chunk: pl.DataFrame, lost: ChunkLost) -> list[pl.DataFrame]:
    """The two halves of a chunk whose worker is gone, the second one first.

    Args:
        chunk: The chunk.
        lost: Why.

    Raises:
        UserError: It has one row.
    """
    if len(chunk) == 1:
        raise UserError("a worker was lost with a single row", why=lost.why,
                        where=str(chunk["id"][0]) if "id" in chunk.columns else None,
                        hint="give the workers more memory, then run again: finished chunks are "
                        "kept")  # fmt: skip
    what = "a worker was lost with %d rows (%s); they are tried in halves"
    _log.warning(what, len(chunk), lost.why)
    half = len(chunk) // 2
    return [chunk.slice(half), chunk.slice(0, half)]


def _models(call: StageCall) -> list[LanguageModel]:
    values = (getattr(call.options, option.name) for option in call.stage.options)
    return [model for model in values if isinstance(model, LanguageModel)]


def _goes_elsewhere(call: StageCall, backend: Backend) -> bool:
    """Whether a backend computes the chunks of a call.

    What asks a language model stays: its answers belong into the journal, which is here.
    """
    models = [
        getattr(call.options, option.name) for option in call.stage.options if option.is_model
    ]
    used = [model for model in models if model is not None]
    return not used or (backend.loads_embedders and all(isinstance(m, Embedder) for m in used))


def _journalled(call: StageCall) -> bool:
    """Whether the stage spends its time on requests to engines that only generate."""
    engines = [model.engine for model in _models(call)]
    return bool(engines) and "transformers" not in engines


def _batched(call: StageCall) -> bool:
    """Whether the stage asks in a provider's batches."""
    return any(model.batching for model in _models(call))


def _chunk_context(ctx: Context, start: int, size: int, total: int) -> Context:
    """The context for one chunk: progress within it is reported in rows of all chunks.

    Args:
        ctx: The context of the step.
        start: Number of the chunk's first row.
        size: Rows of the chunk.
        total: Rows of all chunks.
    """

    def report(done: float, of: float | None) -> None:
        if of:
            ctx.report(start + size * done / of, total)

    return replace(ctx, report=report)
