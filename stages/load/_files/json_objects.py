"""JSON objects one after the other, over several lines or in one, as source positions.

`jq` and `json.dump` in a loop write such files. A broken object costs itself: reading resumes at
the next line that begins with a bracket as the first one does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

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
from stages.load._files.stream import ROW_LIMIT, TOO_LONG, Stream
from stages.load._files.window import Window

_GAP: Final = re.compile(r"[\s,]*")
_NEXT: Final = re.compile(r"\n(?=\{)")
_NEAR: Final = 16
"""No token but a string is longer: an error that near to the end may be for want of the rest."""


def json_objects(stream: Stream) -> Iterator[Position]:
    """The objects of a file.

    Args:
        stream: The file.
    """
    window = Window(stream)
    window.more()
    while window.skip(_GAP):
        line = window.line
        value, end, error = _object(window)
        if error is None:
            window.advance(end)
        elif not _resume(window) and window.is_torn():
            break  # the torn last object and the early end are one failure
        yield line, value, error
    if stream.cut:
        yield window.line, None, stream.cut


def _object(window: Window) -> tuple[Any, int, str | None]:
    """The object at the position, where it ends, and why it cannot be used."""
    while True:
        try:
            value, end = DECODER.raw_decode(window.text, window.at)
        except json.JSONDecodeError as error:
            is_near = error.pos >= len(window.text) - _NEAR or error.msg.startswith("Unterminated")
            if is_near and window.held() > ROW_LIMIT:
                return None, 0, TOO_LONG
            if not (is_near and window.more()):
                return None, 0, f"invalid JSON: {reason_of(error, window.text)}"
            if window.held() > LARGE and (too_many := _too_many(window.text)):
                return None, 0, too_many
        except (ValueError, RecursionError, MemoryError) as error:
            return None, 0, f"invalid JSON: {error}"
        else:
            if window.dirty and UNDECODED.search(window.text, window.at, end):
                return None, 0, NOT_UTF8
            return value, end, None


def _too_many(text: str) -> str | None:
    try:
        check_values(text)
    except ValueError:
        return TOO_MANY
    return None


def _resume(window: Window) -> bool:
    """Move on to the next line that begins with an object; False where there is none."""
    window.advance(window.at + 1)
    while True:
        if match := _NEXT.search(window.text, window.at):
            window.advance(match.end())
            return True
        window.advance(max(window.at, len(window.text) - 1))
        if not window.more():
            window.advance(len(window.text))
            return False
