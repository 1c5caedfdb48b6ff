"""From a file to source positions: (line, value, error), one for each row that the file holds.

Whatever a file contains, reading it yields values or errors and never raises: one broken
row must not cost the others. Rows are read one after the other; only a JSON array is held
as one text, since no line ends its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from stages.load._stream import WRAPPED, Container, Stream, lines
from stages.load._tables import UNDECODED, Position, delimited, parquet

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_COMMA: Final = re.compile(r"[ \t\n\r]*,?[ \t\n\r]*")
_FIRST_KEY: Final = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")')
_DECODER: Final = json.JSONDecoder()


def positions(stream: Stream, container: Container, nested: frozenset[str]) -> Iterator[Position]:
    """The source positions of a file.

    Args:
        stream: The file.
        container: How it holds its rows.
        nested: The columns of a table whose cells may be JSON.
    """
    if container == "parquet":
        return parquet(stream, nested)
    if container == "json":
        return _json_array(stream)
    if container == "jsonl":
        return _json_lines(stream)
    if container == "text":
        return _text(stream)
    return delimited(stream, "\t" if container == "tsv" else ",", nested)


def _text(stream: Stream) -> Iterator[Position]:
    """A plain text file: one position that holds all of it, titled by the file's name."""
    data = b"".join(stream)
    try:
        text, error = data.decode("utf-8"), stream.cut
    except UnicodeDecodeError as bad:
        text, error = "", stream.cut or f"invalid UTF-8 ({bad.reason} at byte {bad.start})"
    yield 1, None if error else {"text": text, "title": stream.path.name}, error


def _json_lines(stream: Stream) -> Iterator[Position]:
    number = 0
    for number, line in enumerate(lines(stream), 1):
        if not line.strip():
            continue
        value, error = _parse(line)
        if error and stream.cut:
            break  # the torn last line and the early end are one failure
        yield number, value, error
    if stream.cut:
        yield max(number, 1), None, stream.cut


def _parse(line: bytes) -> tuple[Any, str | None]:
    try:
        return _DECODER.decode(line.decode("utf-8")), None
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 ({error.reason} at byte {error.start} of the line)"
    except json.JSONDecodeError as error:
        return None, f"invalid JSON: {error.msg} (character {error.pos} of the line)"
    except (ValueError, RecursionError) as error:  # a number too long, a nesting too deep
        return None, f"invalid JSON: {error}"


def _json_array(stream: Stream) -> Iterator[Position]:
    """The elements of a JSON array, read one by one so that a broken one costs only itself.

    The array is all of the file, or the field `data` of the object that is.
    """
    data = b"".join(stream)
    try:
        text, dirty = data.decode("utf-8"), False
    except UnicodeDecodeError:
        text, dirty = data.decode("utf-8", "surrogateescape"), True
    del data
    wrapped = WRAPPED.match(text)
    first = wrapped.end() if wrapped else text.index("[") + 1
    at = _behind(_SPACE, text, first)
    line, counted = 1, 0
    closed = False
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        closed = text.startswith("]", at)
        if closed or at == len(text):
            break
        value, end, error = _element(text, at, dirty)
        if error and end is None:
            end = _next_element(text, at)
            if end is None and (stream.cut or not stream.complete):
                break  # the torn last element and the early end are one failure
        yield line, value, error
        if end is None:
            return
        at = _behind(_COMMA, text, end)
    error = _end(text, first, at, closed, stream)
    if error:
        yield line, None, error


def _end(text: str, first: int, at: int, closed: bool, stream: Stream) -> str | None:
    """The error where reading a JSON array stopped, if any. first: where the array began."""
    if stream.cut or not stream.complete:
        return stream.cut
    if not closed:
        return "the JSON array is not closed: the file ends early"
    around = text[:first].lstrip() + text[at:]  # the file without the array's elements
    try:
        _DECODER.decode(around)
    except json.JSONDecodeError as error:
        if error.pos >= len(around):
            return "the JSON object around the rows is not closed: the file ends early"
    except (ValueError, RecursionError):
        pass  # it cannot be understood, and belongs to no row
    else:
        return None
    return "there is more after the end of the JSON array"


def _behind(mark: re.Pattern[str], text: str, at: int) -> int:
    match = mark.match(text, at)
    return match.end() if match else at


def _element(text: str, start: int, dirty: bool) -> tuple[Any, int | None, str | None]:
    """The element at `start`, where it ends (None if that is unknown), and the error."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return None, None, f"invalid JSON: {error.msg} (character {error.pos - start} of the row)"
    except (ValueError, RecursionError) as error:
        return None, None, f"invalid JSON: {error}"
    if dirty and UNDECODED.search(text, start, end):
        return None, end, "invalid UTF-8"
    return value, end, None


def _next_element(text: str, start: int) -> int | None:
    """Where the element after a broken one begins.

    The rows of a file begin with the same key, and inside a string its quotes
    would be escaped: so the next `{"key"` is the next row.
    """
    first_key = _FIRST_KEY.match(text, start)
    key = re.escape(first_key.group(1)) if first_key else '"'
    match = re.compile(r"\{\s*" + key).search(text, start + 1)
    return match.start() if match else None
