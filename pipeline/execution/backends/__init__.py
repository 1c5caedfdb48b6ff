"""Where the chunks of row-scope stages are computed: in processes here, on Ray, under Slurm.

A backend computes and nothing else: the driver alone cuts chunks, takes results in, caches,
commits and accounts. So it does not matter where a chunk was computed, or how often.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.peak_memory import peak_memory
from pipeline.prompts import Replacement
from pipeline.recipe.code_hash import code_hash
from pipeline.recipe.discovery import find
from pipeline.stage import Stage

ChunkResult = tuple[Any, int, dict[str, int]]
"""Of one chunk in a worker: the stage's output, the worker's peak memory in bytes, its counters."""


class ChunkLost(Exception):
    """Whoever computed a chunk is gone: it ran out of memory, was killed, or its machine died.

    Args:
        why: What is known of it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


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


@dataclass(frozen=True)
class RemoteStage:
    """A stage as another machine finds it again.

    Attributes:
        name: Its full name.
        code: Hash of its code here.
        prompts: What the recipe puts in the place of its prompts.
        options: Its options.
    """

    name: str
    code: str
    prompts: tuple[Replacement, ...]
    options: SimpleNamespace

    @classmethod
    def of(cls, call: StageCall) -> RemoteStage:
        """The stage of a call.

        Args:
            call: The call.
        """
        stage = call.stage
        return cls(stage.name, code_hash(stage), stage.prompts, call.options)

    def run(self, edges: dict[str, Any], folder: Path, rows: pl.DataFrame) -> ChunkResult:
        """Call the stage on a chunk, in a process that has nothing of the driver's.

        Args:
            edges: Its other inputs.
            folder: Where it may write.
            rows: The chunk.

        Raises:
            UserError: The code here is not the driver's.
        """
        stage = find(self.name)
        if _code_here(self.name) != self.code:
            raise UserError(
                f"{os.uname().nodename} has other code of {self.name}",
                hint="every machine needs the same checkout at the same path",
            )
        call = StageCall(replace(stage, prompts=self.prompts), self.options, edges, folder)
        context = Context(files=folder, work=folder, store=folder)
        return call(context, rows), peak_memory(), dict(context.counters)


@lru_cache
def _code_here(name: str) -> str:
    return code_hash(find(name))


class Backend(Protocol):
    """Something that computes chunks.

    Attributes:
        slots: How many chunks it computes at once.
        loads_embedders: Whether its workers load embedders, each its own.
        asks_models: Whether steps that ask language models may run beside it, in the driver.
        chunk_seconds: How long a chunk should take there.
    """

    slots: int
    asks_models: bool
    loads_embedders: bool
    chunk_seconds: float

    def begun(self, call: StageCall) -> int | None:
        """The rows of a chunk where a driver before this one began the call; None otherwise.

        Args:
            call: The call.
        """

    def prepare(self, call: StageCall, size: int) -> Any:
        """What every chunk of a call shares, where its workers read it.

        Args:
            call: The call.
            size: The rows of a chunk.
        """

    def submit(self, prepared: Any, chunk: pl.DataFrame) -> Any:
        """Begin to compute a chunk; a handle of it.

        Args:
            prepared: What `prepare` gave.
            chunk: The rows.
        """

    def wait(self, handles: Iterable[Any], seconds: float) -> list[Any]:
        """The handles that are done, after at most some seconds.

        Args:
            handles: Those to wait for.
            seconds: How long.
        """

    def result(self, handle: Any) -> ChunkResult:
        """The result of a chunk that is done.

        Args:
            handle: Its handle.

        Raises:
            ChunkLost: There is none, and it may be tried again.
            UserError: What the stage raised.
        """

    def close(self) -> None:
        """End all workers: nobody needs what they still compute."""
