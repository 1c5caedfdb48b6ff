"""AITP: questions about a passage, scored, with answers from the text.

Aligning Instruction Tuning with Pre-training (Liang et al. 2025, arXiv:2501.09368). The second
of the paper's three steps: a model proposes questions about a passage, a judge scores each, and
answers to the good ones are rewritten from the passage. The first, the texts where the
instruction data are thin, is `select.target` with `gaps`; the third, a small part of such rows
in the mixture, is `mix.weights`. The recipe `aitp` has all three.

As in the paper: questions, scores, answers, in this order. Ours: the prompts, the scale of 1 to
10 with its three numbers, the sampling, and the threshold `min_quality` of 7; the paper gives
none.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.preambles import requested_items
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate.from_documents.context import DocumentMethod, GenerationContext

PROMPTS: Final = Prompts(__file__)

_SCORE: Final = json.dumps(
    {
        "type": "object",
        "properties": {
            "quality": {"type": "integer", "minimum": 1, "maximum": 10},
            "difficulty": {"type": "integer", "minimum": 1, "maximum": 10},
            "needs_more": {"type": "boolean"},
        },
        "required": ["quality", "difficulty", "needs_more"],
        "additionalProperties": False,
    }
)

_SCORE_DECODING: Final = Decoding(max_tokens=64, json_schema=_SCORE)


@option_group
class Aitp(DocumentMethod):
    """AITP: scored questions (Liang et al. 2025).

    Drops `needs_context` and `low_quality`. The column `level` is the difficulty, 1 to 10,
    where questions are scored.

    Args:
        name: The method.
        per_passage: Questions of a passage. An answer without a list is the question where
            there is only one.
        min_quality: Smallest score of a question that is answered; null scores nothing, and
            every question is answered.
    """

    name: Literal["aitp"] = "aitp"
    per_passage: Count = 2
    min_quality: Annotated[float, Field(ge=1, le=10)] | None = 7

    decoding: ClassVar[Decoding] = Decoding(1024, 0.7)
    uses_judge: ClassVar[bool] = True
    answer_field: ClassVar[str | None] = "response"

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Questions about every passage, the good ones with an answer."""

        def questions_prompt(draft: Draft) -> Prompt:
            values = {"passage": draft["passage"], "count": self.per_passage}
            return user(PROMPTS.render("questions", **values))

        context.generate(passages, "questions", questions_prompt, parse=self._questions)
        drafts = expand(
            passages, lambda d: [{"instruction": q} for q in d["questions"][: self.per_passage]]
        )
        if self.min_quality is not None:
            decoding = context.judging(_SCORE_DECODING)
            context.judge(drafts, "score", _score_prompt, decoding=decoding)
            filter_drafts(drafts, self._poor)
        context.generate(drafts, "response", _answer_prompt)
        return drafts

    def _questions(self, text: str) -> list[str] | None:
        """The questions of an answer; None without any."""
        return requested_items(text, self.per_passage) or None

    def _poor(self, draft: Draft) -> Rejection | None:
        """Why a question is dropped by its scores; its difficulty becomes the row's level."""
        score = draft["score"]
        draft.fields["level"] = str(score["difficulty"])
        draft.notes |= score
        if score["needs_more"]:
            return "needs_context", {}
        if self.min_quality is not None and score["quality"] < self.min_quality:
            return "low_quality", {"quality": score["quality"], "min_quality": self.min_quality}
        return None


def _score_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("score", question=draft["instruction"]))


def _answer_prompt(draft: Draft) -> Prompt:
    values = {"passage": draft["passage"], "question": draft["instruction"]}
    return user(PROMPTS.render("answer", **values))
