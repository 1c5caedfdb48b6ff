"""The text of a file, of which only a part is held at a time."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

from stages.load._files.json_lines import LARGE, UNDECODED
from stages.load._files.stream import HEAD, ROW_LIMIT, Stream


class Window:
    """The text of a file, of which only a part is held at a time.

    Attributes:
        text: The part.
        at: The position in it; what lies before is not needed any more.
        line: The line of that position, from 1.
        complete: Whether the file ends with the part.
        dirty: Whether there were bytes that are not UTF-8.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._blocks = stream, iter(stream)
        self._decoder = getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at = "", 0
        self.line = 1
        self.complete, self.dirty = False, False

    def held(self) -> int:
        """How many characters are held from the position on."""
        return len(self.text) - self.at

    def is_torn(self) -> bool:
        """Whether the data ended early: the torn last element and that are one failure."""
        return self._stream.cut is not None or not self._stream.complete

    def more(self) -> bool:
        """Read about as much again as is held, up to the longest row; False at the end."""
        if self.complete:
            return False
        size = max(HEAD, min(self.held(), ROW_LIMIT - self.held()))
        parts = [self.text[self.at :]]
        self.text, self.at = "", 0
        while size > 0 and not self.complete:
            block = next(self._blocks, None)
            self.complete = block is None
            part = self._decoder.decode(block or b"", final=self.complete)
            self.dirty = self.dirty or bool(not part.isascii() and UNDECODED.search(part))
            parts.append(part)
            size -= len(part)
        self.text = "".join(parts)
        return True

    def advance(self, end: int) -> None:
        """Move on to a position of the part; much that lies before it is let go of."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end
        if end > LARGE:
            self.text, self.at = self.text[end:], 0

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind the pattern, which matches anything; False where the file ends with it."""
        while True:
            match = pattern.match(self.text, self.at)
            self.advance(match.end() if match else self.at)
            if self.held():
                return True
            if not self.more():
                return False
