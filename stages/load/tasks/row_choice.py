"""Which rows of a task are held out, trained on, or more than its cap.

A first pass over the rows gives each a random number by seed and content. The rows with the
smallest numbers are held out, those after them are trained on, and those with the largest may be
shown as solved examples. Equal rows have equal numbers, so that they are on one side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.load._files.json_lines import Position
from stages.load._rows.output import SURROGATE, TOO_DEEP
from stages.load.tasks.drawing import Draws, row_key
from stages.load.tasks.holding_out import HeldOut
from stages.load.tasks.rendering import Example, Row

MAX_EXAMPLES: Final = 256
"""How many rows of a task few-shot prompts choose from."""

HELD_OUT_ROW: Final = "held_out_row"


class Choice(NamedTuple):
    """What the first pass over a task's rows says.

    Attributes:
        ranks: The place of each usable row in a random order of them.
        training: The place of each among those that are not held out, -1 for the others; by the
            sampling, in the order of the file or at random.
        examples: What few-shot prompts may show.
    """

    ranks: NDArray[np.int64]
    training: NDArray[np.int64]
    examples: tuple[Example, ...]

    def is_held(self, number: int) -> bool:
        """Whether the row of this number among the usable ones is held out."""
        return bool(self.training[number] < 0)


def key_of(
    name: str, inputs: Callable[[Row], Mapping[str, Any]], position: Position
) -> tuple[bytes | None, str | None]:
    """The key of a row, or why it cannot be used.

    Args:
        name: The task's name.
        inputs: The fields that stand for a row.
        position: Where it stands in the file.
    """
    _, row, error = position
    if error is not None:
        return None, error
    if not isinstance(row, dict):
        return None, "a row must be an object"
    try:
        return row_key(name, inputs(row)), None
    except UnicodeEncodeError:
        return None, SURROGATE
    except RecursionError:
        return None, TOO_DEEP


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
    numbers: list[int] = []
    pool: list[tuple[int, Example]] = []
    for _, position in positions:
        key, _ = key_of(name, inputs, position)
        if key is None:
            continue
        number = Draws(seed, key).number("order")
        numbers.append(number)
        if num_examples:
            pool.append((number, Example(key, position[1])))
            if len(pool) > 4 * num_examples:
                pool = _largest(pool, num_examples)
    order = np.array(numbers, dtype=np.uint64)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[np.argsort(order, kind="stable")] = np.arange(len(order))
    limit = _limit(np.sort(order), held_out)
    is_held = np.zeros(len(order), np.bool_) if limit is None else order <= np.uint64(limit)
    places = np.cumsum(~is_held) - 1 if is_first else ranks - np.count_nonzero(is_held)
    examples = [e for n, e in _largest(pool, num_examples) if limit is None or n > limit]
    return Choice(ranks, np.where(is_held, -1, places), tuple(examples))


def _largest(pool: list[tuple[int, Example]], count: int) -> list[tuple[int, Example]]:
    """The examples with the largest numbers, each row once."""
    distinct = {number: (number, example) for number, example in pool}
    return [distinct[number] for number in sorted(distinct, reverse=True)[:count]]


def _limit(ordered: NDArray[np.uint64], held_out: HeldOut | None) -> int | None:
    """The largest number of a row that is held out; None where none is."""
    if held_out is None:
        return None
    count = min(int(held_out.rows * len(ordered)), held_out.max_rows)
    return int(ordered[count - 1]) if count else None
