"""A command that is killed at its n-th change of the file system: every instant that matters.

Counted are the changes that Python's audit events show (files opened for writing, folders made,
files and folders renamed and removed) from the first one below the store on. One process
imports the command line once, and runs the command in a child of its own for each kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.stage import ROOT
from tests.support.running import environment

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@contextmanager
def killer(store: Path, *arguments: str) -> Iterator[Callable[[int], bool]]:
    """A function that runs a verb until its n-th change.

    It returns whether the verb was killed before it ended by itself.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killing", str(store), *arguments],
        cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout

    def killed_at(number: int) -> bool:
        print(number, file=process.stdin, flush=True)
        code = int(process.stdout.readline())  # type: ignore[union-attr]
        assert code in (0, -signal.SIGKILL)
        return code != 0

    try:
        yield killed_at
    finally:
        process.stdin.close()
        process.wait()


def _kill_at(number: int, store: str) -> None:
    left, began = number, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, began
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
        else:
            changes = event in CHANGES
        if not changes:
            return
        began = began or (isinstance(arguments[0], str | Path) and store in str(arguments[0]))
        left -= began
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _serve(store: str, arguments: list[str]) -> None:
    from pipeline.cli.main import main
    from pipeline.execution import snapshot as snapshot  # what the verbs import first
    from pipeline.releases import collect as collect
    from pipeline.releases import create as create

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["pipeline", *arguments]
            _kill_at(int(line), store)
            main()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
