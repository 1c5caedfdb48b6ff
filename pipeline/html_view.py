"""What notebooks show: the funnel, rows as cards, the history of a row, as HTML.

All that comes from a row, a recipe or a store is data: it is escaped, with its control
characters shown, and none of it is ever markup. There is no script, and nothing is fetched;
colours come from the notebook's own theme, so that dark ones stay readable.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.execution.row_parts import Kind, RowParts, TextPart, row_parts
from pipeline.terminal import visible

COLOURS: Final[dict[Kind, str]] = {
    "system": "#a64d9e", "user": "#1f7ab8", "assistant": "#2a8a4a", "tool": "#a87400",
    "reasoning": "#2a8a4a", "call": "#a87400", "text": "#1f7ab8", "note": "#808080",
}  # fmt: skip
"""Of the labels: dark enough on white, light enough on black."""

_CARD: Final = "border:1px solid #8886;border-radius:6px;padding:.6em .8em;margin:.5em 0"
_TEXT: Final = "white-space:pre-wrap;overflow-wrap:anywhere;margin:.1em 0 .5em .8em"
_SIDES: Final = "display:grid;grid-template-columns:1fr 1fr;gap:1em"
_FAINT: Final = "opacity:.65"
_BAD: Final = "color:#c33;font-weight:600"


def text_html(text: object) -> str:
    r"""A text as HTML that shows it and does nothing else.

    >>> text_html("<b>\u202e")
    '&lt;b&gt;\\u202e'
    """
    return html.escape(visible(str(text)))


def cards_html(rows: Iterable[RowParts], title: str) -> str:
    """Rows one below the other, each with the rows that its evidence names beside it.

    Args:
        rows: The rows.
        title: What they are.
    """
    return f"<p>{text_html(title)}</p>" + "".join(map(_card, rows))


def _card(parts: RowParts) -> str:
    own = _texts(parts.texts)
    if parts.named:
        columns = [("this row", own), *((name, _texts(texts)) for name, texts in parts.named)]
        sides = (f"<div>{_label(name, _FAINT)}{body}</div>" for name, body in columns)
        own = f'<div style="{_SIDES}">{"".join(sides)}</div>'
    verdict = _facts(parts.verdict, _BAD) if parts.verdict else ""
    values = _facts(parts.values, "") if parts.values else ""
    return f'<div style="{_CARD}">{_label(parts.title, _FAINT)}{verdict}{own}{values}</div>'


def _texts(texts: Sequence[TextPart]) -> str:
    blocks = []
    for part in texts:
        faint = f";{_FAINT}" if part.kind == "reasoning" else ""
        blocks.append(_label(part.label, f"color:{COLOURS[part.kind]};font-weight:600{faint}"))
        more = (
            f'<div style="{_FAINT}">... ({part.remaining:,} more characters)</div>'
            if part.remaining
            else ""
        )
        if part.text:
            blocks.append(f'<div style="{_TEXT}{faint}">{text_html(part.text)}{more}</div>')
    return "".join(blocks)


def _label(text: str, style: str) -> str:
    return f'<div style="{style}">{text_html(text)}</div>'


def _facts(facts: Iterable[tuple[str, str]], style: str) -> str:
    """Names and values in one paragraph; the first value in a style of its own."""
    parts = [
        f'<span style="{_FAINT}">{text_html(name)}</span> '
        f'<span style="{"" if number else style}">{text_html(value)}</span>'
        for number, (name, value) in enumerate(facts)
    ]
    return f"<div>{' &nbsp; '.join(parts)}</div>"


def table_html(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """A table.

    Args:
        header: The names of the columns.
        rows: The cells.
        right: The numbers of the columns set flush right.
    """

    def cells(line: Sequence[str], tag: str) -> str:
        aligned = ("right" if i in right else "left" for i in range(len(line)))
        return "".join(
            f'<{tag} style="text-align:{side}">{text_html(cell)}</{tag}>'
            for cell, side in zip(line, aligned, strict=True)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def funnel_html(title: str, stages: Iterable[Mapping[str, Any]]) -> str:
    """What became of the rows at each stage.

    Args:
        title: What the stages are of.
        stages: The entries of `history.status`.
    """
    rows = []
    for stage in stages:
        dropped = stage["dropped"]
        reasons = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        numbers = [stage["rows_in"], stage["created"], stage["kept"], sum(dropped.values())]
        counts = ["" if n is None else f"{n:,}" for n in (*numbers, stage["failed"])]
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
        rows.append([stage["name"], stage["uses"], *counts, why, stage["state"]])
    header = ["stage", "uses", "in", "created", "kept", "dropped", "failed", "reasons", "state"]
    return f"<p><b>{text_html(title)}</b></p>{table_html(header, rows, range(2, 7))}"


def history_html(record: Mapping[str, Any], repeated: Iterable[str]) -> str:
    """The history of a row, a card for each stage that it passed.

    Args:
        record: What `history.explain` returns.
        repeated: Columns of the row itself, which are shown only where they change.
    """
    cards, shown = [], dict[str, Any]()
    for event in record["history"]:
        row = {k: v for k, v in event.items() if k not in ("stage", "uses", "verdict", "named")}
        new = {k: v for k, v in row.items() if k not in repeated or shown.get(k) != v}
        shown |= row
        parts = row_parts({"id": record["id"], **new}, {})
        style = "font-weight:600" if event["verdict"] == "kept" else _BAD
        title = f"{event['stage']} ({event['uses']}): {event['verdict']}"
        lines = [_label(title, style), *([_facts(parts.verdict, _BAD)] if parts.verdict else [])]
        lines += [_texts(parts.texts), _facts(parts.values, "")]
        for name, text in event.get("named", {}).items():
            lines.append(_label(name, _FAINT) + f'<div style="{_TEXT}">{text_html(text)}</div>')
        cards.append(f'<div style="{_CARD}">{"".join(lines)}</div>')
    return f"<p>record <code>{text_html(record['id'])}</code></p>{''.join(cards)}"
