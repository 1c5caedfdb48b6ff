"""The live table of a run: a line for every step, drawn in place on a terminal.

A thread draws it twice a second, so that a step's time goes on where the step reports
nothing, and the run itself never waits for the terminal. The cursor stays visible: a run that
is stopped or killed leaves nothing behind that would have to be repaired. Whatever others
print to standard error meanwhile appears above the table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pipeline.execution.progress import Speed, StartedStep, duration, state
from pipeline.terminal import VisibleStream, visible_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.text import Text

DRAWN_PER_SECOND: Final = 2
BAR: Final = 12
"""Columns of the bar of the running step."""

STATE: Final = 8
MAX_NAME: Final = 24
RESERVED_LINES: Final = 3
"""Lines of the terminal that the table leaves free: its title, what is printed, the cursor."""

State = Literal["waiting", "running", "cached", "done"]
STYLES: Final[dict[State, str]] = {
    "waiting": "dim", "running": "bold cyan", "cached": "dim green", "done": "green",
}  # fmt: skip


@dataclass
class _Line:
    """A step's line.

    Attributes:
        name: The step's name.
        state: What it is doing.
        summary: What became of its rows, once it has ended.
    """

    name: str
    state: State = "waiting"
    summary: str = ""


class LiveTable:
    """A table of all steps: done, running with rate and time left, waiting.

    It goes when all steps are done; after an error or an interruption its last state stays,
    and says where the run stood.

    Args:
        steps: The names of the steps of the run, in order.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self._lines = [_Line(visible_line(name)) for name in steps]
        self._name_width = min(MAX_NAME, max((len(line.name) for line in self._lines), default=0))
        self._begin = time.monotonic()
        self._step, self._step_begin = StartedStep(1, "", ""), self._begin
        self._done = 0.0
        self._total: float | None = None
        self._speed = Speed()
        self._live: Live | None = None

    def reuse(self, number: int, summary: str) -> None:
        """Show a step as cached, unless it was computed just now."""
        if self._lines[number - 1].state != "done":
            self._end(number, "cached", summary)

    def start(self, step: StartedStep) -> None:
        """Show a step as running; the first one brings the table up."""
        self._step, self._step_begin = step, time.monotonic()
        self._done, self._total, self._speed = 0.0, None, Speed()
        self._lines[step.number - 1].state = "running"
        if self._live is None:
            self._live = _live(self)

    def update(self, done: float, total: float | None) -> None:
        """Note how far the step is; the next drawing shows it."""
        self._speed.update(done, total, time.monotonic())
        self._done, self._total = done, total

    def finish(self, summary: str) -> None:
        """Show the running step as done."""
        self._end(self._step.number, "done", summary)

    def _end(self, number: int, how: State, summary: str) -> None:
        line = self._lines[number - 1]
        line.state, line.summary = how, visible_line(summary)

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.transient = all(line.state in ("cached", "done") for line in self._lines)
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The table as it is now, as high as the terminal at most."""
        from rich.text import Text

        yield self._title()
        first, last = self._window(console.size.height - RESERVED_LINES)
        if first:
            yield Text(f" {first:,} more are done", style="dim")
        for line in self._lines[first:last]:
            yield self._text(line, options.ascii_only)
        if last < len(self._lines):
            yield Text(f" {len(self._lines) - last:,} more wait", style="dim")

    def _window(self, room: int) -> tuple[int, int]:
        """The lines that are shown where not all fit: the running step with what is around it."""
        count = len(self._lines)
        if count <= room:
            return 0, count
        shown = max(1, room - 2)  # two lines say how many are not shown
        first = min(max(0, self._step.number - 1 - shown // 2), count - shown)
        return first, first + shown

    def _title(self) -> Text:
        from rich.text import Text

        ended = sum(line.state in ("cached", "done") for line in self._lines)
        elapsed = duration(time.monotonic() - self._begin)
        parts = [f"{ended} of {len(self._lines)} stages", elapsed, self._step.run_usage()]
        title = visible_line(", ".join(filter(None, parts)))
        return Text(title, style="bold", no_wrap=True, overflow="ellipsis")

    def _text(self, line: _Line, ascii_only: bool) -> Text:
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis")
        name = Text(f" {line.name}")
        name.truncate(self._name_width + 1, overflow="ellipsis", pad=True)
        text.append_text(name).append("  ")
        text.append(line.state.ljust(STATE), style=STYLES[line.state]).append("  ")
        if line.state == "running":
            self._append_progress(text, "-" if ascii_only else "━")
        else:
            text.append(line.summary, style="" if line.state == "done" else "dim")
        return text

    def _append_progress(self, text: Text, mark: str) -> None:
        """How far the running step is: a bar, numbers, rate, time left and its models."""
        usage, models = self._step.usage, self._step.models
        if self._done or self._total:
            if self._total:
                filled = min(BAR, int(BAR * self._done / self._total))
                text.append(mark * filled, style="cyan").append(mark * (BAR - filled), style="dim")
                text.append(" ")
            text.append(visible_line(state(self._done, self._total, self._speed, usage)))
        else:
            elapsed = duration(time.monotonic() - self._step_begin)
            text.append(visible_line(", ".join(filter(None, [elapsed, usage()]))))
        if models:
            text.append(visible_line(f"  {', '.join(models)}"), style="dim")


def _live(table: LiveTable) -> Live:
    """A display of the table on standard error, which has begun to draw."""
    from rich.console import Console
    from rich.live import Live

    # It is drawn with control sequences: past the protected stream. What others print
    # meanwhile comes through rich, so it is made visible before.
    terminal = open(sys.stderr.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    console = Console(file=terminal, markup=False, emoji=False, highlight=False)
    live = Live(
        table,
        console=console,
        refresh_per_second=DRAWN_PER_SECOND,
        redirect_stdout=False,
        vertical_overflow="crop",
    )
    live.start(refresh=True)
    console.show_cursor(True)
    sys.stderr = VisibleStream(sys.stderr)
    return live
