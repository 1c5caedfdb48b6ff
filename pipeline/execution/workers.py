"""Row-scope stages over chunks of rows, in this process or in several.

Workers are spawned, never forked: they hold neither the store's lock nor its
journal, and the kernel ends them when the runner dies, however it dies. A stage
that holds a model runs in this process, since its engine uses every core.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.peak_memory import peak_memory
from pipeline.models.base import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.stage import DataKind, Stage

FIRST_CHUNK: Final = 32
GROWTH: Final = 8
CHUNK_SECONDS: Final = 10.0
"""Results are durable after each chunk; a chunk takes about this long, and less than 30 s."""

JOURNALLED_CHUNK: Final = 20_000
"""Rows at a time where every answer is durable by itself: small chunks would leave the engine idle
while the last answers of each are awaited."""

WORTH_SPAWNING: Final = 6.0
"""Seconds of remaining work below which starting processes costs more than it saves."""

TELLING: Final = 0.25
"""Seconds that a chunk must take for its rate to count: one that is over at once is set-up."""

WAKE: Final = 0.2
PR_SET_PDEATHSIG: Final = 1

Answer = tuple[Any, int, dict[str, int]]


@dataclass(frozen=True)
class StageCall:
    """A row-scope stage ready to be called on chunks, here or in another process.

    edges: the other inputs: frames as files that a worker reads once, paths, or None.
    """

    stage: Stage
    options: SimpleNamespace
    edges: dict[str, Any]
    folder: Path

    def __call__(self, ctx: Context, rows: pl.DataFrame) -> Any:
        return self.stage.function(ctx, rows, **self.edges, **vars(self.options))


@dataclass
class WorkerPool:
    """Worker processes, started when the first stage is worth it and kept for the next."""

    count: int
    _executor: ProcessPoolExecutor | None = field(default=None, repr=False)
    peak: int = 0

    def close(self) -> None:
        """End the workers at once: what they still compute is of no more use to anybody."""
        if self._executor:
            workers = list(self._executor._processes.values())
            self._executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.join()
            self._executor = None

    def run(
        self, call: StageCall, rows: pl.DataFrame, ctx: Context
    ) -> Iterator[tuple[int, int, Any]]:
        """Results by chunk: (number of its first row, its length, result), as they are done."""
        journalled = _journalled(call)
        start, size, rate = 0, JOURNALLED_CHUNK if journalled else FIRST_CHUNK, 0.0
        alone = self.count < 2 or call.stage.retries
        while start < len(rows):
            if not alone and rate and (len(rows) - start) / rate > WORTH_SPAWNING:
                yield from self._spread(call, rows, start, rate, ctx)
                return
            began = time.perf_counter()
            chunk = rows.slice(start, size)
            yield start, len(chunk), call(_within(ctx, start, len(chunk), len(rows)), chunk)
            took = max(time.perf_counter() - began, 1e-6)
            # The first chunk pays for imports as well.
            if start and not journalled:
                size = max(1, int(min(size * GROWTH, len(chunk) / took * CHUNK_SECONDS)))
            if start and took > TELLING:
                rate = len(chunk) / took
            start += len(chunk)

    def _spread(
        self, call: StageCall, rows: pl.DataFrame, start: int, rate: float, ctx: Context
    ) -> Iterator[tuple[int, int, Any]]:
        size = max(1, int(min(rate * CHUNK_SECONDS, (len(rows) - start) / self.count)))
        edges = _store_edges(call)
        pending: dict[Future[Answer], tuple[int, int]] = {}
        while start < len(rows) or pending:
            while start < len(rows) and len(pending) < self.count + 1:
                chunk = rows.slice(start, size)
                with _interrupts_held():
                    future = self._pool().submit(
                        _work, call.stage.name, call.options, edges, call.folder, chunk
                    )
                pending[future] = (start, len(chunk))
                start += len(chunk)
            # A signal that another thread took is seen only by a main thread that wakes.
            done, _ = wait(pending, timeout=WAKE, return_when=FIRST_COMPLETED)
            for future in done:
                result, peak, used = _answer(future)
                self.peak = max(self.peak, peak)
                ctx.count(**used)
                yield *pending.pop(future), result

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_die_with,
                initargs=(os.getpid(),),
            )
        return self._executor


def _journalled(call: StageCall) -> bool:
    """Whether all that takes time is requests to engines that only generate."""
    given = (getattr(call.options, option.name) for option in call.stage.options)
    engines = [model.engine for model in given if isinstance(model, LanguageModel)]
    return bool(engines) and "transformers" not in engines


def _within(ctx: Context, start: int, size: int, total: int) -> Context:
    """The context for one chunk: what the stage tells of it counts in the rows of the whole."""

    def report(done: float, of: float | None) -> None:
        if of:
            ctx.report(start + size * done / of, total)

    return replace(ctx, report=report)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from their first moment on: the mask is inherited."""
    resource_tracker.ensure_running()  # starting it later would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(future: Future[Answer]) -> Answer:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended from outside",
            why="the machine ran out of memory, or somebody killed it",
            hint="run again with fewer: --workers 1 (finished chunks are kept)",
        ) from error


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(ctypes, "CDLL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _store_edges(call: StageCall) -> dict[str, Any]:
    """Frames of the other edges as files: each worker reads them once, not with every chunk."""
    stored: dict[str, Any] = {}
    for edge in call.stage.edges[1:]:
        value = call.edges[edge.name]
        if edge.kind is DataKind.FILES or value is None:
            stored[edge.name] = value
        else:
            frames = value if isinstance(value, list) else [value]
            paths = [call.folder / f"{edge.name}-{i}.arrow" for i in range(len(frames))]
            for path, frame in zip(paths, frames, strict=True):
                frame.write_ipc(path)
            stored[edge.name] = (tuple(map(str, paths)), isinstance(value, list))
    return stored


@lru_cache(maxsize=8)
def _frames(paths: tuple[str, ...]) -> list[pl.DataFrame]:
    return [pl.read_ipc(path) for path in paths]


def _work(
    name: str, options: SimpleNamespace, stored: dict[str, Any], folder: Path, rows: pl.DataFrame
) -> Answer:
    """One chunk, in a worker: the result, this process's peak memory in bytes, its counters."""
    edges: dict[str, Any] = {}
    for edge, value in stored.items():
        if isinstance(value, tuple):
            frames = _frames(value[0])
            edges[edge] = frames if value[1] else frames[0]
        else:
            edges[edge] = value
    call = StageCall(find(name), options, edges, folder)
    context = Context(files=folder, work=folder, store=folder)
    return call(context, rows), peak_memory(), dict(context.counters)
