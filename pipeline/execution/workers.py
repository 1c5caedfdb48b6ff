"""Row-scope stages over chunks of rows, in this process or in several.

Workers are spawned, never forked: they hold neither the store's lock nor its
journal, and the kernel ends them when the runner dies, however it dies. A stage
with a model runs in this process, since its engine uses every core.
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
from pipeline.prompts import Replacement
from pipeline.recipe.discovery import find
from pipeline.stage import DataKind, Stage
from pipeline.terminal import protect

FIRST_CHUNK: Final = 32
GROWTH: Final = 8
CHUNK_SECONDS: Final = 10.0
"""Target time of a chunk; results are durable after each. It always takes less than 30 s."""

JOURNALLED_CHUNK: Final = 20_000
"""Rows per chunk where the journal keeps every response: with small chunks the engine would idle
while it waits for the last responses of each."""

MIN_PARALLEL_SECONDS: Final = 6.0
"""Seconds of remaining work below which starting processes costs more than it saves."""

MIN_RATE_SECONDS: Final = 0.25
"""Seconds that a chunk must take for its rate to count: a shorter one is mostly set-up."""

POLL_SECONDS: Final = 0.2
PR_SET_PDEATHSIG: Final = 1

ChunkResult = tuple[Any, int, dict[str, int]]
"""Of one chunk in a worker: the stage's output, the worker's peak memory in bytes, its counters."""


@dataclass(frozen=True)
class StageCall:
    """A row-scope stage ready to be called on chunks, here or in another process.

    Attributes:
        stage: The stage.
        options: Its options.
        edges: Its other inputs by name: frames, folders, lists of them, or None.
        folder: The step's work folder.
    """

    stage: Stage
    options: SimpleNamespace
    edges: dict[str, Any]
    folder: Path

    def __call__(self, ctx: Context, rows: pl.DataFrame) -> Any:
        edges = {self.stage.edges[0].name: rows, **self.edges}
        return self.stage.call(ctx, edges, vars(self.options))


@dataclass
class WorkerPool:
    """Worker processes, started for the first stage that is worth it and kept for the next.

    Attributes:
        count: How many processes.
        peak: Peak memory of any worker in bytes, for the caller to reset.
    """

    count: int
    _executor: ProcessPoolExecutor | None = field(default=None, repr=False)
    peak: int = 0

    def close(self) -> None:
        """Kill the workers: nobody needs what they still compute."""
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
        """Call a stage on chunks of rows.

        Args:
            call: The stage with its options and other inputs.
            rows: The rows of its first input.
            ctx: The context of the step.

        Yields:
            For each chunk as it is done: number of its first row, its length, the output.

        Raises:
            UserError: A worker was killed.
        """
        journalled = _journalled(call)
        start, size, rate = 0, JOURNALLED_CHUNK if journalled else FIRST_CHUNK, 0.0
        if _batched(call):
            size = len(rows)  # each chunk would wait for a batch of its own
        in_process = self.count < 2 or call.stage.retries
        while start < len(rows):
            if not in_process and rate and (len(rows) - start) / rate > MIN_PARALLEL_SECONDS:
                yield from self._run_in_workers(call, rows, start, rate, ctx)
                return
            start_time = time.perf_counter()
            chunk = rows.slice(start, size)
            yield start, len(chunk), call(_chunk_context(ctx, start, len(chunk), len(rows)), chunk)
            seconds = max(time.perf_counter() - start_time, 1e-6)
            # The first chunk includes the time for imports.
            if start and not journalled:
                size = max(1, int(min(size * GROWTH, len(chunk) / seconds * CHUNK_SECONDS)))
            if start and seconds > MIN_RATE_SECONDS:
                rate = len(chunk) / seconds
            start += len(chunk)

    def _run_in_workers(
        self, call: StageCall, rows: pl.DataFrame, start: int, rate: float, ctx: Context
    ) -> Iterator[tuple[int, int, Any]]:
        size = max(1, int(min(rate * CHUNK_SECONDS, (len(rows) - start) / self.count)))
        stage = call.stage
        known = (stage.name, stage.prompts, call.options, _store_edges(call), call.folder)
        pending: dict[Future[ChunkResult], tuple[int, int]] = {}
        while start < len(rows) or pending:
            while start < len(rows) and len(pending) < self.count + 1:
                chunk = rows.slice(start, size)
                with _interrupts_blocked():
                    future = self._pool().submit(_run_chunk, *known, chunk)
                pending[future] = (start, len(chunk))
                start += len(chunk)
            # A signal that another thread received is handled once the main thread wakes.
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                result, peak, used = _result_of(future)
                self.peak = max(self.peak, peak)
                ctx.count(**used)
                yield *pending.pop(future), result

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_exit_with_parent,
                initargs=(os.getpid(),),
            )
        return self._executor


def _models(call: StageCall) -> list[LanguageModel]:
    values = (getattr(call.options, option.name) for option in call.stage.options)
    return [model for model in values if isinstance(model, LanguageModel)]


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


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while processes start: they inherit the mask, and are never interrupted."""
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _result_of(future: Future[ChunkResult]) -> ChunkResult:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed",
            why="the machine ran out of memory, or somebody killed it",
            hint="run again with fewer: --workers 1 (finished chunks are kept)",
        ) from error


def _exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process with its parent; the parent handles Ctrl-C."""
    protect()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(ctypes, "CDLL") and os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _store_edges(call: StageCall) -> dict[str, Any]:
    """The other inputs with frames as files, which a worker reads once and not with every chunk."""
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


def _run_chunk(
    name: str,
    prompts: tuple[Replacement, ...],
    options: SimpleNamespace,
    stored: dict[str, Any],
    folder: Path,
    rows: pl.DataFrame,
) -> ChunkResult:
    """Call a stage on one chunk, in a worker.

    Args:
        name: The stage's full name.
        prompts: What the recipe puts in the place of its prompts.
        options: Its options.
        stored: Its other inputs, as `_store_edges` gives them.
        folder: The step's work folder.
        rows: The chunk.
    """
    edges: dict[str, Any] = {}
    for edge, value in stored.items():
        if isinstance(value, tuple):
            frames = _frames(value[0])
            edges[edge] = frames if value[1] else frames[0]
        else:
            edges[edge] = value
    call = StageCall(replace(find(name), prompts=prompts), options, edges, folder)
    context = Context(files=folder, work=folder, store=folder)
    return call(context, rows), peak_memory(), dict(context.counters)
