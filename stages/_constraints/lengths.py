"""Kinds of length beside those of IFEval: CoDI-Eval's five modes, and Ruler's length tokens."""

from __future__ import annotations

import re
from typing import Final, Literal

from pipeline.types import Count
from stages._constraints.constraint import Constraint, kind
from stages._constraints.units import words

Mode = Literal["equal to", "at most", "at least", "around", "between"]
Target = Literal["10", "30", "50", "80", "150", "300", "500", "700", ">800"]

BANDS: Final[dict[Target, tuple[int, int | None]]] = {
    "10": (5, 15), "30": (25, 35), "50": (45, 55), "80": (75, 85), "150": (135, 155),
    "300": (295, 305), "500": (495, 505), "700": (695, 705), ">800": (800, None),
}  # fmt: skip
"""More words than the first number and no more than the second, as in the authors' code.

That of 150 is not centred there either.
"""

FLEXIBLE: Final[dict[Target, tuple[int, int | None]]] = {
    "10": (0, 20), "30": (20, 40), "50": (40, 60), "80": (60, 100), "150": (100, 200),
    "300": (200, 400), "500": (400, 600), "700": (600, 800), ">800": (800, None),
}  # fmt: skip
"""The bands of the flexible match, by which answers are evaluated."""

_PHRASES: Final[dict[Mode, str]] = {
    "equal to": "exactly {}",
    "at most": "at most {}",
    "at least": "at least {}",
    "around": "around {}",
    "between": "between {} and {}",
}
_UNITS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

_AROUND: Final = 10
"""Percent by which a length may differ that is around another."""


@kind(
    "length:words",
    "Answer in {length} words.",
    "Your answer should be {length} words long.",
)
class LengthWords(Constraint):
    """The words between white space are within bounds (CoDI-Eval, arXiv:2401.00690).

    A first line that ends with a colon, and is not all, is a preamble and not counted.

    Args:
        mode: How the length is asked for.
        number: The number that the mode names.
        second: The second one, of `between` alone.
    """

    mode: Mode
    number: Count
    second: Count | None = None

    def __post_init__(self) -> None:
        """Check the two numbers.

        Raises:
            ValueError: The second one is not that of the mode.
        """
        if (self.second is None) == (self.mode == "between"):
            raise ValueError(f"second must be there with between alone, got {self.second}")
        if self.second is not None and self.second < self.number:
            raise ValueError(f"second must be at least {self.number}, got {self.second}")

    def check(self, text: str) -> bool:
        """See the class."""
        lower, upper = bounds(self.mode, self.number, self.second)
        count = length_in_words(text)
        return lower <= count and (upper is None or count <= upper)

    def negation(self) -> LengthWords | None:
        """The other side of a bound; no mode says that a length is not another."""
        if self.mode == "at most":
            return LengthWords(mode="at least", number=self.number + 1)
        if self.mode == "at least" and self.number > 1:
            return LengthWords(mode="at most", number=self.number - 1)
        return None

    def worded(self, number: int = 0) -> str:
        """A sentence that asks for the length, in digits or in words.

        Args:
            number: Which of the wordings; the first two have digits, the other two words.
        """
        count = len(self.wordings)
        shown = spelled if number // count % 2 else str
        length = _PHRASES[self.mode].format(shown(self.number), shown(self.second or 0))
        return self.wordings[number % count].format(length=length)


@kind("length:token", "Begin your answer with [MLT:{target}] and keep to that length in words.")
class LengthToken(Constraint):
    """A length token, and behind it as many words as it stands for (Ruler, arXiv:2409.18943).

    Args:
        target: The number in the token.
        match: Whether the band is that of the training data, or the flexible one.
    """

    target: Target
    match: Literal["training", "flexible"] = "training"

    def check(self, text: str) -> bool:
        """See the class."""
        token = token_of(self.target)
        bands = BANDS if self.match == "training" else FLEXIBLE
        rest = text.removeprefix(token)
        return rest != text and within(len(words(rest)), bands[self.target])


def token_of(target: Target) -> str:
    """The token of a target.

    Args:
        target: One of Ruler's nine.
    """
    return f"[MLT:{target}]"


def target_of(count: int) -> Target | None:
    """The target whose band, of the training data, holds a number of words.

    Args:
        count: A number of words.

    Example:
        >>> [target_of(count) for count in (5, 6, 15, 16, 801)]
        [None, '10', '10', None, '>800']
    """
    return next((target for target, band in BANDS.items() if within(count, band)), None)


def within(count: int, band: tuple[int, int | None]) -> bool:
    """Whether a number is in a band: above its lower end, at most its upper one.

    Args:
        count: The number.
        band: The ends; without an upper one there is none.
    """
    return band[0] < count and (band[1] is None or count <= band[1])


def bounds(mode: Mode, first: int, second: int | None = None) -> tuple[int, int | None]:
    """The fewest and the most words that a mode allows.

    Args:
        mode: The mode.
        first: The number that it names.
        second: The second one, of `between`.

    >>> bounds("around", 150), bounds("around", 36), bounds("at most", 80)
    ((135, 165), (32, 40), (1, 80))
    """
    match mode:
        case "equal to":
            return first, first
        case "at most":
            return 1, first
        case "at least":
            return first, None
        case "between":
            return first, second
    return round(first * (100 - _AROUND) / 100), round(first * (100 + _AROUND) / 100)


def length_in_words(text: str) -> int:
    r"""Words between white space, without a preamble.

    Args:
        text: An answer.

    >>> length_in_words("Sure, here it is:\n\nIt rains."), length_in_words("It rains:")
    (2, 2)
    """
    preamble = re.match(r"\s*[^\n]*:[ \t]*\n+(?=\s*\S)", text)
    return len(text[preamble.end() :].split() if preamble else text.split())


def spelled(number: int) -> str:
    """A number in words.

    Args:
        number: From 0 to 999,999.

    >>> spelled(168), spelled(40), spelled(1013)
    ('one hundred and sixty-eight', 'forty', 'one thousand and thirteen')
    """
    if number < len(_UNITS):
        return _UNITS[number]
    if number < 100:
        unit = f"-{_UNITS[number % 10]}" if number % 10 else ""
        return _TENS[number // 10 - 2] + unit
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    link = " and " if rest < 100 else " "
    return f"{spelled(head)} {name}" + (f"{link}{spelled(rest)}" if rest else "")
