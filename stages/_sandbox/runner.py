"""The first process of a sandbox: starts each program, limits it, and ends whatever it left.

It writes one line a run to its standard output, and is the only process that can. Programs are
forked from it: they start without a new interpreter. In a namespace it has process number 1, so
that no program can stop or kill it, and all processes end with it; its memory and files are closed
to programs of its own user by `PR_SET_DUMPABLE`. Without a namespace (`unsafe`) it adopts what its
programs leave behind.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import time

from stages._sandbox.harness import run_script, run_steps
from stages._sandbox.seccomp import refuse_calls

TYPE_CHECKING = False  # as in `typing`, whose import costs a third of a start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, NoReturn

ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
"""All that a program's environment holds beside `HOME` and `TMPDIR`, its scratch folder."""

_CHECKS: Final = 0.02
"""Seconds between two checks of processes and memory."""

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_SIGKILL: Final = 9
"""Here, since importing `signal` costs another third."""

_PAGE: Final = resource.getpagesize()


def main(job: Mapping[str, Any]) -> None:
    """Run a job.

    Args:
        job: `namespaces` (the arguments of `namespaces.enter`, or None), `scratch` (the folder
            that programs may write to), `namespaced` (whether this process has number 1),
            `limits`, `packages` (folders) and `runs`.
    """
    if job["namespaces"] is not None:
        from stages._sandbox.namespaces import enter

        enter(*job["namespaces"])
    _protect(job["namespaced"])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), hard))
    results = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for number, run in enumerate(job["runs"]):
        folder = os.path.join(job["scratch"], str(number))
        os.mkdir(folder)
        result = _Program(run, job, folder).result()
        _write(results, f"{result!a}\n".encode())
        _remove(folder)


def _protect(namespaced: bool) -> None:
    _prctl(_PR_SET_DUMPABLE, 0)
    if not namespaced:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _write(to: int, data: bytes) -> None:
    while data:
        data = data[os.write(to, data) :]


def _remove(folder: str) -> None:
    """Remove a folder with all that a program put there, whatever permissions it set."""
    os.chmod(folder, 0o700)
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            _remove(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(folder)


class _Program:
    """One run of a program, from its start until nothing is left of it."""

    def __init__(self, run: Mapping[str, Any], job: Mapping[str, Any], folder: str) -> None:
        self._run, self._job, self._folder = run, job, folder
        self._limits, self._namespaced = job["limits"], job["namespaced"]
        self._token = ""
        self._streams: dict[int, tuple[str, bytearray]] = {}
        self._cut: str | None = None
        self._peak = 0

    def result(self) -> dict[str, Any]:
        """What is known of the run: ends of its streams, exit, events, and what cut it short."""
        start = time.monotonic()
        pid, tokens = self._start()
        try:
            self._watch(pid, start + self._limits["seconds"])
        finally:
            status, usage = self._end(pid)
        collected = {name: bytes(content) for name, content in self._streams.values()}
        for descriptor in [*self._streams, *tokens]:
            os.close(descriptor)
        return collected | {
            "exit": os.waitstatus_to_exitcode(status),
            "cut": self._cut,
            "token": self._token,
            "seconds": time.monotonic() - start,
            "memory": max(self._peak, usage.ru_maxrss * 1024),
        }

    def _start(self) -> tuple[int, tuple[int, int]]:
        """Fork the program; its process, and the two ends of the pipe for the token."""
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "events")}
        tokens = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(self._run, self._job, self._folder, pipes, tokens)
        # Made after the fork: the program's process has no copy of it in its memory.
        self._token = os.urandom(16).hex()
        os.write(tokens[1], self._token.encode())
        for name, (source, into) in pipes.items():
            os.close(into)
            os.set_blocking(source, False)
            self._streams[source] = (name, bytearray())
        return pid, tokens

    def _watch(self, pid: int, deadline: float) -> None:
        """Collect the streams until the program ends, or has reached a limit."""
        poll, exited = select.poll(), os.pidfd_open(pid)
        for descriptor in (exited, *self._streams):
            poll.register(descriptor, select.POLLIN)
        check = time.monotonic() + _CHECKS
        try:
            while self._cut is None:
                ready = {descriptor for descriptor, _ in poll.poll(_CHECKS * 1000)}
                for descriptor in ready - {exited}:
                    if not self._collect(descriptor):
                        poll.unregister(descriptor)
                if exited in ready:
                    break
                if (now := time.monotonic()) >= deadline:
                    self._cut = "timeout"
                elif now >= check:
                    self._check_processes()
                    check = time.monotonic() + _CHECKS
        finally:
            os.close(exited)

    def _collect(self, descriptor: int) -> bool:
        """Read what a stream holds; False where it has ended, or holds too much."""
        content = self._streams[descriptor][1]
        limit = self._limits["output_bytes"]
        while len(content) <= limit:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            content += data
        del content[limit:]
        self._cut = self._cut or "output"
        return False

    def _check_processes(self) -> None:
        """More processes or memory than all of them together may have end the run."""
        count = total = 0
        for pid in _processes(self._namespaced):
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:
                    size, resident, *_ = map(int, file.read().split())
            except (OSError, ValueError):
                continue
            count += size > 0  # one that has ended is there until the run is over
            total += resident * _PAGE
        self._peak = max(self._peak, total)
        if count > self._limits["processes"]:
            self._cut = "processes"
        elif total > self._limits["memory_bytes"]:
            self._cut = "memory"

    def _end(self, pid: int) -> tuple[int, resource.struct_rusage]:
        """Kill what is left, the program first, and collect what the pipes still hold."""
        _kill(pid)
        _, status, usage = os.wait4(pid, 0)
        while True:
            if self._namespaced:
                _kill(-1)  # all processes of the namespace but this one
            else:
                for other in _processes(namespaced=False):
                    _kill(other)
            try:
                os.waitpid(-1, 0)  # orphans are this process's children
            except ChildProcessError:
                break
        for descriptor in self._streams:
            self._collect(descriptor)
        return status, usage


