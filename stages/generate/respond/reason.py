"""Paths of reasoning: a guideline becomes an outline, and the outline an answer.

ReGenesis (Peng et al. 2024, arXiv:2410.02108). A general guideline is adapted to the task,
becomes an outline, and the outline a path of reasoning; each of several answers to one
prompt follows another guideline.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.drafts import Draft, GenerateField, Prompt
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)


@option_group
class Reason:
    """Answers that reason: ReGenesis (Peng et al. 2024, arXiv:2410.02108).

    Args:
        name: "reason".
    """

    name: Literal["reason"] = "reason"


def write_reasoning(write: GenerateField, drafts: Sequence[Draft], seed: int) -> None:
    """Write `response` in three requests for each draft; `manner` is its guideline.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: The prompts, with `before`.
        seed: Seed of the choice of guidelines.
    """
    guidelines = PROMPTS.render("guidelines").splitlines()
    for draft in drafts:
        rng = random.Random(f"{seed} reason {draft.parents}")
        order = rng.sample(guidelines, len(guidelines))
        guideline = order[draft.number % len(order)]
        draft.fields |= {"manner": guideline, "guideline": guideline}
    for prompt, field in (("adapted", "adapted"), ("outline", "outline"), ("path", "response")):
        write(drafts, field, partial(_prompt, prompt))


def _prompt(name: str, draft: Draft) -> Prompt:
    """One step of the chain, about the last thing that the user said."""
    *history, (_, instruction) = draft["before"]
    text = PROMPTS.render(name, **{**draft.fields, "instruction": instruction})
    return (*history, ("user", text))
