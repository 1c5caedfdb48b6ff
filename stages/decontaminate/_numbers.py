"""The numbers of a text, in digits or in English words: a paraphrase keeps them.

"Three dozen eggs" and "36 eggs" name different numbers here (3 dozen are 36 only as a
product), while "thirty-six" and "36" are equal. "One" is left out, since it is a
pronoun more often than a number.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

SMALL: Final = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
SCALES: Final = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
PARTS: Final = {
    "half": 0.5,
    "quarter": 0.25,
    "twice": 2.0,
    "double": 2.0,
    "thrice": 3.0,
    "triple": 3.0,
    "dozen": 12.0,
}

_PIECE = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")


@lru_cache(maxsize=1 << 16)
def numbers_in(text: str) -> frozenset[float]:
    """All different numbers that a text names.

    Example:
        >>> sorted(numbers_in("Two hundred five apples and 3.5 pears, half of them ripe"))
        [0.5, 3.5, 205.0]
    """
    numbers: set[float] = set()
    spelled: list[str] = []
    for piece in _PIECE.findall(text.lower()):
        if piece in SMALL or piece in SCALES:
            spelled.append(piece)
        elif piece != "and" or not spelled:
            numbers |= _spelled_numbers(spelled)
            spelled = []
            if piece[0].isdecimal():
                numbers.add(float(piece.replace(",", "")))
            elif piece in PARTS:
                numbers.add(PARTS[piece])
    return frozenset(numbers | _spelled_numbers(spelled))


def _spelled_numbers(words: list[str]) -> set[float]:
    """The numbers of adjacent number words: "two hundred five" is one, "two three" two."""
    numbers: set[float] = set()
    total, part = 0, None
    for word in words:
        if word == "hundred":
            part = (part or 1) * 100
        elif word in SCALES:
            total, part = total + (part or 1) * SCALES[word], None
        elif part is None or _continues(part, SMALL[word]):
            part = (part or 0) + SMALL[word]
        else:
            numbers.add(float(total + part))
            total, part = 0, SMALL[word]
    if words and words != ["one"]:
        numbers.add(float(total + (part or 0)))
    return numbers


def _continues(part: int, value: int) -> bool:
    """Whether a value can follow within one number: "forty" after "two hundred" does."""
    tens = part % 100
    return part > 0 and (tens == 0 or (tens >= 20 and tens % 10 == 0 and value < 10))


def agreement(item: frozenset[float], turn: frozenset[float]) -> float:
    """The fraction of an item's numbers that a turn names too; 1 for an item without any."""
    return len(item & turn) / len(item) if item else 1.0
