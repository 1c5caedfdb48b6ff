"""The command line in this process, for tests that start it hundreds of times."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pipeline.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command line ended.

    Attributes:
        code: Its exit code.
        stdout: What it printed.
        stderr: Its errors and progress, with the traceback of a bug.
        seconds: The processor time that it took: the clock's follows others' load.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float


class _TooSlow(BaseException):
    """The command line ran out of its time."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends what takes longer, by the clock: what waits for ever takes no processor time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooSlow(f"more than {seconds} s")

    before: Any = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(*arguments: str, limit: float = 60.0) -> Done:
    """What `python -m pipeline ...` would do, without a process of its own.

    Args:
        arguments: The words of the command line.
        limit: Seconds after which it ends with a traceback.
    """
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    argv, path, on_term = sys.argv, list(sys.path), signal.getsignal(signal.SIGTERM)
    start = time.process_time()
    sys.argv = ["pipeline", *arguments]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited(limit):
            main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        code = 1
        err.write(traceback.format_exc())
    finally:
        sys.argv, sys.path[:] = argv, path
        signal.signal(signal.SIGTERM, on_term)
    seconds = time.process_time() - start
    return Done(int(code), _text(out), _text(err), seconds)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8", "replace")
