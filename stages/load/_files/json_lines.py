"""JSON lines as source positions, and what all readers of JSON share.

The next line is the next row, and so a broken one costs only itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from stages.load._files.stream import TOO_LONG, Stream, lines

Position = tuple[int, Any, str | None]
"""Line (from 1), the value there, and why it cannot be used (the value is then None)."""

UNDECODED: Final = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` leaves where bytes were no UTF-8."""

NOT_UTF8: Final = "invalid UTF-8"

DECODER: Final = json.JSONDecoder()
LARGE: Final = 8 << 20
_VALUES: Final = 4_000_000
"""How many values a large row may hold: as a Python object each takes up to 200 bytes."""

TOO_MANY: Final = f"the row holds more than {_VALUES:,} values"

# Possessive, since an unfinished string of megabytes would be tried from each of its ends.
_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


def json_lines(stream: Stream) -> Iterator[Position]:
    """The rows of a file of JSON lines.

    Args:
        stream: The file.
    """
    number = 1
    for number, line in lines(stream):
        if line is None:
            yield number, None, TOO_LONG
            continue
        if not line.strip():
            continue
        value, error = _parse(line)
        del line  # it may be long: not held while the row is read
        if error and stream.cut:
            break  # the torn last line and the early end are one failure
        yield number, value, error
    if stream.cut:
        yield number, None, stream.cut


def _parse(line: bytes) -> tuple[Any, str | None]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, f"invalid UTF-8 ({error.reason} at byte {error.start} of the line)"
    try:
        if len(text) > LARGE:
            check_values(text)
        return DECODER.decode(text), None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos :].strip() == ",":
            return None, "invalid JSON: a comma behind the row, where JSON lines have none"
        where = f"(character {error.pos} of the line)"
        return None, f"invalid JSON: {reason_of(error, text)} {where}"
    except (ValueError, RecursionError, MemoryError) as error:
        # A number too long, a nesting too deep, more values than memory holds.
        return None, str(error) if str(error) == TOO_MANY else f"invalid JSON: {error}"


def reason_of(error: json.JSONDecodeError, text: str) -> str:
    """The parser's reason, where it names the trouble: a comma before a bracket it does not.

    Args:
        error: What the parser raised.
        text: What it read.
    """
    before = text[max(0, error.pos - 100) : error.pos].rstrip()
    closes = text[error.pos : error.pos + 1] in ("}", "]")
    return "a comma before the closing bracket" if closes and before.endswith(",") else error.msg


def check_values(text: str) -> None:
    """Raise ValueError for a large text of so many values that they would fill the memory."""
    structure = _STRINGS.sub("", text)
    if sum(map(structure.count, ",[{")) > _VALUES:
        raise ValueError(TOO_MANY)
