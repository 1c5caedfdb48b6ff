"""Instructions planted in the data part of a request, which the answer does not follow.

StruQ: StruQ: Defending Against Prompt Injection with Structured Queries (Chen et al. 2024,
arXiv:2402.06363; Sizhe-Chen/StruQ).

As in the paper: request and data are parted by reserved markers, which are deleted from data,
over and over until none is left; of the rows with data some hold the instruction of another row,
at their end (naive) or behind a forged answer and forged delimiters (completion); the target stays
the answer to the row's own request. Phrases that take back the request are for tests.

As in the authors' code: the set keeps its size; half of the rows with data stay clean, a quarter
gets each attack; rows without data are left as they are; a question is announced as one; the last
two forged delimiters of each list are for tests alone.

Ours: the forged answer is never the true one (their code pastes that into the data); the planted
instruction is never the row's own, its input stands there once, and its answer is neither the
row's nor a part of it (their code draws any row, and repeats the input); wordings; the attacks that
the paper tests with can be trained on (`attacks`). The reserved markers stand in the user's turn,
before the data, as text: a tokenizer has to hold them as tokens of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.types import Fraction, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.rows import Row, joint_license, make_row
from stages._text.planted import (
    MARKERS,
    SEPARATOR,
    Attack,
    Part,
    Planted,
    holds,
    plant,
    separated,
    without_markers,
)
from stages.compose.context.exchanges import Exchange

ADDS: Final[dict[str, Any]] = {"attack": pl.String(), "planted_from": pl.String()}

_TRIES: Final = 20
"""How many other rows are drawn until one fits; where none does, the row stays clean."""


@option_group
class StruQ:
    """Instructions planted in data, which the answer does not follow (arXiv:2402.06363).

    Args:
        name: "struq".
        attacks: How instructions are planted; each as often.
        clean: The share of the rows with data in which nothing is planted.
        part: The phrases and forged delimiters to train with, or those to test with.
        markers: Texts that are deleted from data.
        separator: What stands between the instruction and its data, in a line of its own; empty
            for a blank line alone.
    """

    name: Literal["struq"] = "struq"
    attacks: Annotated[tuple[Attack, ...], Distinct, NonEmpty] = ("naive", "completion")
    clean: Fraction = 0.5
    part: Part = "train"
    markers: Annotated[tuple[Annotated[str, NonEmpty], ...], Distinct] = MARKERS
    separator: str = SEPARATOR


def planted_rows(exchanges: Sequence[Exchange], method: StruQ, seed: int) -> list[Row]:
    """The rows, with an instruction in their data or without.

    Args:
        exchanges: Rows that end with an answer.
        method: The options.
        seed: Of all that is drawn, for each row by its id.
    """
    others = sorted((one for one in exchanges if one.is_single), key=lambda one: one.id)
    return [_row(exchange, others, method, seed) for exchange in exchanges]


def _row(exchange: Exchange, others: Sequence[Exchange], method: StruQ, seed: int) -> Row:
    data, attack, other = exchange.input if exchange.is_single else "", None, None
    if not data.strip():
        return exchange.row(_without_markers(exchange, method), exchange.input_start)
    rng = random.Random(f"{seed} struq {exchange.id}")
    if rng.random() >= method.clean:
        attack = rng.choice(method.attacks)
        drawn = _planted(exchange, data, others, method.part, attack, rng)
        data, attack, other = drawn if drawn is not None else (data, None, None)
    data = without_markers(data, method.markers)
    if not data.strip():
        return exchange.draft.dropped("empty_data", {"markers": [*method.markers]})
    content = separated(exchange.instruction, data, method.separator)
    messages: list[Any] = [*exchange.messages]
    messages[exchange.asking] = {**messages[exchange.asking], "content": content}
    licenses = [exchange.draft.license, *([other.draft.license] if other else [])]
    row = make_row(
        messages,
        len(exchange.instruction) + 2,
        tools=exchange.draft.tools,
        license=joint_license(licenses),
        parents=[exchange.id, *([other.id] if other else [])],
        extra={},
        attack=attack,
        planted_from=other.id if other else None,
    )
    return row | {"extra": exchange.extra}


def _without_markers(exchange: Exchange, method: StruQ) -> list[Any]:
    """The turns as they are, but for markers in the data of a first turn with others behind it."""
    messages: list[Any] = [*exchange.messages]
    if (start := exchange.input_start) is not None:
        first = next(n for n, turn in enumerate(messages) if turn["role"] == "user")
        content = messages[first]["content"] or ""
        cleaned = content[:start] + without_markers(content[start:], method.markers)
        messages[first] = {**messages[first], "content": cleaned}
    return messages


def _planted(
    exchange: Exchange,
    data: str,
    others: Sequence[Exchange],
    part: Part,
    attack: Attack,
    rng: random.Random,
) -> tuple[str, Attack, Exchange] | None:
    """The data with another row's instruction; None where no row that was drawn fits.

    It must be another instruction, not the same for other data, with another answer, of which the
    row's own answer holds nothing; and the row's own answer must not come into the data with it.
    """
    own, answer = _squeezed(exchange.instruction), exchange.answer
    for _ in range(_TRIES):
        other = others[int(rng.random() * len(others))]
        if _squeezed(other.instruction) == own or holds(answer, other.answer):
            continue
        planted = Planted(other.instruction, other.input, attack, part)
        attacked = plant(data, planted, rng)
        if not holds(attacked[len(data) :], answer):
            return attacked, attack, other
    return None


def _squeezed(text: str) -> str:
    """A text without differences of case and white space."""
    return " ".join(text.casefold().split())
