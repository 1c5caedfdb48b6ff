r"""What is printed shows control characters and never carries them out.

A row, a server's error or the name of a file may hold anything: escape sequences that
repaint the terminal, marks that turn the reading order round, characters without width. All
that the command line prints goes through `protect`ed streams, which write each of them as
`\u001b`, the form that JSON has for it: so what is printed as JSON still has the same values.
Line breaks and tabs stay, other text is as it was.
"""

from __future__ import annotations

import codecs
import re
import sys
from typing import Any, Final, TextIO

_CONTROLS: Final = (
    "\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # C0 without tab and line feed, DEL, C1
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f"
)
"""Unicode's categories Cc, Cf, Zl and Zp: controls, and formats that have no width."""
_UNSAFE: Final = re.compile(f"[{_CONTROLS}\ud800-\udfff]")
_UNSAFE_IN_LINE: Final = re.compile(f"[\t\n{_CONTROLS}\ud800-\udfff]")
_SHORT: Final = {"\n": r"\n", "\t": r"\t"}


def visible(text: str) -> str:
    r"""A text with its control characters escaped; line breaks and tabs stay.

    Example:
        >>> print(visible("red: \x1b[31m, reversed: \u202e"))
        red: \u001b[31m, reversed: \u202e
    """
    # Whole lines are tested first: that is twenty times as fast as the search.
    return "\n".join(
        line if line.isprintable() else _UNSAFE.sub(_escape, line) for line in text.split("\n")
    )


def visible_line(text: str) -> str:
    r"""The same, with line breaks and tabs escaped as well: it cannot pass for a second line.

    Example:
        >>> print(visible_line("a name\nerror: forged"))
        a name\nerror: forged
    """
    return _UNSAFE_IN_LINE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or _as_json(match[0])


def _as_json(character: str) -> str:
    """A character as JSON escapes it: two of them beyond the first 65,536."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


class VisibleStream:
    """A text stream to which everything is written `visible`.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; returns its length, as other streams do."""
        self._stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)


def protect() -> None:
    """Let standard output and error show control characters, in this process.

    What the terminal's encoding lacks is escaped as well, and so is no error.
    """
    codecs.register_error("visible", _escape_unencodable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, VisibleStream):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="visible")
            setattr(sys, name, VisibleStream(stream))


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_as_json, characters)), error.end
