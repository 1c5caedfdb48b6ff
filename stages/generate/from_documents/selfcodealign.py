"""SelfCodeAlign (Wei et al. 2024, arXiv:2410.24198): concepts of code, a task, answers, tests."""

from __future__ import annotations

from typing import Any, Final

from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import answer_and_tests
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

CATEGORIES: Final = (
    "implementation of a function",
    "implementation of a class",
    "implementation of a program",
)


DIFFICULTIES: Final = ("medium", "hard")


def selfcodealign(means: Means, snippets: list[Draft]) -> list[Draft]:
    """Code as its concepts, these as a task, and the task with several answers and tests."""
    means.ask(
        *(snippets, "concepts"),
        lambda d: user(PROMPTS.render("concepts", passage=d["passage"])),
        read=concepts,
    )
    drafts = expand(snippets, lambda d: _properties(means, d))
    means.ask(drafts, "instruction", _task_prompt)
    drafts = expand(drafts, lambda _: [{"sample": n} for n in range(means.samples)])
    for draft in drafts:
        draft.number = draft.fields.get("sample", 0)
    means.ask(drafts, "answered", _answer_prompt, read=answer_and_tests)
    for draft in drafts:
        if draft.active:
            draft.fields["response"], draft.fields["tests"] = draft["answered"]
            draft.notes |= {n: draft[n] for n in ("concepts", "sample")}
    return drafts


def concepts(text: str) -> list[str] | None:
    """What stands between the commas of the first line, each once."""
    first = text.strip().partition("\n")[0].removeprefix("Concepts:")
    found = [part.strip(" .*`") for part in first.split(",")]
    return [part for part in dict.fromkeys(found) if part] or None


def _properties(means: Means, draft: Draft) -> list[dict[str, Any]]:
    """What kind of task is asked for and how hard it is to be, drawn."""
    every = [
        {"task_type": category, "level": difficulty, "language": means.language}
        for category in means.task_types
        for difficulty in DIFFICULTIES
    ]
    return means.few("selfcodealign", draft, every)


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
