"""In what list an element of a damaged JSON array is: in that of the rows, or in one of a row.

Both look alike from within. An element that rows of known fields follow is a row; behind a list
of a row goes on what holds it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

from stages.load._files.json_lines import DECODER
from stages.load._files.window import Window

SPACE: Final = re.compile(r"[ \t\n\r]*")
GAP: Final = re.compile(r"[ \t\n\r,]*")
FIELD: Final = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"((?:[^"\\]|\\.){0,1000})"[ \t\n\r]*:[ \t\n\r]*')
_CLOSED: Final = re.compile(r"[ \t\n\r]*\}[ \t\n\r]*")
_LAST: Final = re.compile(r"[\]}]?[ \t\n\r]*")
_NEXT_LIST: Final = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*\[|\])")

_SIBLINGS: Final = 64
"""How many elements are read to see in what list they are."""

_SHAPES: Final = 1000
"""How many different sets of fields of rows are learned."""


def names_of(value: Any) -> set[str]:
    """The fields of a row; of a list those of its first object."""
    first = value[0] if isinstance(value, list) and value else value
    return set(first) if isinstance(first, dict) else set()


class Fields:
    """The fields of the rows that were read.

    Attributes:
        names: Of all rows.
        nested: Of the objects in their lists.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.nested = {"role", "content", "from", "value", "tool_calls", "tool_call_id", "name"}
        self._shapes: set[frozenset[str]] = set()

    def learn(self, row: Any) -> None:
        """Take the fields of a row into account."""
        self.names.update(names := names_of(row))
        if isinstance(row, dict):
            if len(self._shapes) < _SHAPES:
                self._shapes.add(frozenset(names))
            for field in row.values():
                if isinstance(field, list):
                    # Turns differ: one calls a tool, the next one is its result.
                    self.nested.update(*(item for item in field[:_SIBLINGS] if type(item) is dict))

    def is_new(self, value: Any) -> bool:
        """Whether no row had exactly these fields yet."""
        return (
            type(value) is dict
            and frozenset(value) not in self._shapes
            and len(self._shapes) < _SHAPES
        )

    def is_row(self, value: Any) -> bool:
        """Whether rows had exactly these fields, and the objects in their lists had others."""
        names = frozenset(value) if type(value) is dict else frozenset()
        return names in self._shapes and not names <= self.nested

    def are_held_by(self, value: Any) -> bool:
        """Whether a value holds rows: a list that a stray bracket opens, or one never closed."""
        if type(value) is list:
            first = value[0] if value else None
            is_row = type(first) is dict and not first.keys() & {"role", "from"}
            return is_row or type(first) is list
        fields = value.items() if type(value) is dict else ()
        lists = ((name, field) for name, field in fields if type(field) is list)
        return any(self._is_held(item, name) for name, items in lists for item in items)

    def _is_held(self, item: Any, name: str) -> bool:
        """Whether a value in a list is a row; before any is known, if it has such a list too."""
        return self.is_row(item) or (not self._shapes and type(item) is dict and name in item)


class InList(Enum):
    """In what list an element is, from how that goes on."""

    ROWS = "it holds a row of known fields, or ends with the file"
    NESTED = "it ends, and an object or a list around it goes on"
    UNCLEAR = "it goes on, or is broken further on"


class Siblings:
    """Judges what list an element at the position of the window is in.

    Args:
        window: The file.
        fields: Of the rows that were read.
        is_wrapped: Whether an object holds the array.

    Attributes:
        are_lists: Whether the rows are lists of turns, as far as anything is known.
    """

    def __init__(self, window: Window, fields: Fields, is_wrapped: bool) -> None:
        self._window, self._fields, self._is_wrapped = window, fields, is_wrapped
        self.are_lists = False

    def judge(self, value: Any, end: int) -> tuple[InList, int]:
        """In what list an element is, and how far it and what holds it were read.

        Args:
            value: The element.
            end: Where it ends.
        """
        text, at, names = self._window.text, self._window.at, names_of(value)
        first_end = end  # elements that are not alike are each judged by themselves
        for _ in range(_SIBLINGS):
            if self._fields.is_row(value):
                return InList.ROWS, end
            behind = SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[behind : behind + 1] == "]":
                is_alike = names == names_of(value) or not names.isdisjoint(names_of(value))
                return self._closed(behind + 1) if is_alike else (InList.UNCLEAR, first_end)
            following = GAP.match(text, behind).end()  # type: ignore[union-attr]
            if text[following : following + 1] != text[at]:
                break
            try:
                value, end = DECODER.raw_decode(text, following)
            except (ValueError, RecursionError, MemoryError):
                break
        return InList.UNCLEAR, first_end

    def _closed(self, end: int) -> tuple[InList, int]:
        """The same for one whose list ends there."""
        text, is_complete = self._window.text, self._window.complete
        if not self._is_wrapped and SPACE.fullmatch(text, end):
            return (InList.ROWS if is_complete else InList.UNCLEAR), end
        at, others = end, {}
        while field := FIELD.match(text, at):
            try:
                others[field.group()], at = DECODER.raw_decode(text, field.end())
            except (ValueError, RecursionError, MemoryError):
                return InList.UNCLEAR, end
        if closed := _CLOSED.match(text, at):
            if self._is_wrapped and _LAST.fullmatch(text, closed.end()):
                are_rows = is_complete and not self._fields.are_held_by(others)
                return (InList.ROWS if are_rows else InList.UNCLEAR), end
            is_read = closed.end() < len(text)
            return (InList.NESTED if is_read else InList.UNCLEAR), closed.end()
        is_nested = self.are_lists and text[self._window.at] == "{" and _NEXT_LIST.match(text, end)
        return (InList.NESTED if is_nested else InList.UNCLEAR), end
