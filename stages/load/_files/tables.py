"""Tables of text (CSV, TSV) as source positions.

CSV is read with the standard library: it alone says on which line a record begins and
lets a broken one cost only itself.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import Field

from stages.load._files.json_lines import NOT_UTF8, UNDECODED, Position
from stages.load._files.stream import ROW_LIMIT, TOO_LONG, Stream

Delimiter = Annotated[str, Field(pattern=r'^[^"\r\n]$')]
"""What stands between the cells of a table: one character."""

_MESSAGES: Final = frozenset({"prompt", "completion", "chosen", "rejected"})
"""Columns that hold texts or lists of messages."""

_OTHER_DELIMITERS: Final = re.compile(r"[;|\t,]")
_BETWEEN_QUOTES: Final = re.compile(r'"([;|\t,])"')


_CELL: Final = re.compile(rb'[^"]*+(?:""[^"]*+)*+')
"""What an open cell holds: quotes in pairs."""

_QUOTES: Final = re.compile(rb'"*+')
_BLANK: Final = re.compile(rb"(?:\n++|(?:\r\n)++)*+")
_LINE: Final = re.compile(rb"[^\n]+\n?")
_SAMPLE: Final = 1 << 16
"""How much behind a line break is looked at, to see whether there are rows."""


def delimited(
    stream: Stream, default: str, delimiter: str | None, nested: frozenset[str]
) -> Iterator[Position]:
    """The rows of a CSV or TSV file with a header, quoted as in RFC 4180.

    Args:
        stream: The file.
        default: Between cells, unless the header shows that it is not.
        delimiter: Between cells in any case.
        nested: Columns whose cells may be JSON lists.
    """
    header: list[str] | None = None
    unusable = None
    for line, cells, error in _records(stream, delimiter or default):
        if header is None:
            header = cells
            unusable = None if delimiter else _wrong_delimiter(cells, bool(error))
            if not error:
                continue
            unusable = error = unusable or f"the header cannot be read: {error}"
        elif unusable:
            error = unusable  # without its header no row can be understood
        if error:
            yield line, None, error
        else:
            yield line, unpacked(dict(zip(header, cells, strict=True)), nested), None


def _wrong_delimiter(header: list[str], is_broken: bool) -> str | None:
    """What is wrong with a header of one cell that holds a delimiter of other tables.

    Args:
        header: Its cells.
        is_broken: Whether it could not be read: then it is the line.
    """
    pattern = _BETWEEN_QUOTES if is_broken else _OTHER_DELIMITERS
    if len(header) == 1 and (other := pattern.search(header[0])):
        name = repr(other.group().strip('"'))
        return (
            f"the header is one cell, {header[0].strip()!r:.80}: "
            f"are the cells separated by {name}? (delimiter: {name})"
        )
    return None


def _records(stream: Stream, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """The cells of each record and the line on which it begins.

    After a record that cannot be read, reading resumes at the line behind its
    first one, so that a stray quote does not swallow the rest of the file.
    """
    source = _Rewindable(stream)
    width = 0
    limit = csv.field_size_limit(sys.maxsize)  # a row has a limit, its cells have none
    try:
        while True:
            source.skip_blank()
            try:
                cells = next(csv.reader(source, delimiter=delimiter, strict=True), None)
            except _TooLong:
                yield source.first, [], TOO_LONG
                source.skip_long(delimiter, width)
            except csv.Error as bad:
                if source.ended and stream.cut:
                    break  # the torn last record and the early end are one failure
                source.rewind()
                yield source.first, [source.line()], f"invalid CSV: {bad}"
            else:
                if cells is None:
                    break
                width = width or len(cells)
                error = _cells_error(cells, width)
                if cells:  # a blank line has none
                    yield source.first, cells, error
                if error and source.holds_rows(delimiter, width):
                    source.rewind()
            source.forget()
    finally:
        csv.field_size_limit(limit)
    if stream.cut:
        yield source.first, [], stream.cut


def _cells_error(cells: list[str], width: int) -> str | None:
    if len(cells) != width:
        return f"{len(cells)} cells where the header has {width}"
    return NOT_UTF8 if any(UNDECODED.search(cell) for cell in cells) else None


class _TooLong(Exception):
    """A record is longer than a row may be."""


class _Rewindable:
    """Lines of a table; those behind the first one of the current record can be read again.

    They are held as bytes: as lines they would take many times as much.

    Attributes:
        first: The line on which the current record begins, from 1.
        ended: Whether the record goes up to the end of the data.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._blocks = stream, iter(stream)
        self._data = bytearray()
        self._at = 0  # where the next line begins
        self._second = 0  # where the second line of the current record begins
        self._lines = 0
        self.first, self.ended = 1, False

    def __iter__(self) -> _Rewindable:
        return self

    def __next__(self) -> str:
        """The first line of a record; then all lines up to one that ends a cell, as one text.

        A reader that wants more than the first is in a quoted cell, which only a quote ends,
        and a cell of a million line breaks is not read line by line.
        """
        end = self._line_end(self._cell_end(self._at) if self._lines else self._at)
        if end > ROW_LIMIT:
            raise _TooLong
        is_torn = self._stream.cut is not None and not self._data.endswith(b"\n", 0, end)
        self.ended = end == self._at or is_torn
        if self.ended:
            raise StopIteration
        text = self._data[self._at : end].decode("utf-8", "surrogateescape")
        self._second = self._second or end
        self._lines += self._data.count(b"\n", self._at, end)
        self._at = end
        if text.endswith("\n"):
            return text
        self._lines += 1
        return text + "\n"

    def _line_end(self, start: int) -> int:
        """Where a line ends; without a line break the end of the data, or of what is held."""
        while (at := self._data.find(b"\n", start)) < 0:
            start = len(self._data)
            if start > ROW_LIMIT or not self._more():
                return start
        return at + 1

    def _cell_end(self, start: int) -> int:
        """Where the quote stands that ends an open cell; without one the end as above."""
        while (at := _CELL.match(self._data, start).end()) >= len(self._data) - 1:  # type: ignore[union-attr]
            start = at
            if len(self._data) > ROW_LIMIT or not self._more():
                return len(self._data)
        return at

    def _more(self) -> bool:
        block = next(self._blocks, None)
        self._data += block or b""
        return block is not None

    def _drop(self, end: int) -> None:
        self.first += self._data.count(b"\n", 0, end)
        del self._data[:end]

    def skip_blank(self) -> None:
        """Let the current record begin behind lines that hold nothing."""
        while len(self._data) > 1 or self._more():
            if end := _BLANK.match(self._data).end():  # type: ignore[union-attr]
                self._drop(end)
            if len(self._data) > 1:
                return

    def rewind(self) -> None:
        """Let the current record be its first line alone."""
        self._at, self._lines = self._second, 1

    def line(self) -> str:
        """The first line of the current record."""
        return self._data[: self._second].decode("utf-8", "surrogateescape")

    def holds_rows(self, delimiter: str, width: int) -> bool:
        """Whether each line behind the record's first is a row: a stray quote swallowed them."""
        return _are_rows(self._data[self._second : self._at], delimiter, width)

    def skip_long(self, delimiter: str, width: int) -> None:
        """Go on behind a record that is longer than a row may be.

        Where its lines are rows, which a stray quote swallowed, the second one is next. Else the
        record ends where its open cell and the line of that do, unless rows follow its next
        line break.
        """
        if self._second and self._rows_at(self._second, delimiter, width):
            self.rewind()
            return
        while True:
            if self._drop_held() and self._skip_cell(delimiter, width):
                return
            try:  # what is left of the record is read for its end alone
                next(csv.reader(self, delimiter=delimiter, strict=True), None)
            except _TooLong:
                continue
            except csv.Error:
                self.rewind()
            return

    def _drop_held(self) -> bool:
        """Let go of what is held, from the start of a cell on; whether one is open behind it."""
        end = len(self._data)
        # Only all of some quotes in a row say whether a cell is open behind them.
        while self._data.endswith(b'"', 0, end) and end < 2 * ROW_LIMIT and self._more():
            end = _QUOTES.match(self._data, end).end()  # type: ignore[union-attr]
            if end < len(self._data):
                break
        is_open = self._data.count(b'"', 0, end) % 2 == 1
        self._drop(end)
        self._at = self._second = self._lines = 0
        return is_open

    def _skip_cell(self, delimiter: str, width: int) -> bool:
        """Go on behind an open cell, or to rows within it; whether to rows."""
        is_first_line = True
        while True:
            end = _CELL.match(self._data).end()  # type: ignore[union-attr]
            line = self._data.find(b"\n", 0, end) + 1
            if line and is_first_line:
                is_first_line = False
                if self._rows_at(line, delimiter, width):
                    self._drop(line)
                    return True
            elif end < len(self._data) - 1:
                self._drop(end + 1)
                return False
            else:
                self._drop(end)
                if not self._more():
                    self._drop(len(self._data))
                    return False

    def _rows_at(self, start: int, delimiter: str, width: int) -> bool:
        """Whether rows stand at a position, which a table of one column does not show."""
        while (is_part := len(self._data) - start < _SAMPLE) and self._more():
            pass
        sample = self._data[start : start + _SAMPLE]
        whole = len(sample) if is_part else sample.rfind(b"\n") + 1
        return width > 1 and _are_rows(sample[:whole], delimiter, width)

    def forget(self) -> None:
        """Begin a new record."""
        del self._data[: self._at]
        self.first += self._lines
        self._at, self._second, self._lines, self.ended = 0, 0, 0, False


