"""Tables and charts that a person reads: Markdown for a terminal, SVG without dependencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

STYLE: Final = """
  svg { color: #24292f; background: #ffffff; font: 13px system-ui, sans-serif; }
  text { fill: currentColor; }
  line { stroke: currentColor; }
  .grid { opacity: 0.15; }
  .mark { stroke-width: 2; opacity: 0.6; }
  .dot { fill: #0969da; fill-opacity: 0.75; }
  @media (prefers-color-scheme: dark) {
    svg { color: #e6edf3; background: #0d1117; }
    .dot { fill: #58a6ff; }
  }
"""

WIDTH: Final = 720
LEFT_MARGIN: Final = 110
ROW_HEIGHT: Final = 44
TOP_MARGIN: Final = 50


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as a table in a terminal too.

    The first column is aligned to the left, the others, which hold numbers, to the right.

    >>> print(table(["arm", "loss"], [["random", "2.5"]]))
    | arm    | loss |
    | ------ | ---: |
    | random |  2.5 |
    """
    cells = [list(header), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def formatted(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([formatted(cells[0]), f"| {' | '.join(rule)} |", *map(formatted, cells[1:])])


def dot_plot(
    title: str, label: str, groups: Mapping[str, Sequence[float]], marks: Mapping[str, float]
) -> str:
    """An SVG with one row of dots per group, a tick at its mean, and named vertical lines.

    Colours follow the reader's light or dark scheme.

    Args:
        title: The heading.
        label: What the numbers are, below the axis.
        groups: The numbers of each group by its name; none is empty.
        marks: Values to compare with by their names, drawn across all groups.

    >>> svg = dot_plot("Loss", "nats", {"a": [1.0, 2.0], "b": [1.5]}, {"before": 2.5})
    >>> svg.count('class="dot"')
    3
    """
    values = [value for group in groups.values() for value in group] + list(marks.values())
    ticks = _ticks(min(values), max(values))
    bottom = TOP_MARGIN + ROW_HEIGHT * len(groups)

    def x(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(LEFT_MARGIN + share * (WIDTH - LEFT_MARGIN - 40), 1)

    parts = [f'<text x="16" y="24" font-weight="600">{escape(title)}</text>']
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    for tick in ticks:
        parts.append(_vertical(x(tick), TOP_MARGIN, bottom, "grid"))
        parts.append(_text(x(tick), bottom + 18, f"{tick:.{decimals}f}"))
    parts.append(_text((LEFT_MARGIN + WIDTH - 40) / 2, bottom + 40, label))
    for name, value in marks.items():
        parts.append(_vertical(x(value), TOP_MARGIN - 8, bottom, "mark", dashed=True))
        parts.append(_text(x(value), TOP_MARGIN - 12, name))
    for i, (name, group) in enumerate(groups.items()):
        y = TOP_MARGIN + ROW_HEIGHT * (i + 0.5)
        mean = x(sum(group) / len(group))
        parts.append(f'<text x="16" y="{y + 4}">{escape(name)}</text>')
        parts.append(_vertical(mean, y - 12, y + 12, "mark"))
        parts += [f'<circle class="dot" cx="{x(v)}" cy="{y}" r="5"/>' for v in group]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 52}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def line_plot(title: str, label: str, lines: Mapping[str, Sequence[float]]) -> str:
    """An SVG with one line per name over the numbers 1, 2, ..., named at its end.

    Args:
        title: The heading.
        label: What is counted below the axis.
        lines: The values of each line by its name; all are equally long, and none is empty.

    >>> line_plot("Weights", "update", {"a": [0.5, 0.2], "b": [0.5, 0.8]}).count("<polyline")
    2
    """
    ticks = _ticks(0.0, max(value for line in lines.values() for value in line))
    count, right = max(map(len, lines.values())), WIDTH - 160
    bottom = TOP_MARGIN + ROW_HEIGHT * 6

    def x(number: int) -> float:
        return round(60 + (right - 60) * (number / max(1, count - 1)), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP_MARGIN) * value / ticks[-1], 1)

    parts = [f'<text x="16" y="24" font-weight="600">{escape(title)}</text>']
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    for tick in ticks:
        height = y(tick)
        parts.append(f'<line class="grid" x1="60" y1="{height}" x2="{right}" y2="{height}"/>')
        parts.append(_text(36, height + 4, f"{tick:.{decimals}f}"))
    parts += [_text(x(number), bottom + 18, str(number + 1)) for number in range(count)]
    parts.append(_text((60 + right) / 2, bottom + 40, label))
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{x(i)},{y(value)}" for i, value in enumerate(line))
        color = f"hsl({360 * number // len(lines)} 65% 50%)"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        corner = f'x="{right + 8}" y="{y(line[-1]) + 4}"'
        parts.append(f'<text {corner} style="fill: {color}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 52}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle">{escape(text)}</text>'


def _vertical(x: float, y1: float, y2: float, kind: str, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line class="{kind}" x1="{x}" y1="{y1}" x2="{x}" y2="{y2}"{dashes}/>'


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers around the values."""
    span = high - low or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * f for f in (1, 2, 5, 10) if span / (power * f) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]
