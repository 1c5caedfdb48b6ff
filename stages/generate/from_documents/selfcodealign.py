"""SelfCodeAlign: concepts of code, tasks about them, and answers with tests to verify them by.

SelfCodeAlign: Self-Alignment for Code Generation (Wei et al. 2024, arXiv:2410.24198;
bigcode-project/selfcodealign).

As in the paper: the model names the concepts of a piece of code, writes a task about them of
a random category and difficulty, and answers the task several times, each time with tests of
its own; answers whose tests pass are kept, one of each task. As in the authors' code: functions
are drawn twice as often as classes and programs; easy, medium and hard alike; 10 answers, at
temperature 0.7, of up to 1,536 tokens; answers whose tests assert nothing are left out.

Ours: the wording; the paper shows 8 examples to a base model, here a chat model gets
instructions. The tests are in the column `tests`, which `score.execution` runs; choosing
among those that pass is `select.response`; the recipe `selfcodealign` does both.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, answer_text, expand, filter_drafts, user
from stages._llm.preambles import instruction_text, without_preamble
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._sandbox.cases import cases_of
from stages.generate._parsing.sections import answer_and_tests
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)

TASK_TYPES: Final = {
    "implementation of a function": 2,
    "implementation of a class": 1,
    "implementation of a program": 1,
}
"""The categories with their weights, which are the authors'."""

DIFFICULTIES: Final = ("easy", "medium", "hard")


@option_group
class SelfCodeAlign(DocumentMethod):
    """SelfCodeAlign: tasks about the concepts of code (Wei et al. 2024).

    Drops `tests_assert_nothing`.

    Args:
        name: The method.
        task_types: Types of tasks; functions are drawn twice as often as the others.
        per_passage: Tasks of a passage, each of another type or difficulty.
        num_samples: Answers to a task, each with tests.
        write_tests: Have tests written with each answer. Without them there is nothing to run;
            this is ours, for models that are too weak to write both.
        language: The programming language of the tasks.
    """

    name: Literal["selfcodealign"] = "selfcodealign"
    task_types: tuple[str, ...] = tuple(TASK_TYPES)
    per_passage: Count = 1
    num_samples: Count = 10
    write_tests: bool = True
    language: str = "Python"

    decoding: ClassVar[Decoding] = Decoding(1536, 0.7)
    documents_are_code: ClassVar[bool] = True
    answer_field: ClassVar[str | None] = "answered"

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, tuple(TASK_TYPES))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Concepts of each passage, a task about them, and several answers with tests."""
        context.generate(passages, "concepts", _concepts_prompt, parse=concepts)
        drafts = expand(passages, lambda d: self._tasks(context, d))
        context.generate(drafts, "instruction", _task_prompt, parse=instruction_text)
        drafts = expand(drafts, lambda _: [{"sample": n} for n in range(self.num_samples)])
        for draft in drafts:
            draft.number = draft.fields.get("sample", 0)
        parse = answer_and_tests if self.write_tests else _answer_alone
        prompt = partial(_answer_prompt, write_tests=self.write_tests)
        context.generate(drafts, "answered", prompt, parse=parse)
        for draft in drafts:
            if draft.active:
                draft.fields["response"], draft.fields["tests"] = draft["answered"]
        filter_drafts(drafts, _unasserted)
        for draft in drafts:
            if draft.active:
                draft.notes |= {name: draft[name] for name in ("concepts", "sample")}
        return drafts

    def _tasks(self, context: GenerationContext, passage: Draft) -> list[dict[str, Any]]:
        """Type and difficulty of each task of a passage, weighted, none twice."""
        combinations = [
            (task_type, difficulty)
            for task_type in self.task_types
            for difficulty in DIFFICULTIES
            for _ in range(TASK_TYPES[task_type])
        ]
        drawn = dict.fromkeys(context.choose("selfcodealign", passage, combinations, None))
        return [
            {"task_type": task_type, "level": difficulty, "language": self.language}
            for task_type, difficulty in [*drawn][: self.per_passage]
        ]


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


def _answer_prompt(draft: Draft, *, write_tests: bool) -> Prompt:
    values = {name: draft[name] for name in ("instruction", "language")}
    return user(PROMPTS.render("answer", write_tests=write_tests, **values))


def _answer_alone(text: str) -> tuple[str, None] | None:
    answer = answer_text(text)
    return None if answer is None else (answer, None)


def _unasserted(draft: Draft) -> Rejection | None:
    """Python tests without a case, as `score.execution` counts them, say nothing of an answer."""
    tests = draft["tests"]
    if tests is None or draft["language"].casefold() != "python" or cases_of(tests, None):
        return None
    return "tests_assert_nothing", {"tests": tests[:200]}
