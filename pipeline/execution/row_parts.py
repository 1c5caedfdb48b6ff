"""A row as a person reads it: turns, calls and reasoning, then its values, then the verdict.

What is shown of a row is decided here once; the terminal (`cli/row_cards.py`) and notebooks
(`html.py`) only lay it out. Texts are as they are in the row: who prints them escapes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from pipeline.execution.named_rows import ID, named_ids, rows_by_id
from pipeline.store.artifact import Artifact
from schemas.turns import json_words, template_tools

MAX_CHARACTERS: Final = 600
MAX_LINES: Final = 12
"""How much of a text is shown where it is cut."""

FIRST_TURNS: Final = 4
LAST_TURNS: Final = 2
"""Turns of a long conversation that are shown where it is cut."""

MAX_VALUE: Final = 200
"""Characters of a column's value."""

SHORT_ID: Final = 12
"""Digits of an id that a person sees: more than a million rows need, and `explain` takes them."""

SHOWN_BY_NAME: Final = (
    "id", "messages", "prompt", "chosen", "rejected", "text", "texts", "tools", "origins",
    "parents", "title", "extra", "input_start", "drop_reason", "evidence", "error", "file", "line",
)  # fmt: skip
"""Columns that have a place of their own; all others are shown as values."""

Kind = Literal["system", "user", "assistant", "tool", "reasoning", "call", "text", "note"]


@dataclass(frozen=True)
class TextPart:
    """One text of a row.

    Attributes:
        kind: What it is, which decides its colour.
        label: What stands above it, such as "assistant" or "call search".
        text: The text, or the beginning of it.
        remaining: How many characters of it are left out.
    """

    kind: Kind
    label: str
    text: str
    remaining: int = 0


@dataclass(frozen=True)
class RowParts:
    """A row, in the order in which it is read.

    Attributes:
        title: Its id and where it comes from.
        texts: What it says.
        values: Its scores, tags and other columns, by name.
        verdict: Why it was dropped or has failed, by name; empty for a kept row.
        named: The rows that its evidence names: what it calls them, and their texts.
    """

    title: str
    texts: Sequence[TextPart]
    values: Sequence[tuple[str, str]]
    verdict: Sequence[tuple[str, str]]
    named: Sequence[tuple[str, Sequence[TextPart]]]


def rows_in_parts(
    frame: pl.DataFrame, artifacts: Collection[Artifact], full: bool = False
) -> Iterator[RowParts]:
    """The parts of each row, with the rows that evidence names.

    Args:
        frame: Rows as a snapshot gives them: kept, dropped or failed ones.
        artifacts: Those in which rows that evidence names are looked for.
        full: Whether texts and long conversations are shown in full.
    """
    names: set[str] = set()
    if "evidence" in frame.columns:
        evidence = frame.select("id", "evidence").filter(pl.col("evidence").is_not_null())
        names.update(name for row in evidence.iter_rows(named=True) for name in named_ids(row))
    others = rows_by_id(names, artifacts) if names else {}
    for row in frame.iter_rows(named=True):
        yield row_parts(row, others, full)


def row_parts(
    row: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], full: bool = False
) -> RowParts:
    """The parts of one row.

    Args:
        row: A row of a stage, as Python objects.
        others: Rows that its evidence may name, by id.
        full: Whether texts and long conversations are shown in full.

    >>> turn = {"role": "user", "content": "Why?"}
    >>> parts = row_parts({"id": "a" * 32, "messages": [turn], "ifd": 0.81234}, {})
    >>> parts.title, parts.texts[0].text, parts.values
    ('aaaaaaaaaaaa', 'Why?', [('ifd', '0.8123')])
    """
    labels = dict(_named(row))
    values = [
        (name, shown_value(value))
        for name, value in row.items()
        if name not in SHOWN_BY_NAME and value is not None
    ]
    return RowParts(
        _title(row),
        list(_texts(row, full)),
        [*values, *_details(row)],
        _verdict(row),
        [(labels[i], list(_texts(others[i], full))) for i in labels if i in others],
    )


def _title(row: Mapping[str, Any]) -> str:
    origins = row.get("origins") or []
    parts = [(row.get("id") or "")[:SHORT_ID], row.get("title") or ""]
    if origins:
        first = origins[0]
        parts.append(f"{first['source']} {first['index']:,}, {first['license']}")
    if len(origins) > 1:
        parts.append(f"and {len(origins) - 1:,} more")
    return "  ".join(filter(None, parts))


