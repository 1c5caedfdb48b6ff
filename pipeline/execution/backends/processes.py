"""Chunks in processes of this machine.

Workers are spawned, never forked: they hold neither the store's lock nor its
journal, and the kernel ends them when the runner dies, however it dies.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.backends import ChunkResult, RemoteStage, StageCall
from pipeline.stage import DataKind
from pipeline.terminal import protect

PR_SET_PDEATHSIG: Final = 1

Prepared = tuple[RemoteStage, dict[str, Any], Path]


@dataclass
class Processes:
    """Worker processes, started for the first stage that is worth it and kept for the next.

    Args:
        slots: How many processes.

    Attributes:
        asks_models: Steps that ask language models run in the driver.
        loads_embedders: A stage with a model runs in the runner: its engine uses every core.
        chunk_seconds: How long a chunk should take; it always takes less than 30 s.
    """

    slots: int
    asks_models: bool = field(default=True, init=False)
    loads_embedders: bool = field(default=False, init=False)
    chunk_seconds: float = field(default=10.0, init=False)
    _executor: ProcessPoolExecutor | None = field(default=None, init=False, repr=False)

    def begun(self, call: StageCall) -> int | None:  # noqa: ARG002
        """The rows of a chunk where a driver before this one began the call; None otherwise.

        Args:
            call: The call.
        """
        return None

    def prepare(self, call: StageCall, size: int) -> Prepared:  # noqa: ARG002
        """The stage, and its other inputs as files, which a worker reads once.

        Args:
            call: The call.
            size: The rows of a chunk.
        """
        return RemoteStage.of(call), _store_edges(call), call.folder

    def submit(self, prepared: Prepared, chunk: pl.DataFrame) -> Future[ChunkResult]:
        """Begin to compute a chunk; a handle of it.

        Args:
            prepared: What `prepare` gave.
            chunk: The rows.
        """
        with interrupts_blocked():
            return self._pool().submit(_run_chunk, *prepared, chunk)

    def wait(self, handles: Iterable[Any], seconds: float) -> list[Any]:
        """The handles that are done, after at most some seconds.

        Args:
            handles: Those to wait for.
            seconds: How long.
        """
        done, _ = wait(handles, timeout=seconds, return_when=FIRST_COMPLETED)
        return list(done)

    def result(self, handle: Future[ChunkResult]) -> ChunkResult:
        """The result of a chunk that is done.

        Args:
            handle: Its handle.

        Raises:
            UserError: A worker was killed, or what the stage raised.
        """
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed",
                why="the machine ran out of memory, or somebody killed it",
                hint="run again with fewer: --workers 1 (finished chunks are kept)",
            ) from error

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

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.slots,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=exit_with_parent,
                initargs=(os.getpid(),),
            )
        return self._executor


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while processes start: they inherit the mask, and are never interrupted."""
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def exit_with_parent(parent: int) -> None:
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


def _read_edges(stored: dict[str, Any]) -> dict[str, Any]:
    """The other inputs as they were.

    Args:
        stored: As `_store_edges` gives them.
    """
    edges: dict[str, Any] = {}
    for edge, value in stored.items():
        if isinstance(value, tuple):
            frames = _frames(value[0])
            edges[edge] = frames if value[1] else frames[0]
        else:
            edges[edge] = value
    return edges


def _run_chunk(
    stage: RemoteStage, stored: dict[str, Any], folder: Path, rows: pl.DataFrame
) -> ChunkResult:
    """Call a stage on one chunk, in a worker.

    Args:
        stage: The stage.
        stored: Its other inputs, as `_store_edges` gives them.
        folder: The step's work folder.
        rows: The chunk.
    """
    return stage.run(_read_edges(stored), folder, rows)
