"""Skill composition (Zhao et al. 2024, arXiv:2409.19808, after Skill-Mix, arXiv:2310.17567).

A text of at most k - 1 sentences about a topic shows k random skills. The same model then
judges skill by skill whether the text shows it. The lists of skills and topics, and the
prompts, are ours.
"""

from __future__ import annotations

import random
from typing import Annotated, Final, Literal

from pipeline.types import Count, NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, filter_drafts, user, yes_or_no
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate.taxonomy.axes import SKILLS, TOPICS
from stages.generate.taxonomy.context import TaxonomyContext

PROMPTS: Final = Prompts(__file__)


@option_group
class Skills:
    """Texts that show several random skills at once (Zhao et al. 2024).

    Args:
        name: The method.
        num_rows: Texts to write.
        skills: Each skill with the description of a text that shows it; null for those of
            `axes.SKILLS`.
        topics: What the texts are about.
        num_skills: k, the skills of a text, which has at most k - 1 sentences (at least one).
        verify: Have the model judge whether a text shows each of its skills, and drop it as
            `skill_not_shown` if not.
    """

    name: Literal["skills"] = "skills"
    num_rows: Count
    skills: dict[str, str] | None = None
    topics: Annotated[tuple[str, ...], NonEmpty] = TOPICS
    num_skills: Count = 3
    verify: bool = True

    def __post_init__(self) -> None:
        available = len(self._descriptions)
        if self.num_skills > available:
            raise ValueError(f"num_skills must be at most {available}, got {self.num_skills}")

    @property
    def _descriptions(self) -> dict[str, str]:
        return self.skills or SKILLS

    def run(self, context: TaxonomyContext) -> list[Draft]:
        """A draft for each text."""
        drafts = [self._draft(number, context.seed) for number in range(self.num_rows)]
        context.generate(drafts, "response", lambda d: user(d["instruction"]))
        for position in range(self.num_skills if self.verify else 0):
            _judge(context, drafts, position)
        return drafts

    def _draft(self, number: int, seed: int) -> Draft:
        """Random skills and a topic, with the instruction that asks for them."""
        rng = random.Random(f"{seed} skills {number}")
        names = rng.sample(sorted(self._descriptions), self.num_skills)
        topic = rng.choice(self.topics)
        skills = [(name, self._descriptions[name]) for name in names]
        values = {"topic": topic, "sentences": max(1, self.num_skills - 1)}
        text = PROMPTS.render("skills", skills=skills, **values)
        fields = {"skills": skills, "instruction": text, "attributes": [*names, topic]}
        return Draft((), fields, number=number)


def _judge(context: TaxonomyContext, drafts: list[Draft], position: int) -> None:
    """Reject the texts that do not show their skill at a position."""

    def prompt(draft: Draft) -> Prompt:
        name, meaning = draft["skills"][position]
        text = draft["response"]
        return user(PROMPTS.render("shown", text=text, name=name, meaning=meaning))

    def rejection(draft: Draft) -> Rejection | None:
        missing = "skill_not_shown", {"skill": draft["skills"][position][0]}
        return None if draft["shown"] == "yes" else missing

    context.generate(drafts, "shown", prompt, decoding=yes_or_no(context.judge_max_tokens))
    filter_drafts(drafts, rejection)