def _texts(row: Mapping[str, Any], full: bool) -> Iterator[TextPart]:
    if row.get("tools"):
        yield _part("note", "tools", ", ".join(_tool_names(row["tools"])), full)
    for column in ("messages", "prompt", "chosen", "rejected"):
        prefix = "" if column in ("messages", "prompt") else f"{column}: "
        yield from _turns(row.get(column) or (), prefix, full)
    if row.get("text"):
        yield _part("text", "text", row["text"], full)
    for field in row.get("texts") or ():
        yield _part("text", field["name"], field["text"] or "", full)


def _tool_names(tools: str) -> Iterator[str]:
    for tool in template_tools(tools) or ():
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        name = function.get("name") if isinstance(function, dict) else None
        yield str(name or tool)


def _turns(turns: Sequence[Mapping[str, Any]], prefix: str, full: bool) -> Iterator[TextPart]:
    left_out = 0 if full else len(turns) - FIRST_TURNS - LAST_TURNS
    for number, turn in enumerate(turns):
        if number == FIRST_TURNS and left_out > 1:
            yield TextPart("note", f"... {left_out:,} turns between ...", "")
        if left_out <= 1 or not FIRST_TURNS <= number < len(turns) - LAST_TURNS:
            yield from _turn(turn, prefix, full)


def _turn(turn: Mapping[str, Any], prefix: str, full: bool) -> Iterator[TextPart]:
    role = turn["role"]
    label = f"{prefix}{role}" + (f" ({turn['name']})" if turn.get("name") else "")
    if turn.get("train") is not None:
        label += ", trained on" if turn["train"] else ", not trained on"
    if turn.get("reasoning"):
        yield _part("reasoning", f"{label}: reasoning", turn["reasoning"], full)
    calls = turn.get("tool_calls") or ()
    if turn.get("content") or not (calls or turn.get("reasoning")):
        yield _part(role, label, turn.get("content") or "", full)
    for call in calls:
        arguments = json_words(call.get("arguments"))
        yield _part("call", f"{prefix}{role}: call {call.get('name') or ''}", arguments, full)


def _part(kind: Kind, label: str, text: str, full: bool) -> TextPart:
    """A text, cut where it is long."""
    if full:
        return TextPart(kind, label, text)
    lines = text[: MAX_CHARACTERS + 1].split("\n")
    head = "\n".join(lines[:MAX_LINES])[:MAX_CHARACTERS]
    return TextPart(kind, label, head, len(text) - len(head))


def shown_value(value: Any) -> str:
    """A column's value for people, in one line.

    >>> shown_value(0.123456), shown_value([0.5] * 256), shown_value(["a", "b"])
    ('0.1235', '256 numbers', 'a, b')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        if len(value) > 8 and all(isinstance(one, float | int) for one in value):
            return f"{len(value):,} numbers"
        if not any(isinstance(one, dict | list) for one in value):
            return _cut(", ".join("" if one is None else shown_value(one) for one in value))
    if isinstance(value, dict | list):
        return _cut(json.dumps(value, ensure_ascii=False, default=str))
    return _cut(f"{value:,}" if type(value) is int else str(value))


def _cut(text: str) -> str:
    if len(text) <= MAX_VALUE:
        return text
    return f"{text[:MAX_VALUE]}... ({len(text) - MAX_VALUE:,} more characters)"


def _details(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parents of a row and the other fields of its source, where it has any."""
    parents = [name[:SHORT_ID] for name in row.get("parents") or ()]
    extra = row.get("extra")
    return [
        *([("parents", ", ".join(parents))] if parents else []),
        *([("extra", _cut(extra))] if extra and extra != "{}" else []),
    ]


def _verdict(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(name, str(row[name])) for name in ("error", "file", "line") if row.get(name)]
    if row.get("drop_reason"):
        facts.append(("dropped", row["drop_reason"]))
    if row.get("evidence"):
        evidence = json.loads(row["evidence"])
        items = evidence.items() if isinstance(evidence, dict) else [("evidence", evidence)]
        facts += [(str(name), _short_id(value) or shown_value(value)) for name, value in items]
    return facts


def _named(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The ids that the evidence names, with what it calls each."""
    ids = named_ids(row)
    evidence = json.loads(row["evidence"]) if ids else None
    items = evidence.items() if isinstance(evidence, dict) else ()
    keys = {value: key for key, value in items if isinstance(value, str)}
    for name in ids:
        yield name, f"{keys.get(name, 'names')} {name[:SHORT_ID]}"


def _short_id(value: Any) -> str | None:
    return value[:SHORT_ID] if isinstance(value, str) and ID.fullmatch(value) else None
