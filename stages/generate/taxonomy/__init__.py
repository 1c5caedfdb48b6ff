"""Instructions from combinations of attributes: subjects and levels, metadata, or skills.

A pool that a model grows out of examples stays similar to them. Here a plan comes first: a
table of attributes defines the rows, and every cell of it is written out. The methods are
modules of this package: `curriculum` (Human Curriculum), `metadata` (CodecLM) and `skills`
(skill composition), which say what of them is as in the papers; see `context` for how to add
one. Subjects, skills and topics come from files, too. The sampling (temperature 0.7, 1,024
tokens) is ours.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Edges, InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._common.edges import require_input
from stages._common.listed_files import descriptions_of, lines_of
from stages._llm.drafts import Draft, RowMessages, generate_field, to_frame
from stages._llm.rows import task_messages
from stages.generate.taxonomy.axes import SKILLS
from stages.generate.taxonomy.context import TaxonomyContext
from stages.generate.taxonomy.curriculum import Curriculum
from stages.generate.taxonomy.metadata import Metadata
from stages.generate.taxonomy.skills import Skills

JUDGE_MAX_TOKENS: Final = 4

Method = Annotated[Curriculum | Metadata | Skills, Field(discriminator="name")]

_FILES: Final = (
    ("skill_files", Skills, "skills"),
    ("topic_files", Skills, "topics"),
    ("subject_files", Curriculum, "subjects"),
)
"""Options that name files, the method that reads them, and its option that they replace."""

ADDS: Final = {
    "journal": pl.List(pl.String),
    "subject": pl.String,
    "level": pl.String,
    "attributes": pl.List(pl.String),
}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    if isinstance(options.method, Metadata):
        require_input(edges, "seeds", options.method.name)
    return ADDS


def _check(options: SimpleNamespace) -> None:
    method = options.method
    if not isinstance(method, Skills) and options.judge_max_tokens != JUDGE_MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why=f"method {method.name} judges nothing",
        )
    if options.keep_reasoning and not getattr(method, "answer", True):
        raise OptionError(
            *("keep_reasoning", "must be left out where nothing is answered"),
            why="answer is false",
            hint="answer: true in the method",
        )
    _check_files(options)
    if isinstance(method, Curriculum):
        method.check(len(method.subjects) + len(options.subject_files))
    if isinstance(method, Skills) and not options.skill_files:
        method.check(len(method.skills or SKILLS))


def _check_files(options: SimpleNamespace) -> None:
    method = options.method
    for name, group, own in _FILES:
        if not getattr(options, name):
            continue
        if not isinstance(method, group):
            raise OptionError(name, f"must be left out with method: {method.name}")
        default = next(field.default for field in fields(group) if field.name == own)
        if getattr(method, own) != default:
            raise OptionError(f"method.{own}", f"must be left out with {name}, which replaces it")


@stage(
    version=5,
    scope="set",
    reads=["messages", "input_start"],
    adds=_adds,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning", "skill_files", "topic_files", "subject_files"),
)
def taxonomy(
    ctx: Context,
    seeds: Records | None = None,
    *,
    method: Method = Curriculum(),
    skill_files: InputFiles = (),
    topic_files: InputFiles = (),
    subject_files: InputFiles = (),
    model: LanguageModel,
    seed: int = 0,
    temperature: NonNegativeFloat = 0.7,
    top_p: Fraction = 1.0,
    max_tokens: Count = 1024,
    judge_max_tokens: Count = JUDGE_MAX_TOKENS,
    keep_reasoning: bool = False,
    source: str = "taxonomy",
    license: str = "unspecified",
) -> Records:
    """New records, one for each combination of attributes.

    Added columns: `journal`; `subject` and `level` (of `curriculum`); `attributes` (the
    concept; use case and skills; or skills and topic). The column `parents` holds the seed.

    Dropped rows: `not_sampled`, `repeated_concept`, `skill_not_shown`, `no_instruction` (of
    a seed), and completions that were cut or unreadable: `concepts_cut`,
    `instruction_unparsed` and so on, of judgements `unreadable`.

    Example:
        ```yaml
        courses:
          uses: generate.taxonomy
          with:
            method: {name: curriculum, subjects: [law, economics], levels: [apply, create]}
            model: teacher
        ```

    Args:
        seeds: Records whose instructions `metadata` encodes; the other methods need none.
        method: The published method with its own options.
        skill_files: Text files with a skill on each line, as NAME: DESCRIPTION, in the place of
            the built-in ones; for `skills`.
        topic_files: Text files with a topic on each line; likewise.
        subject_files: Text files with a subject on each line, for `curriculum`.
        model: Writes and judges.
        seed: Of sampling and of requests.
        temperature: Of sampling.
        top_p: Nucleus of sampling.
        max_tokens: Limit of a completion.
        judge_max_tokens: Limit in tokens of the judgements of `skills`.
        keep_reasoning: Whether what the model reasoned before its answer becomes the answer's
            `reasoning`.
        source: The source of the rows.
        license: The license of the rows.
    """
    decoding = Decoding(max_tokens, temperature, top_p)
    generate = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    context = TaxonomyContext(
        *(generate, seeds, seed, judge_max_tokens),
        skills=descriptions_of(skill_files),
        topics=lines_of(topic_files),
        subjects=lines_of(subject_files),
    )
    drafts = method.run(context)
    reasoning = "response" if keep_reasoning else None
    return to_frame(drafts, _messages, source, ADDS, license, keep_reasoning=reasoning)


def _messages(draft: Draft) -> RowMessages:
    return task_messages(draft.fields.get("instruction", ""), "", draft.fields.get("response", ""))
