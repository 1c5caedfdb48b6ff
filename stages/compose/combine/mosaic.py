"""Mosaic-IT: several random rows joined into one under a meta-instruction; no model is asked.

Li et al. 2024, "Mosaic IT: Enhancing Instruction Tuning with Data Mosaics" (arXiv:2405.13326).
- As in the paper: four strategies: rows joined alone (`primary`), with a format of the answers
  (`format`), in another order (`permute`) or with some left unanswered (`mask`).
- As in the authors' code (tianyi-lab/Mosaic-IT): four epochs, each in an order of its own; 1 to 10
  rows at a time, uniformly; the next rows begin after those that were used; a third of the rows
  each with format, order and mask, which have a format too; format alone where there is one row;
  the orders and masks of `rules.py`, the latter 10 to 50% of the rows.
- Ours: the wording; instructions are always numbered, because orders and masks name numbers; of
  equal ones the lower number comes first; a layout that cannot be read back, because an answer
  looks like it, is drawn anew; the budget holds for the whole conversation (the code counts the
  texts of the rows alone, 2,000 tokens), and rows that exceed it together are halved.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.types import Count, FractionRange, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.prompts import Prompts
from stages._llm.rows import Row, joint_license, make_row
from stages._selection.random_draws import uniform
from stages.compose._parts import Part
from stages.compose.combine.budget import TokenBudget
from stages.compose.combine.layouts import FORMATS, PRIMARY, Layout
from stages.compose.combine.rules import MASKS, ORDERS, masked, ordered

PROMPTS: Final = Prompts(__file__)

Strategy = Literal["primary", "format", "permute", "mask"]
Sizes = Literal["uniform", "fixed", "exponential"]

ADDS: Final[dict[str, Any]] = {
    "strategy": pl.String(),
    "rule": pl.String(),
    "answered": pl.List(pl.Int32),
    "epoch": pl.Int32(),
    "tokens": pl.Int32(),
}

_PHRASINGS: Final = 3
"""Wordings of the meta-instruction in its file."""

_MARKS: Final = 16
"""About how many tokens the number and the lines around a part take."""

_BATCH: Final = 2_048
"""Mosaics measured at a time, which bounds the memory for their texts."""


@option_group
class Mosaic:
    """Random rows joined under a meta-instruction (Li et al. 2024, arXiv:2405.13326).

    Args:
        name: "mosaic".
        strategies: Of which one is drawn for each new row, all with the same probability.
        epochs: How often each row is used.
        max_rows: The most rows that are joined.
        sizes: How many rows are joined: any number up to `max_rows` alike, always `max_rows`, or
            few more often than many (exponential, with a mean of half of `max_rows`).
        masked: The range of the part of the rows that `mask` leaves unanswered.
    """

    name: Literal["mosaic"] = "mosaic"
    strategies: Annotated[tuple[Strategy, ...], NonEmpty, Distinct] = ("format", "permute", "mask")
    epochs: Count = 4
    max_rows: Count = 10
    sizes: Sizes = "uniform"
    masked: FractionRange = (0.1, 0.5)


@dataclass(frozen=True)
class _Chunk:
    """Parts that are to be joined.

    Attributes:
        parts: The parts, in the order of their numbers.
        epoch: The epoch, from 1.
    """

    parts: Sequence[Part]
    epoch: int

    def rng(self, seed: int, purpose: str) -> random.Random:
        """A generator for these parts alone."""
        key = f"{seed} mosaic {purpose} {self.epoch} {self.parts[0].id} {len(self.parts)}"
        return random.Random(key)

    def halves(self) -> list[_Chunk]:
        middle = len(self.parts) // 2
        return [_Chunk(half, self.epoch) for half in (self.parts[:middle], self.parts[middle:])]


def mosaics(
    parts: Sequence[Part], method: Mosaic, budget: TokenBudget, seed: int
) -> Iterator[tuple[int, list[Row]]]:
    """The rows of each epoch: new ones, and parts that do not fit dropped.

    Args:
        parts: The rows.
        method: The options.
        budget: The most tokens of a new row.
        seed: Of all that is drawn.

    Yields:
        The number of the epoch with its rows.
    """
    ids = pl.Series([part.id for part in parts], dtype=pl.String)
    requests = budget.text_lengths([part.request for part in parts])
    answers = budget.text_lengths([part.answer for part in parts])
    costs = [request + answer + _MARKS for request, answer in zip(requests, answers, strict=True)]
    for epoch in range(1, method.epochs + 1):
        keys = uniform(ids, f"compose.combine:{seed}:{epoch}")
        order = np.lexsort((ids.to_numpy(), keys)).tolist()
        shuffled = [(parts[i], costs[i]) for i in order]
        chunks = _chunks(shuffled, epoch, method, budget.max_tokens, seed)
        yield epoch, _joined(chunks, method, budget, seed)


def _chunks(
    shuffled: Sequence[tuple[Part, int]], epoch: int, method: Mosaic, max_tokens: int, seed: int
) -> list[_Chunk]:
    """Each epoch's parts, cut where the drawn number is reached or the budget about spent."""
    chunks: list[_Chunk] = []
    start = 0
    while start < len(shuffled):
        part, total = shuffled[start]
        size = _size(method, _Chunk([part], epoch).rng(seed, "size"))
        end = start + 1
        while end < min(len(shuffled), start + size) and total + shuffled[end][1] <= max_tokens:
            total += shuffled[end][1]
            end += 1
        chunks.append(_Chunk([part for part, _ in shuffled[start:end]], epoch))
        start = end
    return chunks


