"""WaveCoder: a generator that learns from a discriminator.

WaveCoder: Widespread And Versatile Enhanced Instruction Tuning with Refined Data Generation (Yu
et al. 2023, arXiv:2312.14187; microsoft/WaveCoder). As in the paper: a generator turns raw code
into rows of four task types, a discriminator checks each row rule by rule, and the rows that it
accepted or refused, with its reasons, are the examples of later requests. The paper's selection
of code by k-center is `select.diverse`.

As in the authors' code: one good and one bad example; the checks of a row's form; temperature 1
for the generator; limits of 800 and 500 tokens, which that code states (and does not pass on: its
requests have 512). Ours: the wording of prompts and rules; verdicts are greedy; rows are written
in rounds, and see the examples of the rounds before, where the authors' see every row before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.sections import sections
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)

TASK_TYPES: Final = {
    "generation": ("have code written", "a formula, a format or an example that is needed"),
    "summarization": ("have code summarised in prose", "the code"),
    "translation": ("have code translated into another language", "the code"),
    "repair": ("have faulty code repaired", "code with a fault that you put into it"),
}
"""The four task types: what the user wants, and the information that comes with it."""

_LABELS: Final = ("Task", "Instruction", "Information", "Solution")
_NOTHING: Final = frozenset(
    {"", "none", "noinput", "<noinput>", "no additional information is required"}
)
_SENTENCE_END: Final = re.compile(r"[.!?](?:\s|$)")
_VERDICT: Final = re.compile(
    r"^[^\w\n]*(?:rule[ \t]*)?(\d+)\W+(yes|no)\b[^\w\n]*(.*)$", re.IGNORECASE | re.MULTILINE
)
_VERDICT_DECODING: Final = Decoding(max_tokens=500)

Examples = dict[str, list[dict[str, Any]]]
"""Judged rows with the code that they describe, by task type."""


@option_group
class WaveCoder(DocumentMethod):
    """WaveCoder: generator and discriminator (Yu et al. 2023).

    Drops `empty_part`, `instruction_too_long`, `information_too_long`, `verdict_missing`,
    `rule_broken` and `target_count_reached`.

    Args:
        name: The method.
        task_types: Types of tasks.
        per_passage: Rows of a passage, each of another type.
        passages_per_round: Rows of a round. The examples of a round come from the rounds
            before it; the first has none.
        num_rows: No further round begins once so many rows are accepted; null for all
            passages.
        num_shots: Accepted and refused rows that a prompt shows, at most as many of each.
    """

    name: Literal["wavecoder"] = "wavecoder"
    task_types: tuple[str, ...] = tuple(TASK_TYPES)
    per_passage: Count = 1
    passages_per_round: Count = 200
    num_rows: Count | None = None
    num_shots: Count = 1

    decoding: ClassVar[Decoding] = Decoding(800, 1.0)
    documents_are_code: ClassVar[bool] = True
    uses_judge: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, tuple(TASK_TYPES))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """A row of each chosen type from every passage, in rounds."""

        def types_of(passage: Draft) -> list[dict[str, str]]:
            chosen = context.choose("wavecoder", passage, self.task_types, self.per_passage)
            return [{"task_type": task_type} for task_type in chosen]

        drafts = expand(passages, types_of)
        active = [draft for draft in drafts if draft.active]
        accepted: Examples = defaultdict(list)
        refused: Examples = defaultdict(list)
        done = 0
        while done < len(active) and not self._is_enough(accepted):
            batch = active[done : done + self.passages_per_round]
            for draft in batch:
                draft.fields |= {
                    "round": done // self.passages_per_round + 1,
                    "good": self._shots(context, draft, accepted),
                    "bad": self._shots(context, draft, refused),
                }
            _write_and_judge(context, batch)
            for draft in batch:
                _learn(draft, accepted, refused)
            done += len(batch)
            context.progress(done, len(active))
        for draft in active[done:]:
            draft.reject("target_count_reached", rows=_size(accepted))
        return drafts

    def _is_enough(self, accepted: Examples) -> bool:
        return self.num_rows is not None and _size(accepted) >= self.num_rows

    def _shots(
        self, context: GenerationContext, draft: Draft, examples: Examples
    ) -> list[dict[str, Any]]:
        """Random examples of the draft's task type."""
        candidates = examples[draft["task_type"]]
        purpose = f"wavecoder {draft['task_type']}"
        return context.choose(purpose, draft, candidates, self.num_shots)


