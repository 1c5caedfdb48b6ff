"""Progress as people and logs want it: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

LOG_EVERY: Final = 10.0
"""Seconds between two lines of a stage in a log."""


class Progress(Protocol):
    """Whoever watches a run."""

    note: Callable[[str], None]

    def start(self, place: int, name: str, uses: str) -> None:
        """A stage begins: the so-manieth of the run's, cached ones counted."""
        ...

    def update(self, done: float, total: float | None) -> None:
        """The stage is so far, of so much if that is known."""
        ...

    def finish(self, told: str) -> None:
        """The stage has ended, with this result."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


def watch(total_stages: int) -> Progress:
    """The right display for where standard error goes."""
    return Live(total_stages) if sys.stderr.isatty() else LineProgress(total_stages)


class LineProgress:
    """One line when a stage starts and ends, and now and then between."""

    def __init__(self, total_stages: int, write: Callable[[str], None] | None = None) -> None:
        self.note = write or _to_stderr
        self._width = len(str(total_stages))
        self._total, self._stage, self._name = total_stages, 0, ""
        self._began = self._told = 0.0

    def start(self, place: int, name: str, uses: str) -> None:
        self.begin(place, name)
        self.note(f"{self._prefix()} {name} ({uses})")

    def begin(self, place: int, name: str) -> None:
        """Take note of the stage without a word."""
        self._stage, self._name = place, name
        self._began = self._told = time.monotonic()

    def update(self, done: float, total: float | None) -> None:
        now = time.monotonic()
        if now - self._told >= LOG_EVERY:
            self._told = now
            rate = done / max(now - self._began, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            of = f"/{total:,.0f}" if total else ""
            self.note(f"{self._prefix()} {self._name}: {done:,.0f}{of} ({rate:,.1f}/s{left})")

    def finish(self, told: str) -> None:
        self.note(f"{self._prefix()} {self._name}: {told}")

    def close(self) -> None:
        """Nothing is open."""

    def _prefix(self) -> str:
        return f"[{self._stage:>{self._width}}/{self._total}]"


class Live:
    """A line that moves while a stage runs and stays as its result."""

    def __init__(self, total_stages: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True, highlight=False)
        self.note = lambda text: console.print(text, markup=False)
        self._lines = LineProgress(total_stages, self.note)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._bars.start()
        self._task: Any = None
        self._began = 0.0

    def start(self, place: int, name: str, uses: str) -> None:
        self._lines.begin(place, name)
        self._began = time.monotonic()
        self._task = self._bars.add_task(f"{name} ({uses})", total=None, rate="")

    def update(self, done: float, total: float | None) -> None:
        rate = done / max(time.monotonic() - self._began, 1e-9)
        self._bars.update(self._task, completed=int(done), total=total, rate=f"{rate:,.1f}/s")

    def finish(self, told: str) -> None:
        self._bars.remove_task(self._task)
        self._lines.finish(told)

    def close(self) -> None:
        self._bars.stop()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
