"""Bonito (Nayak et al. 2024, arXiv:2402.18334): a passage and one of 16 types of task."""

from __future__ import annotations

from typing import Final

from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import one_section
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

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


def bonito(means: Means, passages: list[Draft]) -> list[Draft]:
    """A task of each of the drawn types out of every passage."""
    types = means.task_types
    drafts = expand(
        passages, lambda d: [{"task_type": t} for t in means.few("bonito", d, list(types))]
    )
    if means.tuned:
        means.ask(drafts, "task", _bonito_prompt, read=piped)
    else:
        means.ask(drafts, "task", _task_prompt, read=_instruction_and_answer)
    for draft in drafts:
        if not draft.active:
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
    return user(PROMPTS.render("task", **values))


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
