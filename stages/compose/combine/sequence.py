"""Sequential Instruction Tuning: an intermediate task before the one that a row has.

Hu et al. 2024, "Fine-tuning Large Language Models with Sequential Instructions" (arXiv:2403.07794).
- As in the paper: repeating the input as the task before; the answer does both in sequence.
- Ours: the wording; rows without an input are dropped as `no_input`.
- Not here: the other intermediate tasks (paraphrase, translation), and Self-Seq, for which a
  language model writes the sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import polars as pl

from pipeline.types import option_group
from stages._llm.prompts import Prompts
from stages._llm.rows import Row, make_row, task_messages
from stages.compose.combine.budget import TokenBudget
from stages.compose.combine.parts import Part

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {"strategy": pl.String(), "tokens": pl.Int32()}


@option_group
class SequenceMethod:
    """The input is repeated before the task is done (Hu et al. 2024, arXiv:2403.07794)."""

    name: Literal["sequence"] = "sequence"


def sequences(parts: Sequence[Part], budget: TokenBudget) -> list[Row]:
    """A row for each part: a new one, or the part dropped with a reason.

    Args:
        parts: The rows.
        budget: The most tokens of a new row.
    """
    with_input = [part for part in parts if part.input]
    rows = [part.dropped("no_input", {}) for part in parts if not part.input]
    written = [_written(part) for part in with_input]
    lengths = budget.lengths(row["messages"] for row in written)
    for part, row, tokens in zip(with_input, written, lengths, strict=True):
        if isinstance(tokens, str):
            row["error"] = tokens
        elif tokens > budget.max_tokens:
            evidence = {"tokens": tokens, "max_tokens": budget.max_tokens}
            row = part.dropped("over_budget", evidence)
        else:
            row["tokens"] = tokens
        rows.append(row)
    return rows


def _written(part: Part) -> Row:
    values = {"input": part.input, "response": part.answer}
    messages, input_start = task_messages(
        PROMPTS.render("instruction", instruction=part.instruction),
        values["input"],
        PROMPTS.render("response", **values),
    )
    return make_row(
        messages,
        input_start,
        license=part.license,
        parents=[part.id],
        extra={},
        strategy="repeat",
    )
