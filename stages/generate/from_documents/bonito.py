"""Bonito: a passage becomes a task of a chosen type.

Learning to Generate Instruction Tuning Datasets for Zero-Shot Task Adaptation (Nayak et al.
2024, arXiv:2402.18334; BatsResearch/bonito). As in the paper: a model that was tuned for it
writes task and answer from a passage and the name of one of 16 task types, in a prompt format of
its own (`task_model`). As in the authors' README: 256 tokens at temperature 0.5, nucleus 0.95.

Ours: any other model gets a prompt of ours, and the descriptions of the types in it; types are
drawn at random, where the authors run one type at a time.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import one_section
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)

TASK_TYPES: Final = {
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
"""Bonito's task types, under the names that its released model was tuned on."""

_PIPE: Final = "<|pipe|>"
"""Stands between task and answer in the completions of the released model."""

_CONTEXT: Final = "{{context}}"
"""Stands for the passage in the completions of the released model."""


@option_group
class Bonito(DocumentMethod):
    """Bonito: tasks of chosen types (Nayak et al. 2024).

    Args:
        name: The method.
        task_types: The types to choose from.
        per_passage: Tasks of a passage, each of another type.
        task_model: The model is the authors' Bonito and is prompted in its own format.
    """

    name: Literal["bonito"] = "bonito"
    task_types: tuple[str, ...] = tuple(TASK_TYPES)
    per_passage: Count = 1
    task_model: bool = False

    decoding: ClassVar[Decoding] = Decoding(256, 0.5, 0.95)

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, tuple(TASK_TYPES))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """A task of each chosen type from every passage."""

        def types_of(passage: Draft) -> list[dict[str, str]]:
            chosen = context.choose("bonito", passage, self.task_types, self.per_passage)
            return [{"task_type": task_type} for task_type in chosen]

        drafts = expand(passages, types_of)
        if self.task_model:
            context.generate(drafts, "task", _task_model_prompt, parse=task_and_answer)
        else:
            context.generate(drafts, "task", _prompt, parse=_labelled_task)
        for draft in drafts:
            if not draft.active:
                continue
            text, draft.fields["response"] = draft["task"]
            passage = draft["passage"].strip()
            if self.task_model:
                draft.fields["instruction"] = text.replace(_CONTEXT, passage)
            else:
                draft.fields |= {"instruction": text, "input": passage}
        return drafts


def _prompt(draft: Draft) -> Prompt:
    task_type, passage = draft["task_type"], draft["passage"]
    values = {"kind": task_type, "meaning": TASK_TYPES[task_type], "passage": passage}
    return user(PROMPTS.render("task", **values))


def _task_model_prompt(draft: Draft) -> Prompt:
    """The format that the released model was tuned on: a text to continue."""
    task_type, passage = draft["task_type"], draft["passage"].strip()
    return f"<|tasktype|>\n{task_type}\n<|context|>\n{passage}\n<|task|>\n"


def _labelled_task(text: str) -> tuple[str, str] | None:
    labelled = one_section(text, ("Instruction", "Answer"))
    return (labelled["Instruction"], labelled["Answer"]) if labelled else None


def task_and_answer(text: str) -> tuple[str, str] | None:
    """Task and answer in a completion of the released model, exactly two parts.

    Example:
        >>> task_and_answer("{{context}} Is that so?<|pipe|>Yes.")
        ('{{context}} Is that so?', 'Yes.')
    """
    parts = [part.strip() for part in text.split(_PIPE)]
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None