def _size(examples: Examples) -> int:
    return sum(map(len, examples.values()))


def _write_and_judge(context: GenerationContext, drafts: Sequence[Draft]) -> None:
    context.generate(drafts, "written", _generator_prompt, parse=written_row)
    filter_drafts(drafts, _malformed)
    for draft in drafts:
        if draft.active:
            parts = draft["written"]
            information = parts["Information"]
            draft.fields |= {
                "instruction": parts["Instruction"],
                "input": "" if _is_nothing(information) else information,
                "response": parts["Solution"],
                "row": "\n".join(f"{name}: {parts[name]}" for name in _LABELS),
            }
            draft.notes["task"] = parts["Task"]
    decoding = context.judging(_VERDICT_DECODING)
    context.judge(drafts, "verdicts", _discriminator_prompt, parse=verdicts, decoding=decoding)
    filter_drafts(drafts, _refused)


def rules(task_type: str) -> list[str]:
    """The rules that a row of a task type must meet."""
    return PROMPTS.render(f"rules/{task_type}").splitlines()


def _generator_prompt(draft: Draft) -> Prompt:
    task, information = TASK_TYPES[draft["task_type"]]
    values = {name: draft[name] for name in ("passage", "good", "bad")}
    values |= {"task": task, "information": information, "rules": rules(draft["task_type"])}
    return user(PROMPTS.render("generate", **values))


def _discriminator_prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("passage", "row", "bad")}
    values["rules"] = rules(draft["task_type"])
    return user(PROMPTS.render("discriminate", **values))


def written_row(text: str) -> dict[str, str] | None:
    """The four parts of the row in a completion; None unless there is exactly one row.

    What a model writes about its row after it is left out.

    Example:
        >>> written_row("Task: t\\nInstruction: i\\nInformation: none\\nSolution: s")
        {'Task': 't', 'Instruction': 'i', 'Information': 'none', 'Solution': 's'}
    """
    row = re.split(r"^Analysis:", text, maxsplit=1, flags=re.MULTILINE)[0]
    rows = sections(row, _LABELS, empty="Information")
    return rows[0] if len(rows) == 1 else None


def _is_nothing(text: str) -> bool:
    return text.strip(" .,").casefold() in _NOTHING


def _malformed(draft: Draft) -> Rejection | None:
    """The released code's checks of a row's form, before the discriminator.

    The length of the information is checked for generation only: elsewhere it is code.
    """
    parts = draft["written"]
    empty = [name for name in _LABELS if name != "Information" and _is_nothing(parts[name])]
    if empty:
        return "empty_part", {"part": empty[0]}
    num_sentences = _num_sentences(parts["Instruction"])
    if num_sentences > 2:
        return "instruction_too_long", {"sentences": num_sentences}
    num_sentences = _num_sentences(parts["Information"])
    if draft["task_type"] == "generation" and num_sentences > 2:
        return "information_too_long", {"sentences": num_sentences}
    return None


def _num_sentences(text: str) -> int:
    return len([part for part in _SENTENCE_END.split(text) if part.strip()])


def verdicts(text: str) -> dict[int, tuple[bool, str]] | None:
    """For the number of each rule whether it is met, and the reason.

    Example:
        >>> verdicts("1. yes: it is short\\n2. no: it names a file")
        {1: (True, 'it is short'), 2: (False, 'it names a file')}
    """
    matches = _VERDICT.findall(text)
    return {int(n): (word.lower() == "yes", why.strip()) for n, word, why in matches} or None


def _refused(draft: Draft) -> Rejection | None:
    """The first rule that is broken or has no verdict."""
    by_number = draft["verdicts"]
    for number, rule in enumerate(rules(draft["task_type"]), 1):
        if number not in by_number:
            return "verdict_missing", {"rule": rule}
        is_met, why = by_number[number]
        if not is_met:
            return "rule_broken", {"rule": rule, "reason": why}
    return None


def _learn(draft: Draft, accepted: Examples, refused: Examples) -> None:
    """Add a judged row with its code to the examples."""
    is_refused = draft.rejection and draft.rejection[0] == "rule_broken"
    if draft.error is not None or not (draft.active or is_refused):
        return
    reasons = [why for is_met, why in draft["verdicts"].values() if not is_met]
    example = {"passage": draft["passage"], "row": draft["row"], "reasons": reasons}
    (refused if is_refused else accepted)[draft["task_type"]].append(example)
