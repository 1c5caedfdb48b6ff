"""Instruction induction: from pairs of input and output to the instruction behind them.

Instruction Induction: From Few Examples to Natural Language Task Descriptions (Honovich et al.
2022, arXiv:2205.10782); Large Language Models Are Human-Level Prompt Engineers (APE, Zhou et al.
2022, arXiv:2211.01910). As in the first paper: five pairs of a task are shown and the
instruction that turns input into output is inferred. As in the second: several instructions are
sampled, and the best one is kept.

Ours: the wording, ten samples, and what is best: APE executes each on held-out pairs, here the
model says whether it fits those that were shown, by p(yes) / (p(yes) + p(no)). All pairs of the
group then get it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

import polars as pl

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from schemas.records import first_user_turn, response
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._llm.rows import license_of
from stages._selection.groups import groups_of
from stages.generate.backtranslate.curation import Curation

PROMPTS: Final = Prompts(__file__)


@option_group
class Induction:
    """Instruction induction (Honovich et al. 2022, arXiv:2205.10782).

    Args:
        name: "induction".
        num_candidates: Instructions written for each group, of which the best is kept.
        group: What the pairs of one task have in common: `source`, a column, or an SQL
            expression over columns.
        num_shots: Pairs of each group that are shown.
        curation: How pairs are rated besides; null keeps all.
    """

    name: Literal["induction"] = "induction"
    num_candidates: Count = 10
    group: str = "source"
    num_shots: Count = 5
    curation: Curation | None = None

    decoding: ClassVar[Decoding] = Decoding(256, 0.7, 0.9)
    instruction_characters: ClassVar[tuple[int, int] | None] = (10, 800)


def tasks(rows: pl.DataFrame, method: Induction, seed: int) -> list[Draft]:
    """A draft for each group of pairs, with the pairs that are shown.

    Args:
        rows: The pairs: the first user's turn is the input, the last answer the output.
        method: How pairs are grouped and how many are shown.
        seed: Seed of the choice of the pairs that are shown.
    """
    groups = groups_of(rows, method.group)
    pairs = rows.select(
        "id", first_user_turn().alias("input"), response().alias("output"), "origins"
    )
    drafts = []
    for number, name in enumerate(groups.names):
        members = pairs.filter(pl.Series(groups.codes == number)).to_dicts()
        rng = random.Random(f"{seed} induction {name}")
        shots = rng.sample(members, min(method.num_shots, len(members)))
        fields = {"group": name, "pairs": members, "examples": shots}
        drafts.append(Draft(tuple(sorted(pair["id"] for pair in shots)), fields))
    return drafts


def prompt(draft: Draft) -> Prompt:
    """The request for the instruction behind the pairs that are shown."""
    return user(PROMPTS.render("induction", **draft.fields))


def question(draft: Draft) -> Prompt:
    """The question whether the instruction leads from the inputs to the outputs."""
    return user(PROMPTS.render("induction_check", **draft.fields))


def applied(drafts: Sequence[Draft]) -> list[Draft]:
    """Each task's instruction with all its pairs, which keep their own licenses."""
    result = []
    for draft in drafts:
        if not draft.active:
            result.append(draft)
            continue
        for pair in draft["pairs"]:
            row = draft.child(input=pair["input"] or "", passage=pair["output"] or "")
            row.parents = (pair["id"],)
            row.license = license_of(pair["origins"])
            if not row["passage"]:
                row.reject("no_output")
            result.append(row)
    return result
