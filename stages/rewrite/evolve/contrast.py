"""Contrastive Filtering: instructions that the target model answers otherwise than the strong one.

CodecLM (Wang et al. 2024, arXiv:2404.05875). As in the paper: the strong model and the model
that will be tuned (the target) both answer an instruction, a judge grades both answers from 1
to 10 while it sees them side by side, and an instruction is kept where the grades differ much:
with the strong model's answer where that is better, else with the target's, which shall not
unlearn what it does well. What both answer alike goes into the next round, as it is now. The
grades do not depend on the places of the answers.

Ours: each answer is graded in the first place, the other one behind it, where the paper
averages over both places; a grade is the expectation over the judge's probabilities, where the
server gives them; the wording of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from pipeline.models.counting import is_counting
from stages._llm.drafts import Draft, GenerateField, Prompt, ScoreField, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection

PROMPTS: Final = Prompts(__file__)

LOW: Final = 1
HIGH: Final = 10
GRADES: Final = {str(grade): float(grade) for grade in range(LOW, HIGH + 1)}

NO_GAP: Final = "no_gap"
"""The drop reason of instructions that both models answer alike."""


def keep_gaps(
    answer: GenerateField, grade: ScoreField, drafts: Sequence[Draft], min_gap: float
) -> None:
    """Reject as `no_gap` what both models answer alike; the others get the better answer.

    Sets `quality_gap`: the strong model's grade less the target's.

    Args:
        answer: `generate_field` with the target.
        grade: `score_field` with the judge.
        drafts: Instructions with the strong model's `response`; changed in place.
        min_gap: The least difference of the grades of those that are kept.
    """
    answer(drafts, "target_response", lambda draft: tuple(draft["turns"]))
    grade(drafts, "strong_grade", partial(_question, "response", "target_response"), GRADES)
    grade(drafts, "target_grade", partial(_question, "target_response", "response"), GRADES)
    for draft in drafts:
        if draft.active:
            draft.fields["quality_gap"] = draft["strong_grade"] - draft["target_grade"]

    def rejection(draft: Draft) -> Rejection | None:
        grades = {"strong": draft["strong_grade"], "target": draft["target_grade"]}
        return (NO_GAP, grades) if abs(draft["quality_gap"]) < min_gap else None

    filter_drafts(drafts, rejection)
    for draft in drafts:
        if draft.active and draft["quality_gap"] < 0:
            draft.fields["response"] = draft["target_response"]
            draft.reasoning["response"] = draft.reasoning["target_response"]
            draft.notes["answered_by"] = "target"


def goes_on(draft: Draft) -> bool:
    """Whether an instruction is improved further: it is neither kept nor was the change no good.

    Args:
        draft: After `keep_gaps`.
    """
    alike = draft.rejection is not None and draft.rejection[0] == NO_GAP
    return alike or (draft.active and is_counting())


def _question(judged: str, other: str, draft: Draft) -> Prompt:
    return user(
        PROMPTS.render(
            "grade",
            instruction=draft["instruction"],
            response=draft[judged],
            other=draft[other],
            low=LOW,
            high=HIGH,
        )
    )
