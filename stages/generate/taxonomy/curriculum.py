"""Human Curriculum, CORGI (Lee et al. 2023, arXiv:2310.09518): subjects, concepts, Bloom levels.

- As in the paper: courses from school to graduate school give concepts, each concept a question at
  each of three levels of Bloom's taxonomy (remember, understand, apply) with an answer, and the
  levels stay with the rows, for training in their order.
- Ours: the subjects where no file is given (the paper takes the catalogues of schools and
  universities), ten concepts of a course, and the wording. The paper filters the rows by retrieval
  afterwards, which is left to other stages.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pipeline.errors import OptionError
from pipeline.types import Count, NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.preambles import requested_items
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate.taxonomy.axes import LEVELS, SUBJECTS, Level
from stages.generate.taxonomy.context import TaxonomyContext, write_instructions

PROMPTS: Final = Prompts(__file__)
_UNIVERSITY: Final = "university"


@option_group
class Curriculum:
    """A question about each concept of a course at each level (Lee et al. 2023).

    Args:
        name: The method.
        subjects: Subjects of the courses; empty for those of the stage's `subject_files`, or else
            of `axes.SUBJECTS`, each with its stage of education.
        education: The stage of education of your own subjects.
        num_concepts: Concepts of a course.
        levels: Levels of Bloom's taxonomy.
        num_rows: Size of the random sample of (concept, level) that is written out; null
            for all.
        answer: Have the questions answered; else a row ends with the user's turn, for
            `rewrite.evolve` or `generate.respond`.
    """

    name: Literal["curriculum"] = "curriculum"
    subjects: tuple[str, ...] = ()
    education: str = _UNIVERSITY
    num_concepts: Count = 10
    levels: Annotated[tuple[Level, ...], NonEmpty] = ("remember", "understand", "apply")
    num_rows: Count | None = None
    answer: bool = True

    def check(self, num_subjects: int) -> None:
        """Refuse a stage of education that is nothing's.

        Args:
            num_subjects: How many subjects, or files of them, the recipe has.

        Raises:
            OptionError: It has none.
        """
        if not num_subjects and self.education != _UNIVERSITY:
            what = f"must be left out without subjects, got {self.education!r}"
            raise OptionError("method.education", what)

    def run(self, context: TaxonomyContext) -> list[Draft]:
        """Drafts for each course, concept and level."""
        courses = self._courses(self.subjects or context.subjects)
        context.generate(
            *(courses, "concepts", self._concepts_prompt),
            parse=lambda text: requested_items(text, self.num_concepts) or None,
        )
        drafts = expand(
            courses, lambda d: [{"concept": c} for c in d["concepts"][: self.num_concepts]]
        )
        seen: set[tuple[str, str]] = set()
        filter_drafts(drafts, lambda draft: _repeated(draft, seen))
        drafts = expand(drafts, self._questions)
        write_instructions(context, drafts, _question_prompt, self.num_rows, self.answer)
        return drafts

    def _courses(self, own: tuple[str, ...]) -> list[Draft]:
        """A draft for each subject with its stage of education."""
        by_education = {self.education: own} if own else SUBJECTS
        return [
            Draft((), {"subject": subject, "education": education})
            for education, subjects in by_education.items()
            for subject in subjects
        ]

    def _concepts_prompt(self, draft: Draft) -> Prompt:
        return user(PROMPTS.render("concepts", **draft.fields, count=self.num_concepts))

    def _questions(self, draft: Draft) -> list[dict[str, object]]:
        # The values, the last one too, enter the digest by which combinations are sampled.
        attributes = [draft["concept"]]
        return [
            {"level": level, "aim": LEVELS[level], "attributes": attributes, "prompt": "question"}
            for level in self.levels
        ]


def _repeated(draft: Draft, seen: set[tuple[str, str]]) -> Rejection | None:
    """A concept that its course has listed already."""
    key = draft["subject"], draft["concept"].casefold()
    if key in seen:
        return "repeated_concept", {"subject": key[0], "concept": draft["concept"]}
    seen.add(key)
    return None


def _question_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("question", **draft.fields))
