"""Rows joined or extended into richer ones.

- `mosaic`: Mosaic-IT joins random rows under a meta-instruction (see `mosaic.py`).
- `sequence`: Sequential Instruction Tuning puts a task before a row's own (see `sequence.py`).
- `self_seq`: Self-Seq has a language model write sequences of tasks (see `self_seq.py`).
- `chain`: Chain-of-Instructions has one task work on the output of another (see `chain.py`).

The last two ask a language model, as `sequence` does for paraphrases and translations.

What a new row holds can be read back out of it, and it never exceeds the budget, counted by the
tokenizer and chat template of the model that will be tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Engine, LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count
from stages._common.garbage import collected_by_hand
from stages._llm.drafts import Draft, RowMessages, draft_rows
from stages._llm.rows import Row, rows_to_frame
from stages._llm.token_counts import check_tokenizer
from stages.compose._parts import Part, parts_of
from stages.compose.combine import chain, mosaic, self_seq, sequence
from stages.compose.combine.budget import TokenBudget
from stages.compose.combine.chain import Chain
from stages.compose.combine.mosaic import Mosaic, mosaics
from stages.compose.combine.self_seq import SelfSeq
from stages.compose.combine.sequence import SequenceMethod

Method = Annotated[Mosaic | SequenceMethod | SelfSeq | Chain, Field(discriminator="name")]


def _columns(method: Method) -> dict[str, Any]:
    match method:
        case Mosaic():
            return mosaic.ADDS
        case SequenceMethod():
            return method.adds
        case SelfSeq():
            return self_seq.ADDS
        case _:
            return chain.ADDS


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return _columns(options.method)


def _check(options: SimpleNamespace) -> None:
    check_tokenizer(options)
    method = options.method
    name, writes = method.name, isinstance(method, SelfSeq | Chain)
    if isinstance(method, SequenceMethod):
        name, writes = f"{name} and task: {method.task}", method.task != "repeat"
    if writes and options.writer is None:
        raise OptionError(
            *("writer", f"must be given with method: {name}, got none"),
            why="a language model writes a part of each new row",
            hint="writer: NAME, one of the recipe's models",
        )
    if options.writer is not None and not writes:
        raise OptionError(
            *("writer", f"must be left out with method: {name}"),
            why="no language model is asked",
            hint="leave writer out, or method: {name: sequence, task: paraphrase}",
        )


@stage(
    version=1,
    scope="set",
    reads=["messages", "tools", "input_start", "origins"],
    adds=_adds,
    check=_check,
    later=("writer",),
)
def combine(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    writer: LanguageModel | None = None,
    method: Method = Mosaic(),
    max_tokens: Count = 2048,
    seed: int = 0,
    source: str = "combine",
) -> Records:
    """New records, each made of one or several rows.

    The rows themselves are not among them: `load.concat` puts both together. `parents` are the
    rows in the order of their numbers, whose licenses hold together. Adds `strategy` and `tokens`;
    with mosaic also `rule` (of the order or the mask), `answered` (the numbers of the
    instructions in the order of their answers) and `epoch`; `extra` is the layout of the answers;
    with self_seq also `kinds` (split, prefix or suffix, one for each round); with chain also
    `composable` (the least probability, over its tasks, that one can be done with
    the output before it); where a model is asked `journal` (keys of the completions that the
    row was read from).

    Args:
        rows: Conversations of one request and one answer.
        model: The model that will be tuned, whose tokenizer and chat template count; it is
            not asked.
        writer: The model that `self_seq` and `chain` ask, and `sequence` for paraphrases and
            translations.
        method: mosaic, sequence, self_seq or chain, each with its own options.
        max_tokens: The most tokens of a new row as the chat template renders it.
        seed: Seed of all that is drawn.
        source: Name of the new records' source.

    Returns:
        The new records. Rows that cannot be joined without loss are dropped as `multi_turn`,
        `has_system`, `has_tools`, `has_reasoning`, `not_trained` (its answer is not to be learnt)
        or `empty_part`; in an epoch as `over_budget` where one does not fit alone, or `unparsed`
        where its answer could not be read back; by sequence as `no_input`, `unchanged` (its
        paraphrase or translation is the text itself), `rendered_cut` or `rendered_unparsed`; by
        self_seq as `sufficient` (the model would keep it), `unchanged`, `new_cut`, `new_unparsed`,
        `response_cut`, `response_unparsed` or `unreadable`; by chain as
        `no_next_task` (no other row has an input), `not_composable`, `instruction_cut`,
        `instruction_unparsed`, `output_cut`, `output_unparsed`, `unreadable` or `unparsed`. Equal
        new rows are `duplicate`. A row that the chat template refuses is a failed row.

    Example:
        ```yaml
        joined: {uses: compose.combine, needs: pool, with: {
          model: writer, method: {name: mosaic, epochs: 2, max_rows: 4}, max_tokens: 1024}}
        ```
    """
    engine = None if writer is None else ctx.open(writer)
    with collected_by_hand() if engine is None else nullcontext():
        records = _rows(ctx, rows, TokenBudget(model, max_tokens), method, engine, seed)
        return rows_to_frame(records, source, _columns(method))


def _rows(
    ctx: Context,
    rows: pl.DataFrame,
    budget: TokenBudget,
    method: Method,
    engine: Engine | None,
    seed: int,
) -> list[Row]:
    """The rows that cannot be combined, dropped, and then those of the method."""
    parts, records = parts_of(rows)
    if isinstance(method, Mosaic):
        for epoch, joined in mosaics(parts, method, budget, seed):
            records += joined
            ctx.progress(epoch, method.epochs)
        return records
    drafts, messages_of = _drafts(parts, method, engine, seed)
    budget.limit(drafts, messages_of)
    return records + draft_rows(drafts, messages_of, _columns(method))


def _drafts(
    parts: Sequence[Part],
    method: SequenceMethod | SelfSeq | Chain,
    engine: Engine | None,
    seed: int,
) -> tuple[list[Draft], Callable[[Draft], RowMessages]]:
    """The drafts of a method, and what makes conversations of them."""
    if isinstance(method, SequenceMethod):
        return sequence.sequences(parts, method, engine, seed), sequence.messages_of
    assert engine is not None, "checked with the options"
    if isinstance(method, SelfSeq):
        return self_seq.sequences(parts, method, engine, seed), self_seq.messages_of
    return chain.chains(parts, method, engine, seed), chain.messages_of
