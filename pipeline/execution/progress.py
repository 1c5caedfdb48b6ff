"""Progress of a run: one live line on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pipeline.terminal import VisibleStream, visible_line

LOG_EVERY: Final = 10.0
"""Seconds between two log lines of one stage."""


class Progress(Protocol):
    """Where the runner reports what it does.

    Attributes:
        note: Prints one line beside the progress.
    """

    note: Callable[[str], None]

    def start(
        self,
        number: int,
        name: str,
        uses: str,
        models: Sequence[str] = (),
        usage: Callable[[], str] = str,
    ) -> None:
        """Report that a step begins.

        Args:
            number: Its position in the run, from 1, cached steps counted.
            name: Its name in the recipe.
            uses: The full name of its stage.
            models: The names of its language models.
            usage: What it has used so far of what a budget counts, for people.
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


@dataclass
class Speed:
    """How fast a step is, from what it did since the first report.

    What the first report says was done may be an earlier run's work, and no measure. A step
    that reports less than before, or of another total, has come to its next part: that is
    measured by itself.

    Example:
        >>> speed = Speed()
        >>> speed.update(900, 1000, now=0.0)
        >>> speed.update(920, 1000, now=10.0)
        >>> speed.text()
        '2.0/s, 40 s left'
    """

    _start: float | None = None
    _first: float = 0.0
    _now: float = 0.0
    _done: float = 0.0
    _total: float | None = None

    def update(self, done: float, total: float | None, now: float) -> None:
        """Note a report.

        Args:
            done: What is done.
            total: What there is to do; None where that is not known.
            now: The time in seconds.
        """
        if self._start is None or done < self._done or total != self._total:
            self._start, self._first = now, done
        self._now, self._done, self._total = now, done, total

    def text(self) -> str:
        """The rate and the time left; empty until they are known."""
        seconds = self._now - (self._start or 0.0)
        rate = (self._done - self._first) / seconds if seconds > 0 else 0.0
        if not rate:
            return ""
        remaining = (self._total or 0.0) - self._done
        left = f", {duration(remaining / rate)} left" if remaining > 0 else ""
        return f"{rate:,.1f}/s{left}"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Example:
        >>> duration(42), duration(601), duration(3 * 3600 + 7 * 60 + 5)
        ('42 s', '10 min 1 s', '3 h 7 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def state(done: float, total: float | None, speed: Speed, usage: Callable[[], str]) -> str:
    """What a step has done, how fast it is, and what it used.

    Args:
        done: What is done.
        total: What there is to do; None where that is not known.
        speed: How fast it is.
        usage: Says what it used.

    Example:
        >>> state(1250, 5000, Speed(), lambda: "3 failed")
        '1,250/5,000 (3 failed)'
    """
    of = f"/{total:,.0f}" if total else ""
    details = ", ".join(filter(None, (speed.text(), usage())))
    return f"{done:,.0f}{of}" + (f" ({details})" if details else "")


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
        self._speed, self._last_line = Speed(), 0.0
        self._usage: Callable[[], str] = str

    def start(
        self,
        number: int,
        name: str,
        uses: str,
        models: Sequence[str] = (),
        usage: Callable[[], str] = str,
    ) -> None:
        """Print the first line of a step.

        Args:
            number: Its position in the run, from 1.
            name: Its name in the recipe.
            uses: The full name of its stage.
            models: The names of its language models.
            usage: What it has used so far.
        """
        self.begin(number, name, usage)
        self.note(f"{self._prefix()} {name} ({', '.join([uses, *models])})")

    def begin(self, number: int, name: str, usage: Callable[[], str] = str) -> None:
        """Remember which step is running, and since when.

        Args:
            number: Its position in the run, from 1.
            name: Its name in the recipe.
            usage: What it has used so far.
        """
        self._stage, self._name, self._usage = number, name, usage
        self._speed = Speed()
        self._last_line = time.monotonic()

    def update(self, done: float, total: float | None) -> None:
        """Print a line if the last one is ten seconds old."""
        now = time.monotonic()
        self._speed.update(done, total, now)
        if now - self._last_line >= LOG_EVERY:
            self._last_line = now
            text = state(done, total, self._speed, self._usage)
            self.note(f"{self._prefix()} {self._name}: {text}")

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
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        # The bar is drawn with control sequences: past the protected stream. What others print
        # meanwhile comes through rich, so it is made visible before.
        terminal = open(sys.stderr.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        console = Console(file=terminal, markup=False, emoji=False, highlight=False)
        self.note = lambda text: console.print(visible_line(text))
        self._lines = LineProgress(total_stages, self.note)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
        )
        self._bars.start()
        sys.stderr = VisibleStream(sys.stderr)
        self._task: Any = None
        self._speed = Speed()
        self._usage: Callable[[], str] = str

    def start(
        self,
        number: int,
        name: str,
        uses: str,
        models: Sequence[str] = (),
        usage: Callable[[], str] = str,
    ) -> None:
        """Show the bar of a step.

        Args:
            number: Its position in the run, from 1.
            name: Its name in the recipe.
            uses: The full name of its stage.
            models: The names of its language models.
            usage: What it has used so far.
        """
        if models:  # the bar has no room for their names
            self._lines.start(number, name, uses, models)
        else:
            self._lines.begin(number, name)
        self._speed, self._usage = Speed(), usage
        self._task = self._bars.add_task(visible_line(name), total=None, state="")

    def update(self, done: float, total: float | None) -> None:
        """Move the bar."""
        self._speed.update(done, total, time.monotonic())
        text = visible_line(state(done, total, self._speed, self._usage))
        self._bars.update(self._task, completed=int(done), total=total, state=text)

    def finish(self, summary: str) -> None:
        """Replace the bar by the last line of the step."""
        self._bars.remove_task(self._task)
        self._lines.finish(summary)

    def close(self) -> None:
        """Give the terminal back."""
        self._bars.stop()


def _to_stderr(text: str) -> None:
    print(visible_line(text), file=sys.stderr, flush=True)
