"""Preference pairs out of records: of scored, judged, verified, revised or sampled answers.

Each method is described in its module: `scored` (best against worst or random; TPO, Okapi),
`revised` (a row against its parent), `verified` (correct against incorrect; AutoIF), `ditto`
(demonstrations against samples), `simulated` (AlpacaFarm), `secalign` (instructions planted
in an input) and, with a model that writes, `spar` (refinements), `self_taught` (answers that
miss the question) and `first_pit` (Self-Explore's steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isnan
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Columns, Edges, Pairs, Records, stage
from pipeline.types import Count, NonNegativeFloat
from stages._common.edges import require_input, required
from stages._selection.random_draws import uniform
from stages._selection.scores import expression, expression_columns, scores
from stages.generate.pairs.candidates import Writer
from stages.generate.pairs.ditto import Ditto, ditto_pairs
from stages.generate.pairs.first_pit import FirstPit, first_pit_pairs
from stages.generate.pairs.proposals import ADDS, Drawn, Proposal, answers_of, to_frame
from stages.generate.pairs.revised import Revised, revised_pairs
from stages.generate.pairs.scored import Scored, scored_pairs
from stages.generate.pairs.secalign import SecAlign, secalign_pairs
from stages.generate.pairs.self_taught import SelfTaught, self_taught_pairs
from stages.generate.pairs.simulated import Simulated, simulated_pairs
from stages.generate.pairs.spar import MAX_TOKENS, SPaR, spar_pairs
from stages.generate.pairs.verified import Verified, verified_pairs

Method = Annotated[
    Scored | Revised | Verified | Ditto | Simulated | SecAlign | SPaR | SelfTaught | FirstPit,
    Field(discriminator="name"),
]


WRITING: Final = (SPaR, SelfTaught, FirstPit)
"""The methods with which a model writes."""


def _expressions(method: Any) -> list[str]:
    """The columns that a method's expressions read."""
    match method:
        case Scored() | Revised():
            return expression_columns(method.score)
        case Verified():
            texts = [method.correct, *([method.incorrect] if method.incorrect else [])]
            return [name for text in texts for name in expression_columns(text)]
        case Simulated():
            return [name for text in method.annotators for name in expression_columns(text)]
        case FirstPit():
            return expression_columns(method.correct)
        case SecAlign():
            return ["input_start"]
    return []


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    base = ["messages", "tools", "origins", "parents"]
    rows = list(dict.fromkeys([*base, *_expressions(options.method)]))
    others = [*base, options.method.round] if isinstance(options.method, Ditto) else rows
    return {"rows": rows, "others": others}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    if isinstance(options.method, Ditto):
        require_input(edges, "others", options.method.name)
    elif not isinstance(options.method, Revised):
        require_input(edges, "others", options.method.name, connected=False)
    return ADDS


def _check(options: SimpleNamespace) -> None:
    writes = isinstance(options.method, WRITING)
    if writes == (options.model is None):
        raise OptionError(
            "model",
            f"must be {'given' if writes else 'left out'} with method: {options.method.name}",
            why="it writes answers" if writes else "nothing is written",
        )
    if options.keep_reasoning and not writes:
        raise OptionError(
            *("keep_reasoning", f"must be left out with method: {options.method.name}"),
            why="nothing is written",
        )
    if options.judge_max_tokens != MAX_TOKENS and not isinstance(options.method, SPaR):
        raise OptionError(
            *("judge_max_tokens", f"must be left out with method: {options.method.name}"),
            why="nothing is judged",
        )


