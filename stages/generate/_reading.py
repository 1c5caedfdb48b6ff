"""Tasks that one passage gives: Bonito, MAmmoTH2 and AITP."""

from __future__ import annotations

import json
import re
from typing import Final

import polars as pl

from pipeline.models.base import Decoding
from stages._drafts import Draft, Prompt, branch, keep, user
from stages._lines import Rejection
from stages._prompts import prompt
from stages._text import tokens
from stages.generate._parse import listed_items
from stages.generate._passages import Means
from stages.generate._sections import PAIR, one_section, sections

TASKS: Final = {
    "extractive question answering": "a question whose answer is a span of the passage",
    "multiple-choice question answering": "a question with lettered choices, one of them right",
    "question generation": "have a question written that a given span of the passage answers",
    "question answering without choices": "a question to be answered in one's own words",
    "yes-no question answering": "a question that is answered by yes or no",
    "coreference resolution": "ask what a pronoun or a name in the passage refers to",
    "paraphrase generation": "have a sentence of the passage said in other words",
    "paraphrase identification": "ask whether a new sentence says the same as one of the passage",
    "sentence completion": "have the end of a sentence of the passage found, out of choices",
    "sentiment": "ask for the attitude that the passage expresses",
    "summarization": "have the passage summarised",
    "text generation": "have a text written in the manner or on the subject of the passage",
    "topic classification": "ask for the topic of the passage, out of choices",
    "word sense disambiguation": "ask whether a word means the same in two sentences",
    "textual entailment": "ask whether a statement follows from the passage: yes or no",
    "natural language inference": "ask whether a statement is true, false or undecided by it",
}
"""Bonito's types of tasks under the names that its released model knows."""

_PIPE: Final = "<|pipe|>"
_CONTEXT: Final = "{{context}}"
_MARKS: Final = re.compile(r"[*_`]+|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)
_REVISED: Final = ("Revised question", "Revised answer")
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


def bonito(means: Means, passages: list[Draft]) -> list[Draft]:
    """A task of each of the drawn types out of every passage."""
    types = means.task_types
    drafts = branch(
        passages, lambda d: [{"task_type": t} for t in means.few("bonito", d, list(types))]
    )
    if means.tuned:
        means.ask(drafts, "task", _bonito_prompt, read=piped)
    else:
        means.ask(drafts, "task", _task_prompt, read=_instruction_and_answer)
    for draft in drafts:
        if not draft.alive:
            continue
        text, draft.fields["response"] = draft["task"]
        if means.tuned:
            draft.fields["instruction"] = text.replace(_CONTEXT, draft["passage"].strip())
        else:
            draft.fields |= {"instruction": text, "input": draft["passage"].strip()}
    return drafts


def _task_prompt(draft: Draft) -> Prompt:
    kind, passage = draft["task_type"], draft["passage"]
    values = {"kind": kind, "meaning": TASKS[kind], "passage": passage}
    return user(prompt("generate/from_documents/bonito/task", **values))


def _bonito_prompt(draft: Draft) -> Prompt:
    """The form that the released model was tuned on: a text to continue."""
    kind, passage = draft["task_type"], draft["passage"].strip()
    return f"<|tasktype|>\n{kind}\n<|context|>\n{passage}\n<|task|>\n"


def _instruction_and_answer(text: str) -> tuple[str, str] | None:
    found = one_section(text, ("Instruction", "Answer"))
    return (found["Instruction"], found["Answer"]) if found else None


def piped(text: str) -> tuple[str, str] | None:
    """Task and answer of the released model: exactly two parts with its mark between them."""
    parts = [part.strip() for part in text.split(_PIPE)]
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def mammoth2(means: Means, passages: list[Draft]) -> list[Draft]:
    """The pairs that stand in a passage, none that do not, made complete."""
    means.ask(
        *(passages, "pairs"),
        lambda d: user(prompt("generate/from_documents/mammoth2/extract", passage=d["passage"])),
        read=extracted,
    )
    keep(passages, lambda d: None if d["pairs"] else ("no_pairs", {}))
    drafts = branch(passages, lambda d: [{"question": q, "answer": a} for q, a in d["pairs"]])
    keep(drafts, _in_the_document)
    if means.refine:
        means.ask(drafts, "refined", _refine_prompt, read=_revised)
    for draft in drafts:
        if draft.alive:
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
    return user(prompt("generate/from_documents/mammoth2/refine", **pair))


def _revised(text: str) -> tuple[str, str] | None:
    found = one_section(text, _REVISED)
    return (found[_REVISED[0]], found[_REVISED[1]]) if found else None


def aitp(means: Means, passages: list[Draft]) -> list[Draft]:
    """Questions from a passage, the good ones of them, and answers rewritten from it."""
    count = means.per_passage

    def questions(draft: Draft) -> Prompt:
        values = {"passage": draft["passage"], "count": count}
        return user(prompt("generate/from_documents/aitp/questions", **values))

    means.ask(passages, "questions", questions, read=lambda text: listed_items(text) or None)
    drafts = branch(passages, lambda d: [{"instruction": q} for q in d["questions"][:count]])
    means.judge(
        *(drafts, "score"),
        lambda d: user(prompt("generate/from_documents/aitp/score", question=d["instruction"])),
        decoding=SCORED,
    )
    keep(drafts, lambda d: _poor(d, means.min_quality))
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
    return user(prompt("generate/from_documents/aitp/answer", **values))
