"""Evolutions by task and language: a taxonomy says which ones an instruction may undergo.

M2Lingual: Enhancing Multilingual, Multi-Turn Instruction Alignment in Large Language Models
(Maheshwary et al. 2024, arXiv:2406.16783).

As in the paper: the first of two steps: a model evolves seeds of many languages, in their own
language, each by an evolution that its task admits; the second one continues the results to
conversations (see `turns.py`).

Ours: the tasks and evolutions of the taxonomy and their wording (the paper has some seventeen
tasks, and general instructions); a task is recognized by the words of its name; evolutions are
drawn alike for each row and round; an evolved instruction in another language is dropped
(`language_changed`), as are WizardLM's failed evolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

import polars as pl

from pipeline.errors import OptionError
from pipeline.stage import Columns
from pipeline.types import Fraction, option_group
from stages._llm.drafts import Draft, Prompt, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.languages import NAMES, language_of, other_language

PROMPTS: Final = Prompts(__file__)

MIN_PROBABILITY: Final = 0.2

EVOLUTIONS: Final[dict[str, str]] = {
    "constraints": "Add a condition that a good answer must meet beside those that there are.",
    "deepen": "Make it ask for causes, consequences or exceptions, where it asks for facts.",
    "concretize": "Put a definite person, place, time or amount where it speaks in general.",
    "reasoning": "Make several steps necessary, each of which needs the result of the last.",
    "local": "Set it in the life of people who speak the language: their places, foods, customs,"
    " names, offices or money.",
    "several_hops": "Make it need two facts, of which the second is about the answer to the first.",
    "distractor": "Add a sentence that sounds as if it mattered, and does not.",
    "choices": "Add four answers to choose from, of which one is right and one is nearly right,"
    " and ask why.",
    "unanswerable": "Change it so that a part of it cannot be answered from what is said, and that"
    " has to be noticed.",
    "audience": "Say for whom the result is written, who knows little or very much of it.",
    "form": "Ask for a form that the result shall have, such as a letter, a table or a dialogue.",
    "length": "Ask for a definite length, counted in sentences or words.",
    "viewpoint": "Ask for the same from the point of view of somebody who is concerned.",
    "register": "Ask for a register or a regional variety of the language.",
    "idiom": "Bring in an idiom or a proverb whose meaning is not that of its words.",
    "borderline": "Make the case one that lies between two of the categories.",
    "explain": "Ask for the reason of the result, with the words of the text that show it.",
    "counterexample": "Ask also for the smallest change that would turn the result around.",
    "terms": "Let terms of a special field occur, which have to be kept or explained.",
    "quantities": "Replace its numbers by others that are less handy, with different units.",
    "edge_cases": "Name an unusual case that the result must get right too.",
}
"""What may be done to an instruction, as the prompt says it."""

GENERAL: Final = ("constraints", "deepen", "concretize", "reasoning", "local")
TAXONOMY: Final[dict[str, tuple[str, ...]]] = {
    "question answering": ("several_hops", "distractor", "choices", "unanswerable", "local"),
    "reading comprehension": ("several_hops", "distractor", "unanswerable", "explain"),
    "summarization": ("audience", "length", "form", "viewpoint"),
    "title generation": ("audience", "length", "register"),
    "translation": ("register", "idiom", "terms", "audience"),
    "paraphrase": ("register", "length", "audience", "idiom"),
    "simplification": ("audience", "terms", "length"),
    "classification": ("borderline", "explain", "counterexample"),
    "sentiment": ("borderline", "explain", "idiom", "counterexample"),
    "inference": ("borderline", "explain", "counterexample", "distractor"),
    "entity recognition": ("terms", "distractor", "form"),
    "sentence completion": ("constraints", "idiom", "local", "explain"),
    "dialogue": ("register", "viewpoint", "constraints", "local"),
    "writing": ("form", "viewpoint", "length", "register", "local"),
    "mathematics": ("quantities", "distractor", "reasoning", "explain"),
    "code": ("edge_cases", "constraints", "explain"),
    "reasoning": ("reasoning", "distractor", "counterexample", "explain"),
}
"""The evolutions of each task; instructions of other tasks undergo the general ones."""

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "question answering": ("question", "qa", "trivia", "advice"),
    "reading comprehension": ("comprehension", "extraction"),
    "summarization": ("summar", "abstract"),
    "title generation": ("title", "headline"),
    "translation": ("translat",),
    "paraphrase": ("paraphras", "rewrit", "editing"),
    "simplification": ("simplif",),
    "sentiment": ("sentiment", "emotion"),
    "inference": ("inference", "nli", "entailment"),
    "entity recognition": ("entity", "ner", "tagging"),
    "sentence completion": ("completion", "cloze"),
    "dialogue": ("dialog", "conversation", "role"),
    "writing": ("writ", "creative", "story", "poem", "brainstorm"),
    "mathematics": ("math", "arithmetic"),
    "code": ("code", "coding", "program", "debug"),
    "reasoning": ("reason", "logic", "planning"),
    "classification": ("classif", "categor", "label", "topic"),
}
"""Beginnings of words by which a task is recognized, the first task that has one."""


@option_group
class M2Lingual:
    """The first step of M2Lingual (Maheshwary et al. 2024, arXiv:2406.16783).

    Args:
        name: "m2lingual".
        task: The column with the name of each row's task, as `load.tasks` or `tag.intent` have
            it; null for general evolutions.
        language: The column with the code of each row's language; null to identify it.
        min_language_probability: The least probability of that language for what was evolved;
            with `eliminate`.
        eliminate: Drop evolutions that failed (see `elimination.py`), and those in another
            language.
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["m2lingual"] = "m2lingual"
    task: str | None = None
    language: str | None = None
    min_language_probability: Fraction = MIN_PROBABILITY
    eliminate: bool = True
    write_answers: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns that it reads beside those of every record."""
        return [name for name in (self.task, self.language) if name]


def check_columns(method: M2Lingual, columns: Columns) -> None:
    """Refuse columns that hold no texts.

    Args:
        method: The options.
        columns: What stands on the edge.

    Raises:
        OptionError: A column holds something else.
    """
    for option in ("task", "language"):
        name = getattr(method, option)
        if name and columns.get(name) != pl.String:
            raise OptionError(
                *(f"method.{option}", f"must name a column of texts, got {name!r}"),
                hint=f"method.{option}: {option}, or leave it out",
            )


def evolutions(task: str | None) -> tuple[str, ...]:
    """The evolutions that a task admits.

    Args:
        task: The name of the task, however it is written.

    Example:
        >>> evolutions("Machine_translation") == TAXONOMY["translation"]
        True
        >>> evolutions("Gardening") == evolutions(None) == GENERAL
        True
    """
    words = "".join(c if c.isalnum() else " " for c in (task or "").casefold()).split()
    for name, beginnings in _WORDS.items():
        if any(word.startswith(beginnings) for word in words):
            return TAXONOMY[name]
    return GENERAL


def set_facts(drafts: Sequence[Draft], rows: pl.DataFrame, method: M2Lingual) -> None:
    """Set `task` and `language` of drafts.

    Args:
        drafts: One for each row; changed in place.
        rows: The rows.
        method: The columns.
    """
    nothing = [None] * len(rows)
    tasks, languages = (
        rows[name].to_list() if name else nothing for name in (method.task, method.language)
    )
    for draft, task, language in zip(drafts, tasks, languages, strict=True):
        known = language or language_of(draft["instruction"])
        draft.fields |= {"task": task, "language": known}


def prompt(draft: Draft) -> Prompt:
    """The request to evolve an instruction in its language."""
    language = draft["language"]
    return user(
        PROMPTS.render(
            "evolve",
            instruction=draft["instruction"],
            language=NAMES.get(language, language) or "the language of the instruction",
            task=draft["task"],
            description=EVOLUTIONS[draft["operator"]],
        )
    )


def drop_other_languages(
    drafts: Sequence[Draft], language: Callable[[Draft], str | None], min_probability: float
) -> None:
    """Drop as `language_changed` instructions that are no longer in their language.

    Args:
        drafts: Evolved instructions.
        language: The code of the language that a draft should have; None where it is unknown.
        min_probability: The least probability of it; 0 to identify nothing.
    """
    if min_probability:
        filter_drafts(drafts, partial(_language_changed, language, min_probability))


def _language_changed(
    language: Callable[[Draft], str | None], min_probability: float, draft: Draft
) -> Rejection | None:
    expected = language(draft)
    if expected not in NAMES:
        return None
    evidence = other_language(draft["instruction"], expected, min_probability)
    return ("language_changed", {"expected": expected, **evidence}) if evidence else None
