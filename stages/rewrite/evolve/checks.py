"""Which options of `rewrite.evolve` go together, and which columns they read and add."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.errors import OptionError
from pipeline.stage import Edges
from stages._llm.label_scores import MIN_MASS
from stages.rewrite.evolve.elimination import MAX_TOKENS
from stages.rewrite.evolve.lift import Lift
from stages.rewrite.evolve.m2lingual import M2Lingual, check_columns
from stages.rewrite.evolve.operators import WizardCoder, WizardLM, WizardLMCode
from stages.rewrite.evolve.rubric import MIN_GAP, Rubric
from stages.rewrite.evolve.smaller import SmallerEvolvers
from stages.rewrite.evolve.turns import Turns

Method = Annotated[
    WizardLM | WizardLMCode | WizardCoder | Rubric | Turns | SmallerEvolvers | M2Lingual | Lift,
    Field(discriminator="name"),
]

ADDS: Final = {
    "journal": pl.List(pl.String),
    "round": pl.Int32,
    "operators": pl.List(pl.String),
    "evolved_from": pl.String,
}


def check(options: SimpleNamespace) -> None:
    """Refuse options that do not go together.

    Args:
        options: Of the stage.

    Raises:
        OptionError: They do not.
    """
    if options.answerer is not None and not answers(options.method):
        raise OptionError(
            *("answerer", "must be left out where nothing is answered"),
            why="write_answers is false",
            hint="leave answerer out, or write_answers: true in the method",
        )
    if options.keep_reasoning and not answers(options.method):
        raise OptionError(
            *("keep_reasoning", "must be left out where nothing is answered"),
            why="write_answers is false",
            hint="write_answers: true in the method",
        )
    compares = options.method.eliminate and not isinstance(options.method, Turns)
    if not (compares or options.target) and options.judge_max_tokens != MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why="no instruction is compared with the one before",
        )
    _check_contrast(options)


def _check_contrast(options: SimpleNamespace) -> None:
    """Check what Contrastive Filtering needs, and what nothing else uses."""
    method = options.method
    if options.target is not None:
        if not (isinstance(method, Rubric) and method.write_answers):
            raise OptionError(
                *("target", f"must be left out with method: {method.name} as it is"),
                why="only method: rubric with write_answers: true compares two models",
                hint="method: {name: rubric, metadata: attributes}",
            )
        return
    for name, value, default in (
        ("judge", options.judge and options.judge.short_name, None),
        ("min_mass", options.min_mass, MIN_MASS),
        ("method.min_gap", getattr(method, "min_gap", MIN_GAP), MIN_GAP),
    ):
        if value != default:
            raise OptionError(
                *(name, f"must be left out without target, got {value}"),
                why="no answers are compared",
                hint="target: NAME, the model that will be tuned",
            )


def answers(method: Method) -> bool:
    """Whether what a method writes is answered: a conversation cannot go on without."""
    return isinstance(method, Turns) or method.write_answers


def reads(options: SimpleNamespace) -> list[str]:
    """The columns that a method reads.

    Args:
        options: Of the stage.
    """
    method, columns = options.method, ["messages", "tools", "input_start", "origins"]
    if isinstance(method, M2Lingual):
        columns += method.columns
    if isinstance(method, Rubric) and method.metadata:
        columns.append(method.metadata)
    return list(dict.fromkeys(columns))


def adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    """The columns of the new rows.

    Args:
        options: Of the stage.
        edges: What is connected to it.

    Raises:
        OptionError: A column that a method names has another type than it must have.
    """
    method = options.method
    metadata = getattr(method, "metadata", None)
    (known,) = edges["rows"]
    if metadata and known.get(metadata) != pl.List(pl.String):
        raise OptionError(
            *("method.metadata", f"must name a column of lists of texts, got {metadata!r}"),
            hint="metadata: attributes, the column of generate.taxonomy with method: metadata",
        )
    if isinstance(method, M2Lingual):
        check_columns(method, known)
    return columns(with_gap=options.target is not None)


def columns(*, with_gap: bool) -> dict[str, Any]:
    """The columns of the new rows.

    Args:
        with_gap: Whether answers are compared with those of a target.
    """
    return {**ADDS, **({"quality_gap": pl.Float64} if with_gap else {})}
