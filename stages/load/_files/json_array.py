"""The elements of a JSON array as source positions, read one by one.

A broken element costs only itself. No line ends it, and neither its brackets nor its quotes
can be trusted: where the next one begins is decided by what lies behind the candidates
(`_Rows._is_row`). An object in a list of the broken row looks like a row too, but behind its
list the broken row goes on. At most one row and a megabyte are held at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from stages.load._files.container import WRAPPED
from stages.load._files.json_lines import (
    DECODER,
    LARGE,
    NOT_UTF8,
    TOO_MANY,
    UNDECODED,
    Position,
    check_values,
    reason_of,
)
from stages.load._files.json_siblings import FIELD, GAP, SPACE, Fields, InList, Siblings, names_of
from stages.load._files.stream import HEAD, ROW_LIMIT, TOO_LONG, Stream
from stages.load._files.window import Window

_COMMA: Final = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
# It begins with a set of characters: beside one of alternatives it is four times as fast.
_ROW_START: Final = re.compile(
    r'[,}\]](?:(?<=\])[ \t\n\r]*\[)?[ \t\n\r]*(?=\{[ \t\n\r]*"|\[[ \t\n\r]*[{\["])'
)
_INDENT: Final = re.compile(r"\n[ \t]*$")
_MORE_ROWS: Final = re.compile(r"[}\]]?[ \t\n\r]*,[ \t\n\r]*[{\[]")
_FIRST_KEY: Final = re.compile(
    r'(?:\[[ \t\n\r]*)?\{[ \t\n\r]*"((?:[^"\\]|\\.){0,1000})"[ \t\n\r]*:'
)

_TOKEN: Final = 16
"""No token but a string is longer: an error that near to the end may be for want of the rest."""

_OVERLAP: Final = 1 << 10
"""What is searched again with the next part: a separator may lie across its start."""

_SAMPLE: Final = 50
"""Of how many rows of a part the keys are learned."""

_BEHIND: Final = "there is more after the end of the JSON array"
_NOT_CLOSED: Final = "the JSON object around the rows is not closed: the file ends early"


def json_array(stream: Stream) -> Iterator[Position]:
    """The elements of a JSON array: all of the file, or a field of its object.

    Args:
        stream: The file.
    """
    window = Window(stream)
    window.more()
    wrapped = WRAPPED.match(window.text)
    begin = wrapped.end() if wrapped else window.text.index("[") + 1
    rows = _Rows(window, window.text[:begin].lstrip())
    window.advance(begin)
    yield from rows
    if stream.cut:
        yield window.line, None, stream.cut
    elif stream.complete and not rows.ended:
        yield window.line, None, "the JSON array is not closed: the file ends early"


class _Element(NamedTuple):
    """What stands at a position of the window.

    Attributes:
        value: The element.
        end: Where it ends, or where to search for the next one.
        error: Why it cannot be used.
        is_whole: Whether it was read up to its end.
    """

    value: Any
    end: int
    error: str | None
    is_whole: bool


def _swallows_rows(value: Any) -> bool:
    """Whether a list of turns holds lists: without its closing bracket it swallows all rows."""
    return (
        type(value) is list
        and len(value) > 0
        and type(value[0]) is dict
        and any(type(turn) is list for turn in value)
    )


class _Rows:
    """The elements of an array, whose opening bracket the window has passed.

    Args:
        window: The file.
        around: What stands before the elements.

    Attributes:
        ended: After the last element, whether the array is closed, or a failure says all.
    """

    def __init__(self, window: Window, around: str) -> None:
        self._window, self._around = window, around
        self._fields = Fields()
        self._siblings = Siblings(window, self._fields, is_wrapped=around != "[")
        self._brackets: set[str] = set()
        self._indent = ""
        self.ended = False

    def __iter__(self) -> Iterator[Position]:
        window = self._window
        while window.skip(GAP):
            yield from self._plain_rows()
            if not window.skip(GAP):
                return
            line = window.line
            if window.text[window.at] == "]":
                value, end, is_whole = None, window.at + 1, False
                error = self._end()
                if error != _BEHIND:
                    self.ended = True
                    yield from [(line, None, error)] if error else []
                    return
            else:
                self._learn_indent()
                value, end, error, is_whole = self._row()
            if is_whole:
                self._brackets.add(window.text[window.at])
                self._fields.learn(value)
                window.advance(end)
            elif not self._resume(end, error in (TOO_LONG, TOO_MANY)):
                self.ended = True
                if not window.is_torn():
                    yield line, None, error
                return
            yield line, value, error

    def _end(self) -> str | None:
        """The error behind the closing bracket at the position, if any."""
        window = self._window
        while window.held() < ROW_LIMIT and window.more():
            pass
        text = self._around + window.text[window.at :]  # the file without the elements
        try:
            around = DECODER.decode(text)
        except json.JSONDecodeError as error:
            return _NOT_CLOSED if error.pos >= len(text) and not window.is_torn() else _BEHIND
        except (ValueError, RecursionError):
            return _BEHIND  # it cannot be understood, and belongs to no row
        fields = around if type(around) is dict else {}
        others = [name for name, value in fields.items() if self._holds_more(value)]
        return f"more rows are in {', '.join(others)}: only one list is read" if others else None

    def _holds_more(self, value: Any) -> bool:
        """Whether a list beside the rows holds rows with the same fields."""
        return type(value) is list and not names_of(value).isdisjoint(self._fields.names)

    def _plain_rows(self) -> Iterator[Position]:
        """The rows up to one that is special in any way: nearly all are read here."""
        window, learned = self._window, 0
        text, at, line = window.text, window.at, window.line
        while not window.dirty and text[at : at + 1] in self._brackets:
            try:
                value, end = DECODER.raw_decode(text, at)
            except (ValueError, RecursionError, MemoryError):
                break
            comma = _COMMA.match(text, end)
            if (
                comma is None
                or end - at > HEAD
                or _swallows_rows(value)
                or self._fields.is_new(value)
            ):
                break
            if learned < _SAMPLE:
                self._fields.learn(value)
                learned += 1
            yield line, value, None
            line += text.count("\n", at, comma.end())
            at = comma.end()
        window.at, window.line = at, line

    def _learn_indent(self) -> None:
        """How far indented the rows begin."""
        window = self._window
        indent = _INDENT.search(window.text, max(0, window.at - _OVERLAP), window.at)
        if indent and not self._indent:
            self._indent = indent.group()

    def _row(self) -> _Element:
        """The element at the position, unless the list that goes on behind it is one of a row."""
        value, end, error, is_whole = self._element()
        if is_whole and self._fields.is_new(value):
            is_turn = names_of(value) <= self._fields.nested
            self._siblings.are_lists = is_turn and not self._brackets
            kind, behind = self._siblings.judge(value, end)
            if kind is InList.NESTED:
                why = "invalid JSON: the row ends within one of its lists"
                return _Element(None, behind, why, False)
        return _Element(value, end, error, is_whole)

    def _element(self) -> _Element:
        """The element at the position; as much is read as it needs."""
        window = self._window
        while True:
            text, start = window.text, window.at
            try:
                value, end = DECODER.raw_decode(text, start)
            except json.JSONDecodeError as error:
                is_short = error.pos + _TOKEN >= len(text) or error.msg.startswith("Unterminated")
                if not (is_short and not window.complete):
                    where = f"(character {error.pos - start} of the row)"
                    why = f"invalid JSON: {reason_of(error, text)} {where}"
                    return _Element(None, start, why, False)
            except (ValueError, RecursionError, MemoryError) as error:
                return _Element(None, start, f"invalid JSON: {error}", False)
            else:
                behind = SPACE.match(text, end).end()  # type: ignore[union-attr]
                if behind < len(text) or window.complete or behind - end > _OVERLAP:
                    return self._checked(value, end, behind)
            if window.held() > ROW_LIMIT:
                return _Element(None, start, TOO_LONG, False)
            window.more()
            if window.held() > LARGE:
                try:
                    check_values(window.text)
                except ValueError:
                    return _Element(None, window.at, TOO_MANY, False)

    def _checked(self, value: Any, end: int, behind: int) -> _Element:
        """The element, unless it is no text, too long, or something stands behind it."""
        window = self._window
        text, start = window.text, window.at
        if _swallows_rows(value):
            why = "invalid JSON: the list of turns holds lists; its end seems to be missing"
            return _Element(None, start, why, False)
        if text[behind : behind + 1] in ("", "}") and self._fields.are_held_by(value):
            # It took the bracket that closes the array.
            why = "invalid JSON: a bracket before the row or in it, which nothing closes"
            return _Element(None, start, why, False)
        if behind < len(text) and not (
            self._may_follow(behind) and self._is_complete(value, behind)
        ):
            why = f"invalid JSON: something stands behind the row (character {behind - start})"
            return _Element(None, end, why, False)
        if window.dirty and UNDECODED.search(text, start, end):
            return _Element(None, end, NOT_UTF8, True)
        if end - start > ROW_LIMIT // 4:
            # In parts: a copy of all of it would be a fourth of the memory of a long row.
            parts = (text[at : min(at + HEAD, end)] for at in range(start, end, HEAD))
            size = sum(len(part.encode("utf-8", "surrogateescape")) for part in parts)
            if size > ROW_LIMIT:
                return _Element(None, end, TOO_LONG, True)
        return _Element(value, end, None, True)

    def _is_complete(self, value: Any, behind: int) -> bool:
        """Whether a first list of turns is a row: where a field of no turn follows, it is in one.

        Args:
            value: The element.
            behind: What follows it.
        """
        field = FIELD.match(self._window.text, behind)
        is_list = type(value) is list and not self._brackets
        return not (is_list and field and field.group(1) not in self._fields.nested)

    def _may_follow(self, at: int) -> bool:
        """Whether what stands there may stand behind a row: a comma may be missing."""
        mark = self._window.text[at]
        brackets = self._brackets or {"{", "["}
        return mark == "," or mark in brackets or (mark == "]" and self._closes(at))

    def _closes(self, at: int) -> bool:
        """Whether a closing bracket may end the array, to judge by what stands behind it."""
        text = self._window.text
        behind = SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        following = text[behind : behind + 1]
        if self._around != "[" and following in (",", "}"):
            return not _MORE_ROWS.match(text, behind)
        return following not in {",", "}", *(self._brackets or {"{", "["})}

    def _resume(self, search: int, is_long: bool) -> bool:
        """Move on to where the next row begins; False if the file ends before.

        Args:
            search: Where the broken row cannot be trusted any more.
            is_long: Whether it is longer than a row may be.
        """
        window = self._window
        self._siblings.are_lists = (self._brackets or {window.text[window.at]}) == {"["}
        own = _FIRST_KEY.match(window.text, window.at)
        keys = self._fields.names | ({own.group(1)} if own else set())
        row_start = self._known_start(keys) if is_long else _ROW_START
        while True:
            match = row_start.search(window.text, search)
            if match is None:
                window.advance(max(window.at, search, len(window.text) - _OVERLAP))
                if not window.more():
                    window.advance(len(window.text))
                    return False
                search = window.at
                continue
            start = match.end()
            indent = len(self._indent)
            is_indented = indent > 0 and window.text.startswith(self._indent, start - indent)
            window.advance(start)
            is_row, end = self._is_row(is_indented, keys, is_long)
            if is_row:
                return True
            search = max(end, window.at)

    def _known_start(self, keys: set[str]) -> re.Pattern[str]:
        """What begins as rows do that were read: nothing less is trusted in an endless one.

        Args:
            keys: The fields of the rows, as far as they are known.
        """
        names = "|".join(map(re.escape, sorted(keys)))
        starts = [rf'[ \t\n\r]*(?=(?:\[[ \t\n\r]*)?\{{[ \t\n\r]*"(?:{names})"[ \t\n\r]*:)']
        if self._indent:
            starts.append(rf"[ \t\n\r]*{self._indent}(?=[\[{{])")
        return re.compile(rf"[,}}\]](?:{'|'.join(starts)})")

    def _is_row(self, is_indented: bool, keys: set[str], is_long: bool) -> tuple[bool, int]:
        """Whether a row begins at the position; if not, where to search on.

        It is not where it is in a list behind which the broken row goes on. Where that is
        unclear, its indentation and its keys decide.

        Args:
            is_indented: Whether it is indented as the rows are.
            keys: The fields of the rows, as far as they are known.
            is_long: Whether the row before is longer than a row may be.
        """
        window = self._window
        is_other = bool(self._brackets) and window.text[window.at] not in self._brackets
        value, end, error, _ = self._element()
        if error:
            first = _FIRST_KEY.match(window.text, window.at)
            is_like_rows = is_indented or bool(first and first.group(1) in keys)
            return is_like_rows and not is_other, window.at
        kind, end = self._siblings.judge(value, end)
        if kind is InList.ROWS or (is_other and kind is InList.UNCLEAR):
            return kind is InList.ROWS, window.at
        names = names_of(value)
        if kind is InList.NESTED:
            return is_indented and not is_other and not names.isdisjoint(keys), end
        is_nested = isinstance(value, dict) and names <= self._fields.nested
        is_like_rows = is_indented or not names.isdisjoint(keys)
        return is_like_rows or not (is_long or is_nested), end