def _processes(namespaced: bool) -> list[int]:
    """The processes of programs: all others of the namespace, or all descendants."""
    if namespaced:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    descendants, waiting = [], [os.getpid()]
    while waiting:
        folder = f"/proc/{waiting.pop()}/task"
        try:
            for task in os.listdir(folder):
                with open(f"{folder}/{task}/children", "rb") as file:
                    children = [int(pid) for pid in file.read().split()]
                descendants += children
                waiting += children
        except OSError:
            continue
    return descendants


def _kill(pid: int) -> None:
    try:
        os.kill(pid, _SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _become(
    run: Mapping[str, Any],
    job: Mapping[str, Any],
    folder: str,
    pipes: Mapping[str, tuple[int, int]],
    tokens: tuple[int, int],
) -> NoReturn:
    """In the forked process: the limits and files of a program, then the program itself."""
    os.setsid()
    _prctl(_PR_SET_DUMPABLE, 1)  # of its own process a program sees what it does anywhere
    events = 200 + int.from_bytes(os.urandom(2), "big") % 700
    os.dup2(pipes["events"][1], events, inheritable=False)
    os.dup2(tokens[0], events + 1, inheritable=False)
    stdin = os.memfd_create("stdin")
    _write(stdin, run["stdin"].encode("utf-8", "surrogatepass"))
    os.lseek(stdin, 0, os.SEEK_SET)
    for number, descriptor in enumerate((stdin, pipes["stdout"][1], pipes["stderr"][1])):
        os.dup2(descriptor, number)
    os.closerange(3, events)
    os.closerange(events + 2, 1024)
    refuse_calls()
    _limit(job["limits"])
    _enter(run, job["packages"], folder)
    if run["kind"] == "command":
        os.execvp(run["command"][0], run["command"])
    if run["kind"] == "script":
        os.closerange(events, events + 2)
        run_script(run["source"])
        sys.exit(0)  # as an interpreter ends: exit handlers, threads
    write, read = os.write, os.read
    run_steps(
        run,
        lambda event: (write(events, f"{event!a}\n".encode()), None)[1],
        lambda: read(events + 1, 64).decode(),
    )
    os._exit(0)


def _limit(limits: Mapping[str, Any]) -> None:
    """Limits of each process of the program."""
    seconds = int(limits["seconds"]) + 1
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits["scratch_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _enter(run: Mapping[str, Any], packages: list[str], folder: str) -> None:
    """The program's folder with its files, its arguments and its environment."""
    for name, text in run["files"].items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(ENVIRONMENT, HOME=folder, TMPDIR=folder)
    sys.argv = ["program.py", *run["argv"]]
    sys.path[:] = [folder, *sys.path, *packages]
