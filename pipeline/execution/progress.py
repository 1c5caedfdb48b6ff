"""Progress of a run: one live table on a terminal, log lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.terminal import visible_line

LOG_EVERY: Final = 10.0
"""Seconds between two log lines of one stage."""


@dataclass(frozen=True)
class StartedStep:
    """A step that begins.

    Args:
        number: Its position in the run, from 1, cached steps counted.
        name: Its name in the recipe.
        uses: The full name of its stage.
        models: The names of its language models.
        usage: What it has used so far of what a budget counts, for people.
        run_usage: The same for the whole run.
    """

    number: int
    name: str
    uses: str
    models: Sequence[str] = ()
    usage: Callable[[], str] = str
    run_usage: Callable[[], str] = str


class Progress(Protocol):
    """Where the runner reports what it does."""

    def reuse(self, number: int, summary: str) -> None:
        """Report that a step is cached.

        Args:
            number: Its position in the run, from 1.
            summary: One line about its rows.
        """
        ...

    def start(self, step: StartedStep) -> None:
        """Report that a step begins."""
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


def watch(steps: Sequence[str]) -> Progress:
    """The display that suits standard error: a live table on a terminal, else log lines.

    Args:
        steps: The names of the steps of the run, in order.
    """
    # Whoever sets TERM=dumb has a terminal that shows control sequences instead of obeying them.
    if sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        from pipeline.execution.live_table import LiveTable

        return LiveTable(steps)
    return LineProgress(len(steps))


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
        self._write = write or _to_stderr
        self._width = len(str(total_stages))
        self._total = total_stages
        self._step = StartedStep(0, "", "")
        self._speed, self._last_line = Speed(), 0.0

    def reuse(self, number: int, summary: str) -> None:
        """Print nothing: a log is about what a run does."""

    def start(self, step: StartedStep) -> None:
        """Print the first line of a step."""
        self._step, self._speed, self._last_line = step, Speed(), time.monotonic()
        self._write(f"{self._prefix()} {step.name} ({', '.join([step.uses, *step.models])})")

    def update(self, done: float, total: float | None) -> None:
        """Print a line if the last one is ten seconds old."""
        now = time.monotonic()
        self._speed.update(done, total, now)
        if now - self._last_line >= LOG_EVERY:
            self._last_line = now
            text = state(done, total, self._speed, self._step.usage)
            self._write(f"{self._prefix()} {self._step.name}: {text}")

    def finish(self, summary: str) -> None:
        """Print the last line of a step."""
        self._write(f"{self._prefix()} {self._step.name}: {summary}")

    def close(self) -> None:
        """Do nothing: a log has nothing to close."""

    def _prefix(self) -> str:
        return f"[{self._step.number:>{self._width}}/{self._total}]"


def _to_stderr(text: str) -> None:
    print(visible_line(text), file=sys.stderr, flush=True)
