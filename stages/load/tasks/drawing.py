"""Random choices of a row: from the seed, the row's own content and the purpose, and nothing else.

No generator is shared: another row, another task or another order of the file changes no choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

KEY_BYTES: Final = 16

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, default=str)


def row_key(task: str, values: Mapping[str, Any]) -> bytes:
    """What stands for a row's inputs: 16 bytes, the same wherever the row is.

    Args:
        task: The task's name.
        values: The fields that the answer is not in.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.
        RecursionError: A value is nested too deep.

    >>> row_key("nli", {"text": "It rains."}).hex()
    '0dcca94eb2879871ed55792221d1b55b'
    """
    return blake2b(f"{task}\n{_ENCODER.encode(values)}".encode(), digest_size=KEY_BYTES).digest()


def texts_key(values: Mapping[str, Any]) -> bytes:
    """What rows of different tasks share that ask of the same texts, whatever their fields are.

    Args:
        values: The fields that the answer is not in.

    Returns:
        16 bytes; none without a text, or where a value is nested too deep.

    >>> texts_key({"text": "It  rains."}) == texts_key({"premise": "it rains.", "note": None})
    True
    """
    try:
        texts = {" ".join(str(v).casefold().split()) for v in values.values() if v is not None}
    except RecursionError:
        return b""
    text = "\n".join(sorted(texts)).strip()
    if not text:
        return b""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


class Draws:
    """The choices of one row.

    Args:
        seed: The stage's seed.
        row: The row's key.

    Example:
        >>> draws = Draws(0, b"row")
        >>> draws.below(10, "template") == Draws(0, b"row").below(10, "template")
        True
    """

    __slots__ = ("_prefix", "row")

    def __init__(self, seed: int, row: bytes) -> None:
        self._prefix = b"load.tasks:%d:%b:" % (seed, row)
        self.row = row

    def number(self, purpose: str) -> int:
        """A number below 2^64."""
        digest = blake2b(self._prefix + purpose.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def below(self, count: int, purpose: str) -> int:
        """A number below `count`."""
        return self.number(purpose) % count

    def fraction(self, purpose: str) -> float:
        """A number in [0, 1)."""
        return (self.number(purpose) >> 11) / 2.0**53

    def sample(self, count: int, purpose: str) -> Iterator[int]:
        """All numbers below `count`, in a random order.

        Args:
            count: How many there are.
            purpose: What they are for.
        """
        moved: dict[int, int] = {}  # Fisher-Yates over a list that is never written out
        for i in range(count):
            j = i + self.below(count - i, f"{purpose} {i}")
            yield moved.get(j, j)
            moved[j] = moved.get(i, i)
