"""Sequential Instruction Tuning: an intermediate task before the one that a row has.

Hu et al. 2024, "Fine-tuning Large Language Models with Sequential Instructions" (arXiv:2403.07794).
- As in the paper: the input is repeated, put in other words or translated before the task is done
  with it; the answer does both in sequence.
- As in the authors' code (hanxuhu/SeqIns): a language model writes the paraphrase, greedily.
- Ours: the wording; a language model writes the translation too (the authors have their data in
  several languages); rows without an input are dropped as `no_input`, texts that come back as they
  were as `unchanged`. The answer stays that of the row.
- Elsewhere: Self-Seq, for which a language model writes the sequences (`self_seq.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.models.base import Decoding, Engine
from pipeline.types import Count, NonEmpty, NonNegativeFloat, option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, filter_drafts, generate_field, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.compose._parts import Part

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {"strategy": pl.String(), "tokens": pl.Int32()}
"""Of all; where a model writes, also the keys of its completions."""


@option_group
class SequenceMethod:
    """A task with the input before the row's own (Hu et al. 2024, arXiv:2403.07794).

    Args:
        name: "sequence".
        task: What is done with the input first. For paraphrase and translate the stage needs a
            `writer`.
        language: Of the translation, by its English name.
        temperature: Of the paraphrase or translation.
        answer_max_tokens: Its limit in tokens.
    """

    name: Literal["sequence"] = "sequence"
    task: Literal["repeat", "paraphrase", "translate"] = "repeat"
    language: Annotated[str, NonEmpty] = "English"
    temperature: NonNegativeFloat = 0.0
    answer_max_tokens: Count = 1024

    @property
    def adds(self) -> dict[str, Any]:
        """The columns of the new rows."""
        return ADDS if self.task == "repeat" else {**ADDS, "journal": pl.List(pl.String)}


def sequences(
    parts: Sequence[Part], method: SequenceMethod, engine: Engine | None, seed: int
) -> list[Draft]:
    """A draft for each part, those without an input first.

    Args:
        parts: The rows.
        method: The options.
        engine: The model that is asked; None for `repeat`, which asks none.
        seed: Of the sampling.
    """
    drafts = [_draft(part, method) for part in sorted(parts, key=lambda part: bool(part.input))]
    for draft in drafts:
        if not draft["input"]:
            draft.reject("no_input")
    if engine is None:
        for draft in drafts:
            draft.fields["rendered"] = draft["input"]
    else:
        decoding = Decoding(method.answer_max_tokens, method.temperature)
        generate_field(engine, drafts, "rendered", _prompt, decoding, seed=seed)
        filter_drafts(drafts, _unless_changed)
    for draft in drafts:
        if draft.active:
            draft.fields["turns"] = _turns(draft)
    return drafts


def messages_of(draft: Draft) -> RowMessages:
    """The task in sequence with its answer; the row itself where there is none.

    Args:
        draft: One of `sequences`.
    """
    if draft.rejection is None and "turns" in draft.fields:
        turns: RowMessages = draft["turns"]
        return turns
    part: Part = draft["part"]
    return [dict(turn) for turn in part.messages], part.input_start  # type: ignore[misc]


def _turns(draft: Draft) -> RowMessages:
    part: Part = draft["part"]
    instruction = PROMPTS.render("instruction", **draft.fields, instruction=part.instruction)
    response = PROMPTS.render("response", **draft.fields, response=part.answer)
    return task_messages(instruction, draft["input"], response)


def _draft(part: Part, method: SequenceMethod) -> Draft:
    fields = {"part": part, "strategy": method.task, "input": part.input}
    values = {"task": method.task, "language": method.language}
    return Draft((part.id,), {**fields, **values}, part.license)


def _prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render(draft["task"], input=draft["input"], language=draft["language"]))


def _unless_changed(draft: Draft) -> Rejection | None:
    if draft["rendered"].split() == draft["input"].split():
        return "unchanged", {"task": draft["task"]}
    return None
