r"""Self-Seq: a language model makes sequences of tasks out of instructions, and answers them.

Hu et al. 2024, "Fine-tuning Large Language Models with Sequential Instructions" (arXiv:2403.07794).
- As in the paper: the model says for each instruction whether to split it, to put a task before or
  after it, or to keep it; it writes the new instruction and then its answer; what was changed can
  go into another round.
- As in the authors' code (hanxuhu/SeqIns): the examples of a prompt stand in an order of their own
  for each request; temperature 1; the new instruction follows the last heading of its name and
  ends at "###" or the next heading; the input is part of the instruction.
- Ours: the wording and the examples, three of a kind; the kind is said without reasons before it;
  what cannot be read is dropped (the code takes an unreadable kind for "keep"); an instruction
  that is kept in the first round makes no new row, because the row is there already; a "#" at the
  end of an instruction stays ("C#"); the code's optional refinement of instructions is left out.

Example:
    >>> new_instruction("#Explanation#\nIt helps.\n\n#New Instruction#:\nName it. Then sing it.###")
    'Name it. Then sing it.'
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import polars as pl

from pipeline.models.base import Decoding, Engine
from pipeline.types import Count, NonNegativeFloat, option_group
from stages._llm.drafts import (
    LABEL_TOKENS,
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    user,
)
from stages._llm.lists import unquoted
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.compose._parts import Part

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {
    "strategy": pl.String(),
    "kinds": pl.List(pl.String),
    "tokens": pl.Int32(),
    "journal": pl.List(pl.String),
}

KINDS: Final = ("split", "prefix", "suffix", "keep")

_HEADING: Final = re.compile(
    r"[#*_ ]*\bnew instruction\b(?:[#*_ ]*[:：][*_]*|[*_ ]*#[#*_]*|[*_ ]*$)\s*",
    re.IGNORECASE | re.MULTILINE,
)
_END: Final = re.compile(
    r"(?:(?<!\w)#{3,}|###(?!#))[ \t]*(?=\n|\Z)|\n#[^#\n]+#[ \t]*[:：]?[ \t]*(?=\n|\Z)"
)
"""Three marks at the end of a line, or a heading; not a heading of Markdown, nor that of C#."""


@option_group
class SelfSeq:
    """A model makes sequences of tasks out of instructions (Hu et al. 2024, arXiv:2403.07794).

    Args:
        name: "self_seq".
        rounds: How often an instruction is made longer.
        explain: Whether the model says why before it writes a new instruction.
        temperature: Of kinds, instructions and answers.
        instruction_max_tokens: Limit of an explanation with its instruction in tokens.
        answer_max_tokens: Limit of an answer in tokens.
    """

    name: Literal["self_seq"] = "self_seq"
    rounds: Count = 1
    explain: bool = True
    temperature: NonNegativeFloat = 1.0
    instruction_max_tokens: Count = 1024
    answer_max_tokens: Count = 1024


def sequences(parts: Sequence[Part], method: SelfSeq, engine: Engine, seed: int) -> list[Draft]:
    """A draft for each row, with its new instruction and answer.

    Args:
        parts: The rows.
        method: The options.
        engine: The model that is asked.
        seed: Of the sampling and the order of the examples.
    """
    write = partial(generate_field, engine, seed=seed)
    kind = Decoding(LABEL_TOKENS, method.temperature, choice=KINDS)
    text = Decoding(method.instruction_max_tokens, method.temperature)
    read = new_instruction if method.explain else instruction_text
    drafts = [_draft(part) for part in parts]
    longer = drafts
    for number in range(1, method.rounds + 1):
        prompted = partial(_rewriting_prompt, explain=method.explain, seed=seed, number=number)
        write(longer, "kind", partial(_kind_prompt, seed=seed, number=number), kind)
        if number == 1:
            filter_drafts(longer, _unless_changed)
        longer = [draft for draft in longer if draft.active and draft["kind"] != "keep"]
        write(longer, "new", prompted, text, parse=read)
        filter_drafts(longer, _unless_new)
        for draft in longer:
            if draft.active:
                draft.fields["kinds"] = [*draft["kinds"], draft["kind"]]
                draft.fields["instruction"] = draft["new"]
    answer = Decoding(method.answer_max_tokens, method.temperature)
    write(drafts, "response", lambda draft: user(draft["instruction"]), answer)
    return drafts


def new_instruction(text: str) -> str | None:
    """The instruction that a model wrote under its heading; None without one.

    Args:
        text: Explanation and instruction.
    """
    headings = [*_HEADING.finditer(text)]
    if not headings:
        return None
    return unquoted(_END.split(text[headings[-1].end() :], maxsplit=1)[0].strip()) or None


