"""CITING: a rubric for each category of requests, and answers revised by it.

CITING: Large Language Models Create Curriculum for Instruction Tuning (Feng et al. 2023,
arXiv:2310.02527).

As in the paper: a teacher writes a rubric for each category of requests; each request is matched
with a category; the answer that stands there (the student's own draft: `generate.respond` writes
such) is criticised by the rubric of its category and revised.

Ours: the wording, the names of the categories, that the model which revises also matches requests
with categories, and temperature 0. The paper's rounds are a recipe, `citing`: `train.sft` on the
revised rows, and the trained model as `model` of the next round. No code was found;
this follows what others report of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)

CATEGORIES: Final = (
    *("explanation", "factual question", "reasoning and mathematics", "programming"),
    *("creative writing", "summary", "rewriting and translation", "advice", "classification"),
    "other",
)

_LABEL_TOKENS: Final = 16
_EVIDENCE_CHARACTERS: Final = 2_000


@option_group
class Citing:
    """A critique by the rubric of a request's category, then a revision (CITING, Feng et al. 2023).

    The teacher, by default the model, writes the rubrics. Keeps an answer as `no_rubric` where
    that of its category cannot be read.

    Args:
        name: "citing".
        categories: Names of the categories, of which each request has one.
    """

    name: Literal["citing"] = "citing"
    categories: Annotated[tuple[str, ...], NonEmpty, Distinct] = CATEGORIES

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Match requests with rubrics, criticise and revise."""
        rubrics = {name: Draft((), {"category": name}) for name in self.categories}
        attempts = [draft.child() for draft in drafts]
        decoding = Decoding(max_tokens=_LABEL_TOKENS, choice=self.categories)
        reviser.write(attempts, "category", self._classify, decoding=decoding)
        needed = {attempt["category"] for attempt in attempts if attempt.active}
        if needed and is_counting():
            needed = set(self.categories)
        write_rubric = reviser.teach or reviser.write
        write_rubric([rubrics[name] for name in self.categories if name in needed], "rubric", _ask)
        for attempt in attempts:
            if attempt.active:
                _take_rubric(attempt, rubrics[attempt["category"]])
        reviser.write(attempts, "critique", _criticise)
        reviser.write(attempts, "new_response", _revise)
        for attempt in attempts:
            if attempt.active:
                critique = attempt["critique"][:_EVIDENCE_CHARACTERS]
                attempt.fields["evidence"] |= {"critique": critique}
        reviser.conclude(drafts, attempts, "citing")

    def _classify(self, draft: Draft) -> Prompt:
        values = {"request": draft["request"], "categories": list(self.categories)}
        return user(PROMPTS.render("classify", **values))


def _take_rubric(attempt: Draft, rubric: Draft) -> None:
    """Give an attempt the rubric of its category, with the keys of what it was read from."""
    attempt.journal += rubric.journal
    attempt.error = rubric.error
    attempt.fields["evidence"] = {"category": attempt["category"]}
    if rubric.rejection is not None:
        attempt.reject("no_rubric", **rubric.rejection[1])
    elif rubric.active:
        attempt.fields["rubric"] = rubric["rubric"]


def _ask(draft: Draft) -> Prompt:
    return user(PROMPTS.render("rubric", category=draft["category"]))


def _criticise(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response", "rubric")}
    return user(PROMPTS.render("criticise", **values))


def _revise(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response", "critique")}
    return user(PROMPTS.render("revise", **values))
