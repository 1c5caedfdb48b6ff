"""Which answers a mosaic holds, and in which order: the rules of its meta-instructions.

A rule is a function of the instructions' texts that a reader can follow: of equal ones the
lower number comes first, in descending orders too, and texts are compared whole and without
regard to case.

Example:
    >>> ordered("words_descending", ["Sing", "Add 2 and 2", "Dance"], random.Random(0))
    [2, 1, 3]
    >>> masked("longest", ["Sing", "Add 2 and 2", "Dance"], (0.1, 0.5), random.Random(0))
    [2]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

_KEYS: Final[dict[str, Callable[[str], Any]]] = {
    "alphabetical": str.casefold,
    "words": lambda text: len(text.split()),
    "characters": len,
}

ORDERS: Final = (
    *("fixed", "reverse", "odd_even", "even_odd"),
    *(f"{key}{suffix}" for key in _KEYS for suffix in ("", "_descending")),
)
MASKS: Final = ("fixed", "longest", "shortest", "odd", "even")


def ordered(rule: str, instructions: Sequence[str], rng: random.Random) -> list[int]:
    """The numbers of the instructions, from 1, in the order in which they are answered.

    Args:
        rule: One of `ORDERS`.
        instructions: Their texts.
        rng: Draws the fixed order.
    """
    numbers = range(1, len(instructions) + 1)
    match rule:
        case "fixed":
            return rng.sample(numbers, len(numbers))
        case "reverse":
            return [*reversed(numbers)]
        case "odd_even":
            return [*numbers[::2], *numbers[1::2]]
        case "even_odd":
            return [*numbers[1::2], *numbers[::2]]
        case _:
            key = _KEYS[rule.removesuffix("_descending")]
            # A stable sort keeps equal ones in the order of their numbers, reversed too.
            return sorted(
                numbers, key=lambda n: key(instructions[n - 1]), reverse=rule.endswith("ding")
            )


def masked(
    rule: str, instructions: Sequence[str], share: tuple[float, float], rng: random.Random
) -> list[int]:
    """The numbers of the instructions that are not answered, ascending.

    Args:
        rule: One of `MASKS`.
        instructions: Their texts, at least two.
        share: The range of the part that is left out, where the rule leaves it open.
        rng: Draws that part and the fixed numbers.
    """
    numbers = range(1, len(instructions) + 1)
    if rule in ("odd", "even"):
        return [*numbers[rule == "even" :: 2]]
    count = min(max(1, int(len(numbers) * rng.uniform(*share))), len(numbers) - 1)
    if rule == "fixed":
        return sorted(rng.sample(numbers, count))
    words = [len(text.split()) for text in instructions]
    by_length = sorted(numbers, key=lambda n: words[n - 1], reverse=rule == "longest")
    return sorted(by_length[:count])
