"""MAmmoTH2 (Yue et al. 2024, arXiv:2405.03548): the pairs that a text holds, made complete."""

from __future__ import annotations

import re
from typing import Final

import polars as pl

from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.tokens import tokens
from stages.generate._parsing.sections import PAIR, one_section, sections
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

_MARKS: Final = re.compile(r"[*_`]+|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)


_REVISED: Final = ("Revised question", "Revised answer")


def mammoth2(means: Means, passages: list[Draft]) -> list[Draft]:
    """The pairs that stand in a passage, none that do not, made complete."""
    means.ask(
        *(passages, "pairs"),
        lambda d: user(PROMPTS.render("extract", passage=d["passage"])),
        read=extracted,
    )
    filter_drafts(passages, lambda d: None if d["pairs"] else ("no_pairs", {}))
    drafts = expand(passages, lambda d: [{"question": q, "answer": a} for q, a in d["pairs"]])
    filter_drafts(drafts, _in_the_document)
    if means.refine:
        means.ask(drafts, "refined", _refine_prompt, read=_revised)
    for draft in drafts:
        if draft.active:
            found = draft["question"], draft["answer"]
            draft.notes |= dict(zip(("question", "answer"), found, strict=True))
            instruction, response = draft["refined"] if means.refine else found
            draft.fields |= {"instruction": instruction, "response": response}
    return drafts


def extracted(text: str) -> list[tuple[str, str]] | None:
    """The pairs of an answer; an empty list where it says that there are none."""
    if re.match(r"\W*void\b", text, re.IGNORECASE):
        return []
    return [(pair["Question"], pair["Answer"]) for pair in sections(text, PAIR)] or None


def _in_the_document(draft: Draft) -> Rejection | None:
    for side in ("question", "answer"):
        if not contained(draft[side], draft["passage"]):
            return "not_in_document", {"side": side, "text": draft[side][:200]}
    return None


def contained(part: str, whole: str) -> bool:
    """Whether a text occurs in another, whatever its layout, its case and its sentence marks.

    Words, numbers and operators count, in their order and without gaps.
    """
    series = pl.Series([_MARKS.sub(" ", part), _MARKS.sub(" ", whole)])
    one, other = (f"\0{chr(0).join(found)}\0" for found in tokens(series).to_list())
    return one != "\0\0" and one in other


def _refine_prompt(draft: Draft) -> Prompt:
    pair = {"question": draft["question"], "answer": draft["answer"]}
    return user(PROMPTS.render("refine", **pair))


def _revised(text: str) -> tuple[str, str] | None:
    found = one_section(text, _REVISED)
    return (found[_REVISED[0]], found[_REVISED[1]]) if found else None
