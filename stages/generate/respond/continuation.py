"""A text is cut, and a model's continuation answers its beginning.

Non-instructional Fine-tuning (Xie et al. 2024, arXiv:2409.00096).
- As in the paper: the first half of a random text is the instruction, and a strong model's
  continuation (not the text's own) the answer.
- Ours: the cut is at the end of the sentence nearest to the half, and the wording of the request.
"""

from __future__ import annotations

import random
import re
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, user
from stages._llm.prompts import Prompts
from stages._llm.rows import license_of

PROMPTS: Final = Prompts(__file__)

_SENTENCE_END: Final = re.compile(r"[.!?。！？][\"')\]]*\s+")


@option_group
class Continue:
    """Continuations of documents: Non-instructional Fine-tuning (arXiv:2409.00096).

    Args:
        name: "continue".
        prefix_fraction: The part of a document that is shown, up to the end of a sentence.
        max_documents: Documents to continue at most, drawn by the stage's `seed`.
    """

    name: Literal["continue"] = "continue"
    prefix_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    max_documents: Count | None = None


def beginnings(documents: pl.DataFrame, method: Continue, seed: int) -> list[Draft]:
    """The first part of each document as a prompt; surplus ones are `not_sampled`.

    Args:
        documents: Rows with id, text and origins.
        method: How much of a document is shown, and how many are continued.
        seed: Seed of the choice of documents.
    """
    drafts = []
    for id_, text, origins in documents.select("id", "text", "origins").iter_rows():
        beginning = first_part(text or "", method.prefix_fraction)
        shown = user(PROMPTS.render("continue", beginning=beginning))
        fields = {"before": (("user", beginning),), "shown": shown}
        draft = Draft((id_,), fields, license_of(origins))
        if not beginning:
            draft.reject("no_prompt")
        drafts.append(draft)
    active = [draft for draft in drafts if draft.active]
    ranked = sorted(active, key=lambda d: random.Random(f"{seed} continue {d.parents}").random())
    for draft in ranked[method.max_documents :] if method.max_documents is not None else ():
        draft.reject("not_sampled", documents=len(active))
    return drafts


def first_part(text: str, fraction: float) -> str:
    """A text up to the end of the sentence that is nearest to this fraction of it.

    Without such an end inside the text it is cut between words; a text of one word has
    no first part.

    >>> first_part("One. Two three four. Five.", 0.7)
    'One. Two three four.'
    """
    text = text.strip()
    middle = len(text) * fraction
    ends = [m.end() for m in _SENTENCE_END.finditer(text)] or [
        m.end() for m in re.finditer(r"\s+", text)
    ]
    if not ends:
        return ""
    return text[: min(ends, key=lambda end: abs(end - middle))].strip()