def _are_rows(data: bytearray, delimiter: str, width: int) -> bool:
    """Whether there are lines, and each that is not blank is a row of so many cells."""
    lines = (match[0].decode("utf-8", "surrogateescape") for match in _LINE.finditer(data))
    widths = map(len, csv.reader(lines, delimiter=delimiter, strict=True))
    try:
        first = next(filter(None, widths), None)
        return first == width and all(each in (0, width) for each in widths)
    except csv.Error:
        return False


def unpacked(row: dict[str, Any], nested: frozenset[str]) -> dict[str, Any]:
    """A table's row in which a cell that holds a JSON list is that list.

    Args:
        row: The row, which is changed.
        nested: The columns whose cells may be JSON lists.

    >>> unpacked({"messages": "[1]", "n": "[1]"}, frozenset({"messages"}))
    {'messages': [1], 'n': '[1]'}
    """
    for name in nested & row.keys():
        if isinstance(row[name], str) and row[name].lstrip().startswith("["):
            try:
                row[name] = json.loads(row[name])
            except (ValueError, RecursionError):
                continue  # a text after all, which the format may accept or refuse
    return row


def without_nulls(row: dict[str, Any], nested: frozenset[str]) -> dict[str, Any]:
    """A table's row without the null members of its structs.

    In Arrow all structs of a column have the members of any, so that null says only that the
    row as it was written did not have it: the arguments of one tool appear in all calls.

    Args:
        row: The row, which is changed.
        nested: The columns of lists and structs.

    >>> without_nulls({"tools": [{"a": 1, "b": None}], "n": None}, frozenset({"tools"}))
    {'tools': [{'a': 1}], 'n': None}
    """
    for name in (nested | _MESSAGES) & row.keys():
        row[name] = _present(row[name])
    return row


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _present(v) for k, v in value.items() if v is not None}
    return [_present(v) for v in value] if isinstance(value, list) else value
