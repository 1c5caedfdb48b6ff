"""Run untrusted programs in sandboxes, several at a time, and say how each one ended.

    ended = execute([[Run("script", "print(6 * 7)")]], Limits(), isolation())
    ended[0][0].stdout  # "42\\n"

A job is a list of runs that share a sandbox of their own, one after the other: between two runs
all processes are killed, and the scratch folder is new. Results are in the order of the jobs,
however many run at a time. What a program writes is evidence; only `Ended` is a fact.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from pipeline.types import Count, PositiveFloat, option_group
from stages._sandbox.isolation import (
    ENVIRONMENT,
    SCRATCH,
    Isolation,
    command,
    package_folders,
    request,
)

_GRACE = 10.0
"""Seconds that a sandbox may take beyond those of its programs."""


@option_group
class Limits:
    """What a program may use.

    Args:
        seconds: Seconds by the clock from start to end.
        memory_mb: Memory of each of its processes (address space), and of all together.
        processes: Processes at a time.
        scratch_mb: Size of its scratch folder, and of a file.
        output_kb: Size of its standard output, and of its standard error.
    """

    seconds: PositiveFloat = 10
    memory_mb: Count = 512
    processes: Count = 16
    scratch_mb: Count = 16
    output_kb: Count = 256

    def in_bytes(self) -> dict[str, float]:
        """The limits as the sandbox reads them."""
        return {
            "seconds": self.seconds,
            "memory_bytes": self.memory_mb << 20,
            "processes": self.processes,
            "scratch_bytes": self.scratch_mb << 20,
            "output_bytes": self.output_kb << 10,
        }


@dataclass(frozen=True)
class Run:
    """One run of a program.

    Args:
        kind: `script`: Python, as a program is started; `steps`: Python, loaded as a module
            and then put through steps; `command`: any program, by its command line.
        source: The Python source.
        stdin: What it reads from its standard input.
        argv: Its arguments.
        files: Texts that lie in its scratch folder, by name.
        steps: Pairs of `setup` or `case` and a source; see `harness`.
        value: What steps read as `__value__`.
        imports: Modules that are restored after the program is loaded.
        command: The command line of a `command`.
    """

    kind: Literal["script", "steps", "command"]
    source: str = ""
    stdin: str = ""
    argv: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[tuple[str, str]] = ()
    value: str | None = None
    imports: Sequence[str] = ()
    command: Sequence[str] = ()


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        cut: What cut it short: a limit (`timeout`, `memory`, `output`, `processes`), or `lost`
            where the sandbox itself ended; None where the program ended by itself.
        exit: Its exit code, negative for a signal.
        stdout: Its standard output.
        stderr: Its standard error.
        events: What the harness sent, as far as it is readable; anything in it may be forged
            but for what `is_complete` says.
        is_complete: Whether the harness came to the end of its steps, by the number that only
            it was sent.
        seconds: Time by the clock.
        memory: The most memory, in bytes.
    """

    cut: str | None
    exit: int
    stdout: str
    stderr: str
    events: list[tuple[Any, ...]]
    is_complete: bool
    seconds: float
    memory: int


def execute(
    jobs: Sequence[Sequence[Run]],
    limits: Limits,
    isolation: Isolation,
    packages: bool = False,
    workers: int = 1,
) -> list[list[Ended]]:
    """Run all jobs.

    Args:
        jobs: Runs that share a sandbox, for each job.
        limits: Of each run.
        isolation: What isolates them: `isolation()`.
        packages: Whether programs may import the packages of this environment.
        workers: Sandboxes at a time.

    Returns:
        How each run of each job ended, in their order.
    """
    folders = package_folders() if packages else []
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(lambda job: _execute(job, limits, isolation, folders), jobs))


def _execute(
    job: Sequence[Run], limits: Limits, isolation: Isolation, packages: Sequence[str]
) -> list[Ended]:
    """All runs of a job; those that a sandbox took with it are tried once more in another."""
    ended: list[Ended] = []
    is_second = False
    while len(ended) < len(job):
        lines, errors = _sandboxed(job[len(ended) :], limits, isolation, packages)
        ended += map(_ended, lines)
        if not lines and is_second:
            ended.append(Ended("lost", 1, "", errors[-1000:], [], False, 0.0, 0))
        is_second = not lines and not is_second
    return ended


def _sandboxed(
    job: Sequence[Run], limits: Limits, isolation: Isolation, packages: Sequence[str]
) -> tuple[list[str], str]:
    """A line for each run that a sandbox came to the end of, and its own errors."""
    size, seconds = limits.scratch_mb << 20, len(job) * limits.seconds + _GRACE
    plain = {"limits": limits.in_bytes(), "runs": [_plain(run) for run in job]}
    with ExitStack() as stack:
        scratch = SCRATCH
        if isolation.kind == "limits":
            scratch = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
        message = request(isolation, plain, packages, size, scratch)
        output, errors = _communicate(command(isolation, packages, size), message, seconds)
    # One name for the scratch folder, whatever isolates: messages must not differ by it.
    lines = output.replace(scratch.encode(), SCRATCH.encode()).split(b"\n")[:-1]
    return [line.decode() for line in lines[: len(job)]], errors.decode(errors="replace")


def _plain(run: Run) -> dict[str, Any]:
    return vars(run) | {
        "files": dict(run.files),
        "steps": [tuple(step) for step in run.steps],
        "imports": list(run.imports),
        "command": list(run.command),
    }


def _communicate(line: Sequence[str], message: bytes, seconds: float) -> tuple[bytes, bytes]:
    """Run a sandbox to its end, or kill it after that time."""
    with subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(message, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _ended(line: str) -> Ended:
    result = ast.literal_eval(line)
    events = [_event(text) for text in result["events"].split(b"\n")[:-1]]
    return Ended(
        result["cut"],
        result["exit"],
        result["stdout"].decode("utf-8", "replace"),
        result["stderr"].decode("utf-8", "replace"),
        [event for event in events if event is not None],
        bool(events) and events[-1] == ("end", result["token"]),
        result["seconds"],
        result["memory"],
    )


def _event(text: bytes) -> tuple[Any, ...] | None:
    """An event; None for anything that is none."""
    try:
        event = ast.literal_eval(text.decode("ascii"))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return event if isinstance(event, tuple) and event else None
