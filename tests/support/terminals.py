"""Commands in a pseudo-terminal of a chosen size, as a person would see them."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass

from pipeline.stage import ROOT
from tests.support.running import environment


@dataclass(frozen=True)
class Shown:
    """What a command drew.

    Attributes:
        code: Its exit code.
        raw: Everything that it wrote, control sequences included.
    """

    code: int
    raw: str


def in_terminal(
    *arguments: str,
    columns: int = 80,
    lines: int = 24,
    interrupt_at: str | None = None,
    stop: signal.Signals = signal.SIGINT,
    **more: str,
) -> Shown:
    """`python -m pipeline ...` to its end on a terminal.

    Args:
        arguments: The words of the command line.
        columns: The terminal's.
        lines: The terminal's.
        interrupt_at: Stop the command as soon as it has written this.
        stop: The signal for that.
        more: Variables of the environment.
    """
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    sized = {k: v for k, v in environment(**more).items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env={"TERM": "xterm-256color", **sized, **more},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    raw = b""
    while part := _read(ours):
        raw += part
        if interrupt_at and interrupt_at.encode() in raw:
            os.killpg(process.pid, stop)
            interrupt_at = None
    os.close(ours)
    return Shown(process.wait(), raw.decode("utf-8", "replace"))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the last process has closed the terminal
        return b""
