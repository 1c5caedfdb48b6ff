"""Which rows of a task are held out, trained on, or more than its cap.

A first pass over the rows gives each a random number by seed and content. The rows with the
smallest numbers are held out, those after them are trained on, and those with the largest may be
shown as solved examples. Equal rows have equal numbers, so that they are on one side.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.load._files.json_lines import Position
from stages.load._rows.output import SURROGATE, TOO_DEEP
from stages.load.tasks.drawing import KEY_BYTES, Draws, row_key
from stages.load.tasks.holding_out import HeldOut
from stages.load.tasks.rendering import Example, Row

MAX_EXAMPLES: Final = 256
"""How many rows of a task few-shot prompts choose from."""

HELD_OUT_ROW: Final = "held_out_row"


class Choice(NamedTuple):
    """What the first pass over a task's rows says of those that are objects, in their order.

    Attributes:
        keys: The key of each, 16 bytes.
        errors: Why a row cannot be used, by its number.
        places: The place of each among those that are not held out, from 0, by the sampling in
            the order of the file or at random; -1 for the others.
        examples: What few-shot prompts may show.
    """

    keys: bytes
    errors: Mapping[int, str]
    places: NDArray[np.int64]
    examples: tuple[Example, ...]

    def key(self, number: int) -> bytes:
        """The key of a row."""
        return self.keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]


def choose(
    name: str,
    inputs: Callable[[Row], Mapping[str, Any]],
    positions: Iterable[tuple[str, Position]],
    seed: int,
    *,
    is_first: bool,
    held_out: HeldOut | None,
    num_examples: int,
) -> Choice:
    """Read a task's rows once and choose among them.

    Args:
        name: The task's name.
        inputs: The fields that stand for a row.
        positions: The task's rows.
        seed: The stage's seed.
        is_first: Whether a cap keeps the first rows, and not random ones.
        held_out: What is held out of the task; None for nothing.
        num_examples: How many rows few-shot prompts may choose from.
    """
    keys, errors, numbers = bytearray(), dict[int, str](), array("Q")
    pool: list[tuple[int, Example]] = []
    for _, (_, row, _) in positions:
        if not isinstance(row, dict):
            continue
        key, error = _key(name, inputs, row)
        number = Draws(seed, key).number("order")
        if error:
            errors[len(numbers)] = error
        elif num_examples:
            pool.append((number, Example(key, row)))
            if len(pool) > 4 * num_examples:
                pool = _largest(pool, num_examples)
        keys += key
        numbers.append(number)
    is_usable = np.ones(len(numbers), np.bool_)
    is_usable[list(errors)] = False
    places, limit = _places(np.array(numbers, np.uint64), is_usable, is_first, held_out)
    examples = [e for number, e in _largest(pool, num_examples) if number > limit]
    return Choice(bytes(keys), errors, places, tuple(examples))


def _key(
    name: str, inputs: Callable[[Row], Mapping[str, Any]], row: Row
) -> tuple[bytes, str | None]:
    """The key of a row, and why it cannot be used."""
    try:
        return row_key(name, inputs(row)), None
    except UnicodeEncodeError:
        return bytes(KEY_BYTES), SURROGATE
    except RecursionError:
        return bytes(KEY_BYTES), TOO_DEEP


def _places(
    numbers: NDArray[np.uint64],
    is_usable: NDArray[np.bool_],
    is_first: bool,
    held_out: HeldOut | None,
) -> tuple[NDArray[np.int64], int]:
    """`Choice.places`, and the largest number of a row that is held out; -1 where none is."""
    usable = np.flatnonzero(is_usable)
    order = usable[np.argsort(numbers[usable], kind="stable")]
    num_held, limit = 0, -1
    if held_out is not None:
        num_held = min(int(held_out.rows * len(usable)), held_out.max_rows)
    if num_held:
        limit = int(numbers[order[num_held - 1]])
        num_held = int(np.searchsorted(numbers[order], np.uint64(limit), side="right"))
    training = np.sort(order[num_held:]) if is_first else order[num_held:]
    places = np.full(len(numbers), -1, np.int64)
    places[training] = np.arange(len(training))
    return places, limit


def _largest(pool: list[tuple[int, Example]], count: int) -> list[tuple[int, Example]]:
    """The examples with the largest numbers, each row once."""
    distinct = {number: (number, example) for number, example in pool}
    return [distinct[number] for number in sorted(distinct, reverse=True)[:count]]
