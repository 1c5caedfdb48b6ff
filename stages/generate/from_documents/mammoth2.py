"""MAmmoTH2: the question-answer pairs of a page, completed.

MAmmoTH2: Scaling Instructions from the Web (Yue et al. 2024, arXiv:2405.03548). As in the paper:
a model copies the pairs that a text holds (extraction), and another request adds the reasoning
that an answer lacks (refinement). The paper's first step, which recalls such pages with a
classifier, is no part of this method.

Ours: the wording, 2,048 tokens at temperature 0, and that a pair really is in the text is
checked without a model, which the paper leaves to the model.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Literal

import polars as pl

from pipeline.models.base import Decoding
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.tokens import tokens
from stages.generate._parsing.sections import PAIR, one_section, sections
from stages.generate.from_documents.context import DocumentMethod, GenerationContext

PROMPTS: Final = Prompts(__file__)

_MARKUP: Final = re.compile(r"[*_`]+|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)

_REVISED: Final = ("Revised question", "Revised answer")


@option_group
class Mammoth2(DocumentMethod):
    """MAmmoTH2: pairs that a text holds (Yue et al. 2024).

    Drops `no_pairs` and `not_in_document`.

    Args:
        name: The method.
        refine: Have the model complete each pair; else the row is the pair as it stands.
    """

    name: Literal["mammoth2"] = "mammoth2"
    refine: bool = True

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """A row for every pair in a passage, and none for pairs that are not in it."""
        context.generate(passages, "pairs", _extract_prompt, parse=extracted_pairs)
        filter_drafts(passages, lambda d: None if d["pairs"] else ("no_pairs", {}))
        drafts = expand(passages, lambda d: [{"question": q, "answer": a} for q, a in d["pairs"]])
        filter_drafts(drafts, _invented)
        if self.refine:
            context.generate(drafts, "refined", _refine_prompt, parse=_revised_pair)
        for draft in drafts:
            if draft.active:
                pair = draft["question"], draft["answer"]
                draft.notes |= dict(zip(("question", "answer"), pair, strict=True))
                instruction, response = draft["refined"] if self.refine else pair
                draft.fields |= {"instruction": instruction, "response": response}
        return drafts


def extracted_pairs(text: str) -> list[tuple[str, str]] | None:
    """The pairs in a completion; an empty list where it says that there are none."""
    if re.match(r"\W*void\b", text, re.IGNORECASE):
        return []
    return [(pair["Question"], pair["Answer"]) for pair in sections(text, PAIR)] or None


def _invented(draft: Draft) -> Rejection | None:
    for side in ("question", "answer"):
        if not contained(draft[side], draft["passage"]):
            return "not_in_document", {"side": side, "text": draft[side][:200]}
    return None


def contained(part: str, text: str) -> bool:
    """Whether a text contains another, regardless of layout, case and punctuation.

    Words, numbers and operators count, in their order and without gaps.

    Example:
        >>> contained("what is 3 + 4", "**Question:** What is 3 + 4?")
        True
        >>> contained("what is 3 - 4", "**Question:** What is 3 + 4?")
        False
    """
    series = pl.Series([_MARKUP.sub(" ", part), _MARKUP.sub(" ", text)])
    needle, haystack = (f"\0{chr(0).join(words)}\0" for words in tokens(series).to_list())
    return needle != "\0\0" and needle in haystack


def _extract_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("extract", passage=draft["passage"]))


def _refine_prompt(draft: Draft) -> Prompt:
    pair = {"question": draft["question"], "answer": draft["answer"]}
    return user(PROMPTS.render("refine", **pair))


def _revised_pair(text: str) -> tuple[str, str] | None:
    revised = one_section(text, _REVISED)
    return (revised[_REVISED[0]], revised[_REVISED[1]]) if revised else None
