"""A stage that trains in several processes at once, each of which calls it with the same inputs.

They are spawned here, find each other by a store that this process holds (at a port that the
system chooses), and die with it. The first of them fills the step's files and reports progress;
the others work in folders of their own, which are thrown away. Once one of them fails or is
killed the others are killed too, so that none waits for it.

A launcher such as torchrun may have started this process as one of several: then the stage is
called here, in each of them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.backends.processes import exit_with_parent, interrupts_blocked
from pipeline.execution.launched import is_first, launched
from pipeline.prompts import Replacement
from pipeline.recipe.discovery import find
from pipeline.stage import Stage

GRACE: Final = 2.0
"""Seconds in which processes may still say why they failed, once one of them has."""


@dataclass(frozen=True)
class _Call:
    """A call of a stage, as each process gets it."""

    stage: str
    prompts: tuple[Replacement, ...]
    edges: Mapping[str, Any]
    options: SimpleNamespace
    folders: tuple[Path, Path, Path]


@dataclass(frozen=True)
class _Failure:
    """Why a process failed: a mistake of the user's, or the traceback of a bug."""

    error: UserError | None
    text: str


def call_stage(
    stage: Stage, ctx: Context, edges: Mapping[str, Any], options: SimpleNamespace
) -> Any:
    """Call a stage, in as many processes as `processes` of its module says, else in this one.

    Args:
        stage: The stage.
        ctx: Its context.
        edges: Its inputs by edge.
        options: Its options.

    Raises:
        UserError: It raised one, or one of its processes was killed.
    """
    if launched() > 1:
        with first_alone(ctx) as own:
            return stage.call(own, edges, vars(options))
    processes = getattr(sys.modules[stage.function.__module__], "processes", None)
    size = 1 if processes is None else processes(options)
    if size == 1:
        return stage.call(ctx, edges, vars(options))
    folders = (ctx.files, ctx.work, ctx.store)
    _run(_Call(stage.name, stage.prompts, edges, options, folders), size, ctx)
    return None


@contextmanager
def first_alone(ctx: Context) -> Iterator[Context]:
    """The context for this process of several: the first one's is the step's own.

    Args:
        ctx: The context of the step. The others get folders for files that are thrown away, and
            report to nobody.
    """
    if is_first():
        yield ctx
        return
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="gristmill-rank-") as folder:
        yield Context(Path(folder), ctx.work, ctx.store, budget=ctx.budget)


def _run(call: _Call, size: int, ctx: Context) -> None:
    """Call the stage in processes, and end them all however it ends."""
    rendezvous = meeting_point()
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        with interrupts_blocked():
            for rank in range(size):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (call, rank, size, rendezvous.port, sender, os.getpid())
                process = context.Process(target=_member, args=arguments)
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
        _follow(processes, pipes, ctx)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def meeting_point() -> Any:
    """A store of torch at which processes find each other, at a port that the system chooses.

    By itself torch would listen on every interface of the machine.
    """
    from torch import distributed

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    torch_distributed: Any = distributed
    own = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
    return torch_distributed.TCPStore("127.0.0.1", port, **own)


def _follow(processes: Sequence[Any], pipes: Sequence[Connection], ctx: Context) -> None:
    """Pass on what the processes report until all are done.

    Raises:
        UserError: One raised it, or was killed.
        RuntimeError: One failed otherwise.
    """
    failures: dict[int, _Failure] = {}
    open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
    end = float("inf")
    while open_pipes and time.monotonic() < end:
        for pipe in wait(list(open_pipes), timeout=GRACE):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                rank = open_pipes.pop(pipe)
                processes[rank].join()
                if processes[rank].exitcode:
                    end = min(end, time.monotonic() + GRACE)
                continue
            if isinstance(message, _Failure):
                failures[open_pipes[pipe]] = message
            elif isinstance(message, dict):
                ctx.count(**message)
            else:
                ctx.progress(*message)
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise _error(codes, failures)


def _error(codes: Sequence[int | None], failures: Mapping[int, _Failure]) -> Exception:
    """What ended the processes: a mistake, a kill, a bug, in this order."""
    for failure in failures.values():
        if failure.error is not None:
            return failure.error
    for rank, code in enumerate(codes):
        if code and code < 0:
            return UserError(
                f"process {rank + 1} of the {len(codes)} of a training was killed (signal {-code})",
                why="the machine ran out of memory, or somebody killed it",
                hint="run again: it goes on from its last checkpoint",
            )
    texts = [f"process {rank + 1}:\n{failure.text}" for rank, failure in sorted(failures.items())]
    return RuntimeError("\n".join(["a process of a training failed", *texts]))


def _member(
    call: _Call, rank: int, size: int, port: int, pipe: Connection, parent: int
) -> None:  # pragma: no cover
    """One of the processes."""
    exit_with_parent(parent)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // size)),
    }
    if loopback := {"lo", "lo0"}.intersection(name for _, name in socket.if_nameindex()):
        os.environ["GLOO_SOCKET_IFNAME"] = loopback.pop()
    ctx = Context(*call.folders, report=lambda done, total: pipe.send((done, total)))
    try:
        stage = replace(find(call.stage), prompts=call.prompts)
        with first_alone(ctx) as own:
            stage.call(own, call.edges, vars(call.options))
        pipe.send(dict(ctx.counters))
    except UserError as error:
        pipe.send(_Failure(error, ""))
        os._exit(2)
    except BaseException:
        pipe.send(_Failure(None, traceback.format_exc()))
        os._exit(1)
