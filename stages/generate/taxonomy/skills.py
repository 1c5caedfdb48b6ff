"""Skill composition (Zhao et al. 2024, arXiv:2409.19808, after Skill-Mix, arXiv:2310.17567).

- As in the papers: k random skills of a list with descriptions, and a random topic; a text of at
  most k - 1 sentences about the topic that shows them all; a model grades the text skill by skill,
  and texts that miss one are dropped. The paper trains on k of up to 3 and holds skills and topics
  out for the test: two lists in two files do that.
- Ours: the lists of skills and topics where no file is given, the wording, k = 3, and that the
  same model grades with yes or no (the paper's grader is GPT-4, with points for staying on the
  topic, for sense and for length besides).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pipeline.errors import OptionError
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
        skills: Each skill with the description of a text that shows it; null for those of the
            stage's `skill_files`, or else of `axes.SKILLS`.
        topics: What the texts are about; those of the stage's `topic_files` take their place.
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

    def check(self, available: int) -> None:
        """Refuse more skills for a text than there are.

        Args:
            available: The number of skills.

        Raises:
            OptionError: There are fewer.
        """
        if self.num_skills > available:
            what = f"must be at most {available}, got {self.num_skills}"
            raise OptionError("method.num_skills", what, why=f"there are {available} skills")

    def run(self, context: TaxonomyContext) -> list[Draft]:
        """A draft for each text."""
        descriptions = context.skills or self.skills or SKILLS
        self.check(len(descriptions))
        topics = context.topics or self.topics
        drafts = [self._draft(n, context.seed, descriptions, topics) for n in range(self.num_rows)]
        context.generate(drafts, "response", lambda d: user(d["instruction"]))
        for position in range(self.num_skills if self.verify else 0):
            _judge(context, drafts, position)
        return drafts

    def _draft(
        self, number: int, seed: int, descriptions: Mapping[str, str], topics: Sequence[str]
    ) -> Draft:
        """Random skills and a topic, with the instruction that asks for them."""
        rng = random.Random(f"{seed} skills {number}")
        names = rng.sample(sorted(descriptions), self.num_skills)
        topic = rng.choice(topics)
        skills = [(name, descriptions[name]) for name in names]
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
