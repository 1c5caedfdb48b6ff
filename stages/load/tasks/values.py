"""The values of a row as templates show them: texts, the answer's name, the options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, Final

from stages.load._chat.turns import is_missing
from stages.load.tasks.rendering import InvalidRow, Row
from stages.load.tasks.task_list import TaskEntry

OPTION_FIELDS: Final = ("options_", "options_str")
"""The names of the options in FLAN's patterns."""

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHOWN_OPTIONS: Final = re.compile(r"\s*\{(?:" + "|".join(OPTION_FIELDS) + r")\}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,9}")


class MissingField(Exception):
    """A row has no value for a field that a template names."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class UnknownLabel(Exception):
    """The answer of a row is none of the options."""


def text_of(value: Any) -> str | None:
    """A value as a text; None where it is missing, or has no text.

    >>> text_of(["a", 1]), text_of(2.0), text_of(None)
    ('a, 1', '2.0', None)
    """
    if isinstance(value, str):
        return value
    if is_missing(value) or isinstance(value, dict):
        return None
    if isinstance(value, list | tuple):
        texts = [text_of(member) for member in value]
        return None if None in texts else ", ".join(map(str, texts))
    return str(value)


class Values(dict[str, str]):
    """The texts of a row by field, as they are asked for.

    Args:
        row: The row.
        names: The rows' names for fields of templates.
        known: Texts that are not the row's own.
    """

    __slots__ = ("_names", "_row")

    def __init__(self, row: Row, names: Mapping[str, str], known: Mapping[str, str]) -> None:
        super().__init__(known)
        self._row, self._names = row, names

    def __missing__(self, field: str) -> str:
        text = text_of(self._row.get(self._names.get(field, field)))
        if text is None:
            raise MissingField(field)
        self[field] = text
        return text


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """A pattern with its fields filled; what a value holds is never a field.

    Args:
        pattern: The pattern, which the linter accepts.
        values: The texts by field.

    Raises:
        MissingField: A value is missing.

    >>> fill("Q: {q}", {"q": "Is {a} a set?"})
    'Q: Is {a} a set?'
    """
    return pattern.format_map(values)


def fields_of(pattern: str) -> frozenset[str]:
    """The fields of a pattern."""
    return frozenset(field for _, field, _, _ in Formatter().parse(pattern) if field)


def without_options(pattern: str) -> str:
    """A pattern that does not show the options.

    >>> without_options("Is it so?\\n\\n{options_}")
    'Is it so?'
    """
    return _SHOWN_OPTIONS.sub("", pattern)


def options_of(row: Row, entry: TaskEntry) -> tuple[str, ...] | None:
    """The answers that there are for a row; None where any text may be one.

    Args:
        row: The row.
        entry: What the list says of its task.

    Raises:
        InvalidRow: The row has none where its task says that it has.
    """
    if isinstance(entry.options, tuple):
        return entry.options
    if entry.options is None:
        return tuple(entry.labels) if entry.labels else None
    if isinstance(entry.options, str):
        values, names = row.get(entry.options), entry.options
    else:
        columns = [name for group in entry.options.values() for name in group]
        values, names = [row.get(name) for name in columns], ", ".join(columns)
    if isinstance(values, dict):  # {"text": [...], "label": [...]}, as ARC and others have it
        values = values.get("text")
    texts = [text_of(value) for value in values] if isinstance(values, list | tuple) else []
    if not texts or None in texts:
        raise InvalidRow(f"{names} must hold the options as a list of texts, got {values!r:.80}")
    return tuple(map(str, texts))


def answer_of(row: Row, entry: TaskEntry, options: Sequence[str] | None) -> str:
    """The answer of a row by name; an empty text where it has none.

    A text that is itself an option is that one, then one that the row's own options have as their
    `label` (ARC's run from A or from 1). Any other whole number counts the options from 0, a
    capital letter from A.

    Args:
        row: The row.
        entry: What the list says of its task.
        options: The answers that there are.

    Raises:
        UnknownLabel: It is none of the options.
    """
    value = row.get(entry.answer_field)
    if is_missing(value):
        return ""
    if options is None:
        return text_of(value) or ""
    if isinstance(value, str) and (value in options or not value.strip()):
        return value.strip() and value
    labels = _labels_of(row, entry)
    index = labels.index(str(value)) if str(value) in labels else _index(value)
    if index is None or not 0 <= index < len(options):  # -1 is no label, and not the last one
        raise UnknownLabel(str(value)[:200])
    return options[index]


def _labels_of(row: Row, entry: TaskEntry) -> list[str]:
    """What a row calls its own options: `label` of {"text": [...], "label": [...]}."""
    values = row.get(entry.options) if isinstance(entry.options, str) else None
    labels = values.get("label") if isinstance(values, dict) else None
    return [*map(str, labels)] if isinstance(labels, list | tuple) else []


def _index(value: Any) -> int | None:
    if isinstance(value, str):
        if len(value) == 1 and value in LETTERS:
            return LETTERS.index(value)
        return int(value) if _INTEGER.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) else None
