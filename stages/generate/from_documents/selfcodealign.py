"""SelfCodeAlign (Wei et al. 2024, arXiv:2410.24198): concepts of code, tasks, tested answers.

A model names the concepts of a piece of code, writes a task about them, and answers the
task several times, each time with tests. The paper shows 8 examples to a base model; here
an instruction-tuned model gets instructions. The tests are kept in the column `tests`;
the paper's filter by running them is not part of this stage.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.preambles import instruction_text, without_preamble
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import answer_and_tests
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)

TASK_TYPES: Final = (
    "implementation of a function",
    "implementation of a class",
    "implementation of a program",
)

DIFFICULTIES: Final = ("medium", "hard")


@option_group
class SelfCodeAlign(DocumentMethod):
    """SelfCodeAlign: tasks about the concepts of code (Wei et al. 2024).

    Args:
        name: The method.
        task_types: Types of tasks.
        per_passage: Tasks of a passage, each of another type or difficulty.
        num_samples: Answers to a task, each with tests.
        language: The programming language of the tasks.
    """

    name: Literal["selfcodealign"] = "selfcodealign"
    task_types: tuple[str, ...] = TASK_TYPES
    per_passage: Count = 1
    num_samples: Count = 10
    language: str = "Python"

    decoding: ClassVar[Decoding] = Decoding(1536, 0.7)
    documents_are_code: ClassVar[bool] = True
    answer_field: ClassVar[str | None] = "answered"

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, TASK_TYPES)

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Concepts of each passage, a task about them, and several answers with tests."""
        context.generate(passages, "concepts", _concepts_prompt, parse=concepts)
        drafts = expand(passages, lambda d: self._tasks(context, d))
        context.generate(drafts, "instruction", _task_prompt, parse=instruction_text)
        drafts = expand(drafts, lambda _: [{"sample": n} for n in range(self.num_samples)])
        for draft in drafts:
            draft.number = draft.fields.get("sample", 0)
        context.generate(drafts, "answered", _answer_prompt, parse=answer_and_tests)
        for draft in drafts:
            if draft.active:
                draft.fields["response"], draft.fields["tests"] = draft["answered"]
                draft.notes |= {name: draft[name] for name in ("concepts", "sample")}
        return drafts

    def _tasks(self, context: GenerationContext, passage: Draft) -> list[dict[str, Any]]:
        """Type and difficulty of each task of a passage."""
        combinations = [
            {"task_type": task_type, "level": difficulty, "language": self.language}
            for task_type in self.task_types
            for difficulty in DIFFICULTIES
        ]
        return context.choose("selfcodealign", passage, combinations, self.per_passage)


def concepts(text: str) -> list[str] | None:
    """The concepts between the commas of the first line, each once.

    Example:
        >>> concepts("Concepts: closures, recursion, closures.")
        ['closures', 'recursion']
    """
    line = without_preamble(text).partition("\n")[0]
    first = re.sub(r"^\W*concepts\W*[:：]", "", line, flags=re.IGNORECASE)
    names = [part.strip(" .*`") for part in first.split(",")]
    return [name for name in dict.fromkeys(names) if name] or None


def _concepts_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("concepts", passage=draft["passage"]))


def _task_prompt(draft: Draft) -> Prompt:
    values = {
        "category": draft["task_type"],
        "difficulty": draft["level"],
        "language": draft["language"],
        "concepts": draft["concepts"],
    }
    return user(PROMPTS.render("instruction", **values))


def _answer_prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("instruction", "language")}
    return user(PROMPTS.render("answer", **values))
