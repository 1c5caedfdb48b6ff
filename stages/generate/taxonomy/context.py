"""What the methods of `generate.taxonomy` are, and what they work with.

A method is a module with one group of options, whose `run` makes the drafts. To add one,
write `taxonomy/method.py` with its prompts in `taxonomy/prompts/method/`, and name the
class in the union `Method` of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from schemas.records import digest
from stages._llm.drafts import Draft, GenerateField, Prompt, user
from stages._llm.preambles import instruction_text


@dataclass(frozen=True)
class TaxonomyContext:
    """The model and the common options of one run of `generate.taxonomy`.

    Attributes:
        generate: `generate_field` with the model, its decoding and the seed.
        seeds: The rows on the edge `seeds`, None where nothing is connected.
        seed: Of all random choices.
        judge_max_tokens: Limit of a judgement in tokens.
        skills: Skills of files, with their descriptions; empty without a file.
        topics: Topics of files; likewise.
        subjects: Subjects of files; likewise.
    """

    generate: GenerateField
    seeds: pl.DataFrame | None
    seed: int
    judge_max_tokens: int
    skills: Mapping[str, str]
    topics: tuple[str, ...]
    subjects: tuple[str, ...]


def write_instructions(
    context: TaxonomyContext,
    drafts: Sequence[Draft],
    prompt_of: Callable[[Draft], Prompt],
    num_rows: int | None,
    answer: bool,
) -> None:
    """Sample the combinations of attributes, have each written out, and answered.

    Args:
        context: Model and seed.
        drafts: One for each combination; changed in place.
        prompt_of: From a draft to the prompt of its instruction.
        num_rows: Size of the sample; None for all.
        answer: Have the instructions answered too.
    """
    sample(drafts, num_rows, context.seed)
    context.generate(drafts, "instruction", prompt_of, parse=instruction_text)
    if answer:
        context.generate(drafts, "response", lambda d: user(d["instruction"]))


def sample(drafts: Sequence[Draft], num_rows: int | None, seed: int) -> None:
    """Reject all but a random sample of the active drafts as `not_sampled`.

    The order is that of a digest of everything that a draft is made of, so that one
    combination more or less changes nothing for the others.

    Args:
        drafts: Changed in place.
        num_rows: Size of the sample; None for all.
        seed: Of the order.
    """
    active = [draft for draft in drafts if draft.active]
    ranked = sorted(active, key=lambda d: digest([seed, *d.parents, *map(str, d.fields.values())]))
    for draft in ranked[num_rows:] if num_rows is not None else ():
        draft.reject("not_sampled", combinations=len(active))