def messages_of(draft: Draft) -> RowMessages:
    """The new instruction with its answer, as far as they were written.

    Args:
        draft: One of `sequences`.
    """
    return task_messages(draft["instruction"], "", draft.fields.get("response") or "")


def _draft(part: Part) -> Draft:
    fields = {"strategy": "self_seq", "original": part.request, "instruction": part.request}
    return Draft((part.id,), {**fields, "kinds": []}, part.license)


def _kind_prompt(draft: Draft, seed: int, number: int) -> Prompt:
    examples = [(kind, example) for kind in EXAMPLES for example in EXAMPLES[kind][:1]]
    shown = [{"kind": kind, **example} for kind, example in examples]
    shown += [{"kind": "keep", "instruction": text} for text in KEPT]
    _rng(draft, seed, f"kind {number}").shuffle(shown)
    return user(PROMPTS.render("kind", instruction=draft["instruction"], examples=shown))


def _rewriting_prompt(draft: Draft, *, explain: bool, seed: int, number: int) -> Prompt:
    shown = [*EXAMPLES[draft["kind"]]]
    _rng(draft, seed, f"rewrite {number}").shuffle(shown)
    name = "rewrite_explained" if explain else "rewrite"
    values = {"kind": draft["kind"], "instruction": draft["instruction"], "examples": shown}
    return user(PROMPTS.render(name, **values))


def _rng(draft: Draft, seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed} self_seq {purpose} {draft.parents[0]}")


def _unless_changed(draft: Draft) -> Rejection | None:
    return ("sufficient", {"kind": "keep"}) if draft["kind"] == "keep" else None


def _unless_new(draft: Draft) -> Rejection | None:
    """A model that repeats the instruction has added no task."""
    if draft["new"].split() == draft["instruction"].split():
        return "unchanged", {"kind": draft["kind"]}
    return None


KEPT: Final = (
    "A shirt costs 18 euros and trousers cost twice as much. How much do both cost together?",
    'Is the mood of this message happy or sad? "We lost the dog again."',
)
"""Instructions that are complete."""

EXAMPLES: Final[Mapping[str, Sequence[Mapping[str, str]]]] = {
    "split": (
        {
            "instruction": "Compare the climates of Lisbon and Helsinki.",
            "why": "A comparison needs both sides described first.",
            "rewritten": "Describe the climates of Lisbon and of Helsinki, each in two sentences."
            " Then say in which three points they differ most.",
        },
        {
            "instruction": "Plan a birthday party for twenty children.",
            "why": "What is to happen decides what has to be bought.",
            "rewritten": "Draw up a timetable for a birthday party with twenty children. Then list"
            " what has to be bought for each point of the timetable.",
        },
        {
            "instruction": "Who is the speaker? Lines: 'I came, I saw, I conquered.'",
            "why": "The situation has to be recognised before the name.",
            "rewritten": "Read these lines: 'I came, I saw, I conquered.' First say what situation"
            " they describe, then name the speaker.",
        },
    ),
    "prefix": (
        {
            "instruction": "Write a cover letter for a job as a gardener.",
            "why": "A letter is better when it is known what such a job asks for.",
            "rewritten": "List five things that employers expect of a gardener, and then write a"
            " cover letter for a job as a gardener that speaks to them.",
        },
        {
            "instruction": "Translate into French: The early bird catches the worm.",
            "why": "A proverb has to be understood before it is translated.",
            "rewritten": "Explain what this proverb means, and then translate it into French: The"
            " early bird catches the worm.",
        },
        {
            "instruction": "Suggest a bike for my way to work.",
            "why": "The choice depends on the kinds that there are.",
            "rewritten": "Name three kinds of bikes with what each is good for. After that, suggest"
            " a bike for my way to work.",
        },
    ),
    "suffix": (
        {
            "instruction": "What is photosynthesis?",
            "why": "An application shows whether the idea was understood.",
            "rewritten": "What is photosynthesis? Explain then why plants on a windowsill turn to"
            " the light.",
        },
        {
            "instruction": "Write a short poem about the sea.",
            "why": "A title sums the poem up.",
            "rewritten": "Write a short poem about the sea, and then give it three titles of which"
            " each stresses another line.",
        },
        {
            "instruction": "Sort these numbers: 7, 3, 12, 5.",
            "why": "The sorted list makes the median easy to read.",
            "rewritten": "Sort these numbers: 7, 3, 12, 5. Then give their median.",
        },
    ),
}
"""Three rewritten instructions of each kind."""
