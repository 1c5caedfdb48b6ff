"""Selective Reflection-Tuning: a teacher rewrites, and the student's likelihoods decide.

Selective Reflection-Tuning: Student-Selected Data Recycling for LLM Instruction-Tuning (Li et al.
2024, arXiv:2402.10110; tianyi-lab/Reflection_Tuning).

As in the paper: Reflection-Tuning's two passes. The new instruction counts where it is harder for
the student that will be tuned, by its IFD with the new answer, PPL(A|Q) / PPL(A); then the new
answer to the instruction that stands counts where it is easier to guess that from it, by the
reversed IFD, PPL(Q|A) / PPL(Q).

As in the authors' code: perplexities, whose ratio is compared strictly; rows stay only where both
ratios of the final texts are below 1; `require_new_answer` leaves out all rows whose answer was not
improved, as their script does. Two defects are not taken over: there a score that could not be
computed is 0, which passes the filter and makes any instruction harder, and an answer is sought by
its last occurrence in the text. Here the pass ends as `unscored`, and the filter decides nothing.

Ours: the wording, also of the question for the instruction; ratios as `score.loss` computes `ifd`,
in the student's chat template and with the end of the turn; where the instruction is unchanged, its
new answer does not count in the first pass; an answer is rewritten once, after the instruction was
chosen, where their script looks it up among the rewritings of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from pipeline.models.base import Decoding, Engine
from pipeline.models.counting import is_counting
from pipeline.models.local.chat_template import Unrenderable
from pipeline.types import option_group
from schemas.records import Message
from stages._llm import likelihood_views as views
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages.rewrite.revise.judging import Verdict
from stages.rewrite.revise.passes import Reviser, candidate_texts
from stages.rewrite.revise.reflection import (
    reflect_on_answers,
    reflect_on_instructions,
    stands_alone,
)

PROMPTS: Final = Prompts(__file__)

Turns = tuple[tuple[str, str], ...]
"""Role and text of each turn, the last one the assistant's."""

Ratio = Literal["ifd", "r_ifd"]


