"""Several instructions for one source, of which the most certain is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stages._llm.drafts import Draft, GenerateField, Prompt, ScoreField, expand
from stages._llm.preambles import instruction_text


def write_candidates(
    write: GenerateField, sources: Sequence[Draft], number: int, prompt: Callable[[Draft], Prompt]
) -> list[Draft]:
    """Write `number` instructions for each source.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        sources: What instructions are written for.
        number: Candidates for each source.
        prompt: The request of a draft.
    """
    drafts = expand(sources, lambda _: [{"candidate": n} for n in range(number)])
    for draft in drafts:
        draft.number = draft.fields.get("candidate", 0)
    write(drafts, "instruction", prompt, parse=instruction_text)
    return drafts


def keep_most_certain(
    judge: ScoreField, drafts: Sequence[Draft], question: Callable[[Draft], Prompt]
) -> None:
    """Reject all but the candidate of each source that most probably deserves a yes.

    Args:
        judge: `score_field` with engine and seed filled in.
        drafts: The candidates; `curation_score` becomes the probability of yes.
        question: The yes-or-no question of a draft.
    """
    judge(drafts, "curation_score", question)
    best: dict[Any, Draft] = {}
    for draft in drafts:
        if draft.active:
            key = draft.parents, draft.fields.get("group")
            first = best.setdefault(key, draft)
            if draft["curation_score"] > first["curation_score"]:
                best[key] = draft
    for draft in drafts:
        key = draft.parents, draft.fields.get("group")
        if draft.active and best[key] is not draft:
            draft.reject("not_best", score=draft["curation_score"])
