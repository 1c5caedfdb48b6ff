"""ReAlign's formats: the answer in the form that people expect of its kind of task.

ReAlign: Reformatted Alignment (Fan et al. 2024, arXiv:2402.12219; GAIR-NLP/ReAlign).

As in the paper: the task is assigned to one of 46 types; answers of 35 are rewritten in the form
of their type, without a change of what they say; the others stay.

As in the authors' code: two candidates at temperature 0.3, of which the longer one counts; the old
answer stays where the new one has half of its tokens or fewer, gains or loses code, no longer has
the letter or digit that the old one was, or still has the mark of the form; for a puzzle without
a number in the question, for a plan that was not asked for, and for an exam's answer of up to five
characters.

Ours: the wording of types and forms, words in the place of tokens (characters in scripts without
spaces), and all rules for every pool (the code has some of them for each of its data sets, and
lets "True" and "False" be rewritten at will). The five types for which the paper shows retrieved
evidence are rewritten from the old answer alone, with the demand to add nothing;
`without_evidence: keep` leaves them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

import polars as pl

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import Count, Fraction, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._text.tokens import spaced
from stages.rewrite._blocks import blocks
from stages.rewrite.revise.passes import Reviser
from stages.rewrite.revise.realign_formats import FORMATS, TYPES, WITH_EVIDENCE

PROMPTS: Final = Prompts(__file__)

MARK: Final = "New answer"
LABEL_TOKENS: Final = 24
"""Of the name of a type."""

_FENCE: Final = re.compile(r"```.*?```", re.DOTALL)
_NUMBER: Final = re.compile(r"\d")
_PLAN: Final = re.compile(r"\bplan", re.IGNORECASE)
_SHORT: Final = 5


@option_group
class ReAlign:
    """The form of an answer's type, with the same content (ReAlign, Fan et al. 2024).

    Keeps an answer as `no_format` (its type has none), `no_evidence`, `shorter`, `code_changed`,
    `choice_lost`, `no_number`, `no_plan`, `short_answer` or `mark_left`.

    Args:
        name: "realign".
        candidates: New answers of which the longest counts.
        min_ratio: The words of the new answer in terms of the old one's must exceed this.
        without_evidence: Whether answers of the types with retrieved evidence are rewritten
            without it, or kept.
    """

    name: Literal["realign"] = "realign"
    candidates: Count = 2
    min_ratio: Fraction = 0.5
    without_evidence: Literal["rewrite", "keep"] = "rewrite"

    decoding: ClassVar[Decoding] = Decoding(2048, 0.3)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Find the type of each task, and rewrite its answer in the form of that."""
        attempts = [draft.child() for draft in drafts]
        decoding = Decoding(max_tokens=LABEL_TOKENS, choice=TYPES)
        reviser.write(attempts, "task_type", _classify, decoding=decoding)
        for attempt in attempts:
            if attempt.active:
                self._find_format(attempt)
        chosen = [attempt for attempt in attempts if attempt.active]
        children = [self._children(attempt) for attempt in chosen]
        written = [child for group in children for child in group]
        reviser.write(written, "rewritten", _rewrite, parse=_new_answer)
        for attempt, group in zip(chosen, children, strict=True):
            self._choose(attempt, group)
        reviser.conclude(drafts, attempts, "realign")

    def _find_format(self, attempt: Draft) -> None:
        task_type = attempt["task_type"]
        attempt.fields["evidence"] = {"task_type": task_type}
        if is_counting():
            task_type = next(iter(FORMATS))
        attempt.fields["form"] = FORMATS.get(task_type)
        if task_type not in FORMATS:
            attempt.reject("no_format")
        elif task_type in WITH_EVIDENCE and self.without_evidence == "keep":
            attempt.reject("no_evidence")

    def _children(self, attempt: Draft) -> list[Draft]:
        group = [attempt.child() for _ in range(self.candidates)]
        for number, child in enumerate(group):
            child.number = number
        return group

    def _choose(self, attempt: Draft, group: Sequence[Draft]) -> None:
        """The longest candidate as the new answer, if it may take the place of the old one."""
        known = len(attempt.journal)
        for child in group:
            attempt.journal += child.journal[known:]
        attempt.error = next((child.error for child in group if child.error), None)
        readable = [child["rewritten"] for child in group if child.active]
        if not readable:
            attempt.rejection = group[0].rejection
            return
        new = max(readable, key=len)
        attempt.fields["new_response"] = new
        reason = None if is_counting() else self._why_refused(attempt, new)
        if reason is not None:
            attempt.reject(reason, response_end=new[-200:])

    def _why_refused(self, attempt: Draft, new: str) -> str | None:
        question, old, task_type = (attempt[n] for n in ("request", "response", "task_type"))
        reason = refused(question, old, new, task_type)
        if reason is None and _length(new) <= self.min_ratio * _length(old):
            return "shorter"
        return reason


def _length(text: str) -> int:
    """The words of a text; in scripts without spaces its characters."""
    return len(str(pl.select(spaced(pl.lit(text))).item()).split())


def refused(question: str, old: str, new: str, task_type: str) -> str | None:
    """Why a reformatted answer may not take the place of the old one; None if it may.

    Args:
        question: What was asked.
        old: The old answer.
        new: The new answer.
        task_type: One of `TYPES`.

    Example:
        >>> refused("Which one?", "B", "It is b, as said.", "exam_problem_solving_tutor")
        'short_answer'
        >>> refused("Which one?", "B", "It is C.", "closed_qa")
        'choice_lost'
    """
    old = old.strip()
    if task_type == "math_puzzles" and not _NUMBER.search(question):
        return "no_number"
    if task_type == "planning" and not _PLAN.search(question):
        return "no_plan"
    if task_type == "exam_problem_solving_tutor" and len(old) <= _SHORT:
        return "short_answer"
    if len(old) == 1 and not re.search(rf"(?<![a-zA-Z\d]){re.escape(old)}(?![a-zA-Z\d])", new):
        return "choice_lost"
    if _has_code(old) != _has_code(new):
        return "code_changed"
    return "mark_left" if f"[{MARK}]".casefold() in new.casefold() else None


def _has_code(text: str) -> bool:
    return bool(_FENCE.search(text)) or ("def " in text and "return " in text)


def _new_answer(text: str) -> str | None:
    written = blocks(text, (MARK,))
    return written[MARK] if written else None


def _classify(draft: Draft) -> Prompt:
    return user(PROMPTS.render("classify", request=draft["request"], types=list(TYPES)))


def _rewrite(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response", "form")}
    return user(PROMPTS.render("reformat", **values))