@stage(
    version=4,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning"),
)
def pairs(
    ctx: Context,
    rows: Records,
    others: Records | None = None,
    *,
    method: Method,
    model: LanguageModel | None = None,
    temperature: NonNegativeFloat = 0.9,
    max_tokens: Count = 1024,
    judge_max_tokens: Count = MAX_TOKENS,
    keep_reasoning: bool = False,
    seed: int = 0,
    source: str = "pairs",
) -> Pairs:
    """New preference pairs: at least one proposal for each prompt, or revised row.

    Answers to one prompt are rows that are equal up to the last user's turn, tools included.
    `parents` are the two rows, whose licenses hold together; `extra` says where each side is
    from. Adds `margin` (the difference of the scores, where there are any),
    `length_difference` (characters of the chosen less those of the rejected answer) and
    `journal`. A proposal whose sides are equal is dropped as `identical`, other reasons are
    the methods'. Rows that do not end with an answer are in no proposal.

    Args:
        rows: The answers.
        others: For `revised`, the originals, where they are not among the rows; for `ditto`,
            the samples.
        method: scored, revised, verified, ditto, simulated, secalign, spar, self_taught or
            first_pit.
        model: Who writes, and judges, for `spar`, `self_taught` and `first_pit`.
        temperature: Of what it writes.
        max_tokens: Limit of an answer in tokens.
        judge_max_tokens: Limit in tokens of a vote of `spar`.
        keep_reasoning: Whether what the model reasoned before an answer that it writes becomes
            the answer's `reasoning`.
        seed: Of what a method draws, and of the sampling.
        source: Name of the new pairs' source.

    Raises:
        UserError: An expression gives no numbers, or no booleans where verdicts are needed.

    Example:
        ```yaml
        preferences:
          uses: generate.pairs
          needs: {rows: judged}
          with: {method: {name: scored, score: judge_score, rejected: random}, seed: 1}
        ```

        >>> from pathlib import Path
        >>> from schemas.records import RECORD_COLUMNS
        >>> def row(id_, text, score):
        ...     turns = [{"role": "user", "content": "Why?"}]
        ...     turns.append({"role": "assistant", "content": text})
        ...     return {"id": id_, "messages": turns, "ifd": score}
        >>> rows = [row("a", "So.", 0.9), row("b", "No.", 0.2)]
        >>> frame = pl.DataFrame(rows, schema={**RECORD_COLUMNS, "ifd": pl.Float64})
        >>> result = pairs(Context(Path(), Path(), Path()), frame, method=Scored(score="ifd"))
        >>> result["rejected"][0].struct.field("content").to_list()
        ['No.']
    """

    def drawn(text: str) -> float:
        return float(uniform(pl.Series([text]), f"generate.pairs:{seed}")[0])

    proposals: list[Proposal]
    match method:
        case Scored(score=score, descending=descending):
            proposals = scored_pairs(
                answers_of(rows, _scores(rows, score, descending)), method, drawn
            )
        case Revised(score=score, descending=descending):
            read = partial(_scores, score=score, descending=descending)
            older = [] if others is None else answers_of(others, read(others))
            proposals = revised_pairs(answers_of(rows, read(rows)), older, method)
        case Verified():
            proposals = verified_pairs(answers_of(rows, _verdicts(rows, method)), method, drawn)
        case Ditto():
            samples = required(others, "others", method.name)
            rounds = _scores(samples, method.round, True)
            proposals = ditto_pairs(answers_of(rows), answers_of(samples, rounds), method, drawn)
        case Simulated():
            by_name = {name: _scores(rows, name, True) or [] for name in method.annotators}
            by_id = {
                name: dict(zip(rows["id"], values, strict=True)) for name, values in by_name.items()
            }
            proposals = simulated_pairs(answers_of(rows), by_id, method, drawn)
        case SecAlign():
            starts = dict(rows.select("id", "input_start").iter_rows())
            proposals = secalign_pairs(answers_of(rows), starts, method, drawn)
        case SPaR() | SelfTaught() | FirstPit():
            assert model is not None
            decoding = Decoding(max_tokens, temperature)
            writer = Writer(ctx.open(model), decoding, seed, judge_max_tokens, keep_reasoning)
            proposals = _written_pairs(writer, rows, method, drawn)
    return to_frame(proposals, source)


def _written_pairs(
    writer: Writer, rows: pl.DataFrame, method: SPaR | SelfTaught | FirstPit, drawn: Drawn
) -> list[Proposal]:
    """The proposals of the methods with which a model writes."""
    match method:
        case FirstPit():
            answers = answers_of(rows, _verdicts(rows, method))
            return first_pit_pairs(writer, answers, method)
        case SelfTaught():
            return self_taught_pairs(writer, answers_of(rows))
    return spar_pairs(writer, answers_of(rows), method, drawn)


def _scores(
    rows: pl.DataFrame, score: str | None, descending: bool
) -> Sequence[float | None] | None:
    """The scores of the rows, large ones the best; None where there are none."""
    if score is None:
        return None
    values = scores(rows, score) if descending else -scores(rows, score)
    return [None if isnan(value) else float(value) for value in values]


def _verdicts(rows: pl.DataFrame, method: Verified | FirstPit) -> list[float | None]:
    """1 for correct answers, 0 for incorrect ones, None for others.

    Raises:
        UserError: An answer is both, or a verdict is no boolean.
    """
    right = _booleans(rows, method.correct)
    wrong = [None if v is None else not v for v in right]
    if isinstance(method, Verified) and method.incorrect is not None:
        wrong = _booleans(rows, method.incorrect)
    verdicts = zip(rows["id"], right, wrong, strict=True)
    both = next((id_ for id_, good, bad in verdicts if good and bad), None)
    if both is not None:
        raise UserError(f"the row {both} is correct and incorrect", hint="make them exclusive")
    return [1.0 if good else 0.0 if bad else None for good, bad in zip(right, wrong, strict=True)]


def _booleans(rows: pl.DataFrame, text: str) -> list[bool | None]:
    try:
        values = rows.select(expression(text).alias("verdict")).to_series()
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"a verdict must be true or false, which {text!r} is not",
            why=str(error).partition("\n")[0],
        ) from None
    if values.dtype not in (pl.Boolean, pl.Null):
        raise UserError(
            f"a verdict must be true or false, which {text!r} is not ({values.dtype})",
            hint="compare it: pass_rate > 0.5",
        )
    return values.to_list()