def _size(method: Mosaic, rng: random.Random) -> int:
    match method.sizes:
        case "fixed":
            return method.max_rows
        case "uniform":
            return rng.randint(1, method.max_rows)
        case _:
            return min(1 + int(rng.expovariate(2 / method.max_rows)), method.max_rows)


def _joined(chunks: list[_Chunk], method: Mosaic, budget: TokenBudget, seed: int) -> list[Row]:
    """The rows of all chunks; one that does not fit is halved until its parts do, or are alone."""
    rows: list[Row] = []
    while chunks:
        batch, chunks = chunks[:_BATCH], chunks[_BATCH:]
        joined: list[Row | None] = []
        lengths = iter(budget.lengths(_written(batch, joined, method, seed)))
        halved: list[_Chunk] = []
        for chunk, row in zip(batch, joined, strict=True):
            tokens = next(lengths) if row else None
            if row and isinstance(tokens, str):
                rows.append({**row, "error": tokens})
            elif row and tokens is not None and tokens <= budget.max_tokens:  # type: ignore[operator]
                rows.append({**row, "tokens": tokens})
            elif len(chunk.parts) > 1:
                halved += chunk.halves()
            elif row:
                evidence = {"tokens": tokens, "max_tokens": budget.max_tokens}
                rows.append(chunk.parts[0].dropped("over_budget", evidence, epoch=chunk.epoch))
            else:
                rows.append(chunk.parts[0].dropped("unparsed", {}, epoch=chunk.epoch))
        chunks = halved + chunks
    return rows


def _written(
    batch: Sequence[_Chunk], joined: list[Row | None], method: Mosaic, seed: int
) -> Iterator[Any]:
    """The turns of each row, which is added to `joined` as it is made."""
    for chunk in batch:
        joined.append(_row(chunk, method, seed))
        if (row := joined[-1]) is not None:
            yield row["messages"]


def _row(chunk: _Chunk, method: Mosaic, seed: int) -> Row | None:
    """The chunk as a row; None where no layout can be read back."""
    rng = chunk.rng(seed, "strategy")
    strategy: Strategy = rng.choice(method.strategies)
    if len(chunk.parts) == 1 and strategy != "primary":
        strategy = "format"
    instructions = [part.request for part in chunk.parts]
    rule, answered = _rule(strategy, instructions, method, rng)
    answers = [(number, chunk.parts[number - 1].answer) for number in answered]
    layout = _layout(strategy, answers, chunk.rng(seed, "layout"))
    if layout is None:
        return None
    numbers = range(1, len(instructions) + 1)
    request = PROMPTS.render(
        "request",
        strategy=strategy,
        rule=rule,
        phrasing=chunk.rng(seed, "phrasing").randrange(_PHRASINGS),
        opening=layout.opening,
        closing=layout.closing,
        answered=answered,
        masked=sorted({*numbers} - {*answered}),
        tasks=[layout.task(number, instructions[number - 1]) for number in numbers],
    )
    return make_row(
        [
            {"role": "user", "content": request},
            {"role": "assistant", "content": layout.join(answers)},
        ],
        license=joint_license(part.license for part in chunk.parts),
        parents=[part.id for part in chunk.parts],
        extra={"number": layout.number, "opening": layout.opening, "closing": layout.closing},
        strategy=strategy,
        rule=rule,
        answered=answered,
        epoch=chunk.epoch,
    )


def _rule(
    strategy: Strategy, instructions: Sequence[str], method: Mosaic, rng: random.Random
) -> tuple[str | None, list[int]]:
    """The rule of an order or mask, and the numbers that are answered, in order."""
    numbers = [*range(1, len(instructions) + 1)]
    if strategy == "permute":
        rule = rng.choice(ORDERS)
        return rule, ordered(rule, instructions, rng)
    if strategy == "mask":
        rule = rng.choice(MASKS)
        left_out = {*masked(rule, instructions, method.masked, rng)}
        return rule, [number for number in numbers if number not in left_out]
    return None, numbers


def _layout(
    strategy: Strategy, answers: Sequence[tuple[int, str]], rng: random.Random
) -> Layout | None:
    """The first layout, in an order that is drawn, from which the answers can be read back."""
    layouts = PRIMARY if strategy == "primary" else FORMATS
    first = rng.randrange(len(layouts))
    in_turn = (*layouts[first:], *layouts[:first])
    return next((one for one in in_turn if one.split(one.join(answers)) == [*answers]), None)
