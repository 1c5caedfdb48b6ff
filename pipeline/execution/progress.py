"""Progress of a run: one live line on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

LOG_EVERY: Final = 10.0
"""Seconds between two log lines of one stage."""


class Progress(Protocol):
    """Where the runner reports what it does.

    Attributes:
        note: Prints one line beside the progress.
    """

    note: Callable[[str], None]

    def start(self, number: int, name: str, uses: str) -> None:
        """Report that a step begins.

        Args:
            number: Its position in the run, from 1, cached steps counted.
            name: Its name in the recipe.
            uses: The full name of its stage.
        """
        ...

    def update(self, done: float, total: float | None) -> None:
        """Report how far the step is, in its own unit; None for a total that is not known."""
        ...

    def finish(self, summary: str) -> None:
        """Report that the step has ended, with one line about its rows."""
        ...

    def close(self) -> None:
        """Report that the run has ended."""
        ...


def watch(total_stages: int) -> Progress:
    """The display that suits standard error: live on a terminal, else log lines."""
    return Live(total_stages) if sys.stderr.isatty() else LineProgress(total_stages)


class LineProgress:
    """One line when a step starts and one when it ends, and one every ten seconds between.

    Args:
        total_stages: Steps of the run.
        write: Prints a line; to standard error without it.
    """

    def __init__(self, total_stages: int, write: Callable[[str], None] | None = None) -> None:
        self.note = write or _to_stderr
        self._width = len(str(total_stages))
        self._total, self._stage, self._name = total_stages, 0, ""
        self._start = self._last_line = 0.0

    def start(self, number: int, name: str, uses: str) -> None:
        """Print the first line of a step.

        Args:
            number: Its position in the run, from 1.
            name: Its name in the recipe.
            uses: The full name of its stage.
        """
        self.begin(number, name)
        self.note(f"{self._prefix()} {name} ({uses})")

    def begin(self, number: int, name: str) -> None:
        """Start the clock of a step without printing a line."""
        self._stage, self._name = number, name
        self._start = self._last_line = time.monotonic()

    def update(self, done: float, total: float | None) -> None:
        """Print a line if the last one is ten seconds old."""
        now = time.monotonic()
        if now - self._last_line >= LOG_EVERY:
            self._last_line = now
            rate = done / max(now - self._start, 1e-9)
            remaining = (
                f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
            )
            of = f"/{total:,.0f}" if total else ""
            self.note(f"{self._prefix()} {self._name}: {done:,.0f}{of} ({rate:,.1f}/s{remaining})")

    def finish(self, summary: str) -> None:
        """Print the last line of a step."""
        self.note(f"{self._prefix()} {self._name}: {summary}")

    def close(self) -> None:
        """Do nothing: a log has nothing to close."""

    def _prefix(self) -> str:
        return f"[{self._stage:>{self._width}}/{self._total}]"


class Live:
    """A progress bar while a step runs, replaced by one line with its result.

    Args:
        total_stages: Steps of the run.
    """

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
        self._start = 0.0

    def start(self, number: int, name: str, uses: str) -> None:
        """Show the bar of a step.

        Args:
            number: Its position in the run, from 1.
            name: Its name in the recipe.
            uses: The full name of its stage.
        """
        self._lines.begin(number, name)
        self._start = time.monotonic()
        self._task = self._bars.add_task(f"{name} ({uses})", total=None, rate="")

    def update(self, done: float, total: float | None) -> None:
        """Move the bar."""
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._bars.update(self._task, completed=int(done), total=total, rate=f"{rate:,.1f}/s")

    def finish(self, summary: str) -> None:
        """Replace the bar by the last line of the step."""
        self._bars.remove_task(self._task)
        self._lines.finish(summary)

    def close(self) -> None:
        """Give the terminal back."""
        self._bars.stop()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
