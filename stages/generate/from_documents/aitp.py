"""AITP (Liang et al. 2025, arXiv:2501.09368): questions, scored, and answers from the text."""

from __future__ import annotations

import json
from typing import Final

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.lists import listed_items
from stages.generate.from_documents.passages import Means

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


SCORED: Final = Decoding(max_tokens=64, json_schema=_SCORE)


def aitp(means: Means, passages: list[Draft]) -> list[Draft]:
    """Questions from a passage, the good ones of them, and answers rewritten from it."""
    count = means.per_passage

    def questions(draft: Draft) -> Prompt:
        values = {"passage": draft["passage"], "count": count}
        return user(PROMPTS.render("questions", **values))

    means.ask(passages, "questions", questions, read=lambda text: listed_items(text) or None)
    drafts = expand(passages, lambda d: [{"instruction": q} for q in d["questions"][:count]])
    means.judge(
        *(drafts, "score"),
        lambda d: user(PROMPTS.render("score", question=d["instruction"])),
        decoding=SCORED,
    )
    filter_drafts(drafts, lambda d: _poor(d, means.min_quality))
    means.ask(drafts, "response", _answer_prompt)
    return drafts


def _poor(draft: Draft, min_quality: float) -> Rejection | None:
    """What the scores say against a question; how hard it is stays with the row."""
    score = draft["score"]
    draft.fields["level"] = str(score["difficulty"])
    draft.notes |= score
    if score["needs_more"]:
        return "needs_context", {}
    if score["quality"] < min_quality:
        return "low_quality", {"quality": score["quality"], "min_quality": min_quality}
    return None


def _answer_prompt(draft: Draft) -> Prompt:
    values = {"passage": draft["passage"], "question": draft["instruction"]}
    return user(PROMPTS.render("answer", **values))
