"""Rows joined or extended into richer ones, without a language model.

- `mosaic`: Mosaic-IT joins random rows under a meta-instruction (see `mosaic.py`).
- `sequence`: Sequential Instruction Tuning puts a task before a row's own (see `sequence.py`).

What a new row holds can be read back out of it, and it never exceeds the budget, counted by the
tokenizer and chat template of the model that will be tuned.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

from pydantic import Field

from pipeline.context import Context
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count
from stages._llm.rows import Row, rows_to_frame
from stages._llm.token_counts import check_tokenizer
from stages.compose.combine import mosaic, sequence
from stages.compose.combine.budget import TokenBudget
from stages.compose.combine.mosaic import Mosaic, mosaics
from stages.compose.combine.parts import parts_of
from stages.compose.combine.sequence import SequenceMethod, sequences

Method = Annotated[Mosaic | SequenceMethod, Field(discriminator="name")]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return mosaic.ADDS if isinstance(options.method, Mosaic) else sequence.ADDS


@stage(
    version=1,
    scope="set",
    reads=["messages", "tools", "input_start", "origins"],
    adds=_adds,
    check=check_tokenizer,
)
def combine(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    method: Method = Mosaic(),
    max_tokens: Count = 2048,
    seed: int = 0,
    source: str = "combine",
) -> Records:
    """New records, each made of one or several rows.

    The rows themselves are not among them: `load.concat` puts both together. `parents` are the
    rows in the order of their numbers, whose licenses hold together. Adds `strategy` and `tokens`;
    with mosaic also `rule` (of the order or the mask), `answered` (the numbers of the
    instructions in the order of their answers) and `epoch`; `extra` is the layout of the answers.

    Args:
        rows: Conversations of one request and one answer.
        model: The model that will be tuned, whose tokenizer and chat template count; it is
            not asked.
        method: mosaic or sequence, each with its own options.
        max_tokens: The most tokens of a new row as the chat template renders it.
        seed: Seed of all that is drawn.
        source: Name of the new records' source.

    Returns:
        The new records. Rows that cannot be joined without loss are dropped as `multi_turn`,
        `has_system`, `has_tools`, `has_reasoning`, `not_trained` (its answer is not to be learnt)
        or `empty_part`; in an epoch as `over_budget` where one does not fit alone, or `unparsed`
        where its answer could not be read back; by sequence as `no_input`. Equal new rows are
        `duplicate`. A row that the chat template refuses is a failed row.

    Example:
        ```yaml
        joined: {uses: compose.combine, needs: pool, with: {
          model: writer, method: {name: mosaic, epochs: 2, max_rows: 4}, max_tokens: 1024}}
        ```
    """
    budget = TokenBudget(model, max_tokens)
    parts, records = parts_of(rows)
    new: list[Row] = []
    if isinstance(method, Mosaic):
        for epoch, joined in mosaics(parts, method, budget, seed):
            new += joined
            ctx.progress(epoch, method.epochs)
    else:
        new = sequences(parts, budget)
    adds = mosaic.ADDS if isinstance(method, Mosaic) else sequence.ADDS
    return rows_to_frame([*records, *new], source, adds)
