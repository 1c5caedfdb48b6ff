"""How the parts of a combined answer are written, and how they are read back.

Example:
    >>> layout = Layout("({n})", "[BEGIN]", "[END]")
    >>> text = layout.join([(2, "Paris"), (1, "4")])
    >>> layout.split(text)
    [(2, 'Paris'), (1, '4')]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final


@dataclass(frozen=True)
class Layout:
    """The number before each part and the lines around it.

    Attributes:
        number: How a number is written: "{n}." or "Task {n}:".
        opening: The line before an answer; empty where only the number stands before it.
        closing: The line after an answer.
    """

    number: str
    opening: str = ""
    closing: str = ""

    def task(self, n: int, instruction: str) -> str:
        """An instruction with its number.

        Args:
            n: Its number, from 1.
            instruction: The text.
        """
        return f"{self.number.format(n=n)} {instruction}"

    def join(self, answers: Iterable[tuple[int, str]]) -> str:
        """The answers as one text.

        Args:
            answers: The number of each and its text, in the order in which they are written.
        """
        return "\n\n".join(self._part(n, answer) for n, answer in answers)

    def split(self, text: str) -> list[tuple[int, str]]:
        """The answers that a text holds, with their numbers; inverts `join`.

        An answer that looks like the layout itself is read otherwise than it was written: who
        joins compares, and takes another layout.

        Args:
            text: What `join` gives.
        """
        return [(int(match["n"]), match["answer"]) for match in self._pattern.finditer(text)]

    def _part(self, n: int, answer: str) -> str:
        number = self.number.format(n=n)
        if not self.opening:
            return f"{number} {answer}"
        return f"{number}\n{self.opening}\n{answer}\n{self.closing}"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        before, after = (re.escape(side) for side in self.number.split("{n}"))
        number = rf"{before}(?P<n>[0-9]+){after}"
        if not self.opening:
            return re.compile(
                rf"(?:\A|\n\n){number} (?P<answer>.*?)"
                rf"(?=\n\n{number.replace('?P<n>', '?:')} |\Z)",
                re.DOTALL,
            )
        opening, closing = re.escape(self.opening), re.escape(self.closing)
        return re.compile(
            rf"(?:\A|\n\n){number}\n{opening}\n(?P<answer>.*?)\n{closing}(?=\n\n|\Z)", re.DOTALL
        )


_NUMBERS: Final = ("{n}.", "{n})", "({n})", "[{n}]", "#{n}", "Task {n}:")
_LINES: Final = (
    ("[BEGIN]", "[END]"),
    ("[ANSWER]", "[/ANSWER]"),
    ("<answer>", "</answer>"),
    ("<begin>", "<end>"),
    ("((start))", "((stop))"),
    ("=== answer ===", "=== end of answer ==="),
)

PRIMARY: Final = tuple(Layout(number) for number in _NUMBERS)
"""Numbers alone."""

FORMATS: Final = tuple(Layout(number, *lines) for number in _NUMBERS for lines in _LINES)
"""Numbers, and lines around each answer."""