@option_group
class SelectiveReflection:
    """Reflection-Tuning where the student that is tuned gains by it (Li et al. 2024).

    Needs `student`. Drops `above_one` (a ratio of the final texts is 1 or more) and, where a new
    answer is required, `answer_kept`. Keeps texts as `no_gain`, or as `unscored` where a ratio
    cannot be computed: the row is longer than `max_length`, or the template cannot show it.

    Args:
        name: "selective_reflection".
        max_length: Tokens of a conversation that the student reads, at most.
        require_new_answer: Whether rows whose answer was not improved are dropped, as the authors'
            script does.
    """

    name: Literal["selective_reflection"] = "selective_reflection"
    max_length: Annotated[int, Field(ge=2)] = 2048
    require_new_answer: bool = False

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Have both texts rewritten, let the student choose, and filter by its ratios."""
        assert reviser.student is not None, "the stage's check lets no recipe through without"
        student = Student(reviser.student, self.max_length)
        if not is_counting():
            # Before any request is paid: an engine without likelihoods is refused here.
            student.ratios("ifd", drafts, [(d["instruction"], d["response"]) for d in drafts])
        alone = [draft for draft in drafts if stands_alone(draft)]
        reflect_on_instructions(reviser, alone, gate=partial(_gate, student, "ifd"))
        working = [draft for draft in drafts if draft.active]
        improved = reflect_on_answers(reviser, working, gate=partial(_gate, student, "r_ifd"))
        if not is_counting():
            self._filter(student, working, {draft.parents for draft in improved})

    def _filter(
        self, student: Student, drafts: Sequence[Draft], improved: set[tuple[str, ...]]
    ) -> None:
        drafts = [draft for draft in drafts if draft.active]
        texts = [(draft["instruction"], draft["response"]) for draft in drafts]
        ratios = [student.ratios(ratio, drafts, texts) for ratio in ("ifd", "r_ifd")]
        for draft, ifd, r_ifd in zip(drafts, *ratios, strict=True):
            values = {"ifd": _rounded(ifd), "r_ifd": _rounded(r_ifd)}
            draft["passes"][-1].update(final=values)
            if any(value is not None and value >= 1 for value in (ifd, r_ifd)):
                draft.reject("above_one", **values)
            elif self.require_new_answer and draft.parents not in improved:
                draft.reject("answer_kept", outcome=draft["passes"][-1]["outcome"], **values)


@dataclass
class Student:
    """The model that will be tuned, and what it was asked to score before.

    Attributes:
        engine: Has its likelihoods.
        max_length: Tokens of a conversation, at most.
        known: The ratios so far, by conversation; None where there is none.
    """

    engine: Engine
    max_length: int
    known: dict[Turns, float | None] = field(default_factory=dict)

    def ratios(
        self, ratio: Ratio, drafts: Sequence[Draft], texts: Sequence[tuple[str, str]]
    ) -> list[float | None]:
        """Each row's IFD or reversed IFD with the instruction and answer given.

        Args:
            ratio: Which of the two.
            drafts: Rows set to an answer.
            texts: The instruction and the answer in the place of each one's own.
        """
        turns = [_turns(ratio, draft, *own) for draft, own in zip(drafts, texts, strict=True)]
        new = [own for own in dict.fromkeys(turns) if own not in self.known]
        self.known |= zip(new, helped(self.engine, new, self.max_length), strict=True)
        return [self.known[own] for own in turns]


def helped(engine: Engine, conversations: Sequence[Turns], max_length: int) -> list[float | None]:
    """Perplexity of each last answer behind its conversation in terms of that without it.

    Args:
        engine: The model whose likelihoods are measured.
        conversations: Their last turn is the answer.
        max_length: Tokens of a conversation, at most; of a longer one there is no ratio.
    """
    if not conversations:
        return []
    limit = min(max_length, engine.context_tokens or max_length)
    rendering = views.rendering(engine.tokenizer, limit)
    parts: dict[tuple[int, str], list[views.Part]] = {}
    for number, turns in enumerate(conversations):
        messages = [Message(role=role, content=text) for role, text in turns]
        try:
            shown = views.conversation(rendering, messages, None)
        except Unrenderable:
            continue
        last = replace(shown, answers=shown.answers[-1:])
        parts[number, "behind"] = views.conditional(last, rendering)
        parts[number, "alone"] = views.alone(last, rendering)
    scores = views.log_probs(engine, parts)
    return [_ratio(scores, number) for number in range(len(conversations))]


def _ratio(scores: Mapping[tuple[int, str], views.Floats], number: int) -> float | None:
    if (number, "behind") not in scores or (number, "alone") not in scores:
        return None
    value = views.ratio_of_ppl(scores[number, "behind"], scores[number, "alone"])
    return value if np.isfinite(value) else None


def _turns(ratio: Ratio, draft: Draft, instruction: str, response: str) -> Turns:
    """The conversation whose answer is scored: the row's, or the guess of its instruction."""
    if ratio == "r_ifd":
        question = PROMPTS.render("guess", response=response)
        return (("user", question), ("assistant", instruction))
    before = draft["turns"][: draft["at"] - 1]
    return (*before, ("user", instruction), ("assistant", response))


def _gate(student: Student, ratio: Ratio, drafts: Sequence[Draft]) -> list[Verdict]:
    """Whether the candidates' instructions are harder, or their answers easier to guess from."""
    if is_counting():
        return [(None, {}) for _ in drafts]
    old = student.ratios(ratio, drafts, [(d["instruction"], d["response"]) for d in drafts])
    new = student.ratios(ratio, drafts, [candidate_texts(draft) for draft in drafts])
    return [_verdict(ratio, *values) for values in zip(drafts, old, new, strict=True)]


def _verdict(ratio: Ratio, draft: Draft, old: float | None, new: float | None) -> Verdict:
    evidence: dict[str, Any] = {ratio: [_rounded(old), _rounded(new)]}
    if ratio == "ifd" and draft["candidate"].instruction is None:
        return "unchanged", evidence
    if old is None or new is None:
        return "unscored", evidence
    gained = new > old if ratio == "ifd" else new < old
    return (None if gained else "no_gain"), evidence


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
