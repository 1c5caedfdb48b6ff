"""Rows on a terminal: a card for each, in colours where the terminal has them.

Where evidence names another row, the two stand side by side. The text of a row is data: all
control characters are shown and none is carried out, whatever they are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final

from pipeline.execution.row_parts import Kind, RowParts, TextPart
from pipeline.terminal import visible, visible_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

READABLE: Final = 100
"""Columns beyond which text is tiring to read."""

SIDE_BY_SIDE: Final = 72
"""Columns from which two texts stand beside each other."""

STYLES: Final[dict[Kind, str]] = {
    "system": "magenta", "user": "bold cyan", "assistant": "bold green", "tool": "yellow",
    "reasoning": "dim green", "call": "yellow", "text": "bold", "note": "dim",
}  # fmt: skip


def print_cards(rows: Iterable[RowParts], total: int) -> None:
    """Print rows on standard output, each as soon as it is there.

    Args:
        rows: The rows.
        total: How many there are.
    """
    # Control sequences go past the protected stream, which would show them.
    is_terminal = sys.stdout.isatty()
    stream: IO[str] = (
        open(sys.stdout.fileno(), "w", encoding=sys.stdout.encoding, closefd=False)  # noqa: SIM115
        if is_terminal
        else sys.stdout
    )
    sys.stdout.flush()
    for text in _drawn(rows, total, _console(stream, is_terminal)):
        stream.write(text)
        stream.flush()


def cards_text(rows: Iterable[RowParts], total: int) -> str:
    """The same as one text without colours.

    Args:
        rows: The rows.
        total: How many there are.
    """
    return "".join(_drawn(rows, total, _console(io.StringIO(), False, READABLE)))


def _console(stream: IO[str], is_terminal: bool, width: int | None = None) -> Console:
    from rich.console import Console

    return Console(
        file=stream,
        width=width,
        force_terminal=is_terminal,
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _drawn(rows: Iterable[RowParts], total: int, console: Console) -> Iterator[str]:
    # Captured, and not printed by rich, which ends the program where the reader has gone.
    for number, parts in enumerate(rows, 1):
        with console.capture() as capture:
            console.print(_card(parts, f"{number:,} of {total:,}", console))
        yield "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _card(parts: RowParts, position: str, console: Console) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.rule import Rule
    from rich.text import Text

    columns = console.width if parts.named else min(console.width, READABLE)
    columns = min(columns, 2 * READABLE)
    title = Text(visible_line(f"{position}  {parts.title}"), overflow="ellipsis", no_wrap=True)
    blocks: list[RenderableType] = [Rule(title, align="left", style="dim")]
    if parts.verdict:
        blocks.append(_facts(parts.verdict, "bold red"))
    if parts.named and console.width >= SIDE_BY_SIDE:
        blocks.append(_side_by_side(parts))
    else:
        blocks += _blocks(parts.texts)
        for name, texts in parts.named:
            blocks += [Text(visible_line(name), style="bold red"), *_blocks(texts)]
    if parts.values:
        blocks.append(_facts(parts.values, ""))
    return Padding(Group(*blocks, ""), (0, console.width - columns, 0, 0))


def _side_by_side(parts: RowParts) -> RenderableType:
    """The row on the left, and what its evidence names on the right."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    others: list[RenderableType] = []
    for name, texts in parts.named:
        others += [Text(visible_line(name), style="dim"), *_blocks(texts)]
    grid.add_row(Group(Text("this row", style="dim"), *_blocks(parts.texts)), Group(*others))
    return grid


def _blocks(texts: Sequence[TextPart]) -> list[RenderableType]:
    return [block for part in texts for block in _block(part)]


def _block(part: TextPart) -> list[RenderableType]:
    """A label, and below it the text, set in."""
    from rich.padding import Padding
    from rich.text import Text

    label = Text(visible_line(part.label), style=STYLES[part.kind])
    text = Text(visible(part.text), style="dim" if part.kind == "reasoning" else "")
    if part.remaining:
        text.append(f"\n... ({part.remaining:,} more characters)", style="dim")
    elif not part.text:
        return [label]
    return [label, Padding(text, (0, 0, 0, 2))]


def _facts(facts: Sequence[tuple[str, str]], style: str) -> Text:
    """Names and values in one paragraph; the first value in a style of its own."""
    from rich.text import Text

    text = Text()
    for number, (name, value) in enumerate(facts):
        text.append("  " if number else "")
        text.append(f"{visible_line(name)}=", style="dim")
        text.append(visible_line(value), style="" if number else style)
    return text
