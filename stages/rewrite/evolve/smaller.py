"""Operators dealt out evenly, for models that are smaller than those that they teach.

Smaller evolvers + IC-IFD: Smaller Language Models Are Better Instruction Evolvers (Hua et al.
2024, arXiv:2412.11231; HypherX/Evolution-Analysis).

As in the paper: Evol-Instruct's operators with a small model, round after round, and the result
ranked by IC-IFD (`score.loss` with `formulas: [ic_ifd]`).

As in the authors' code: the operator of a row is that of the number (row + round) modulo the
number of operators, so that all are used equally often, and each row meets all of them; four of
them in depth, and one in breadth where it is named; no elimination; answers are greedy. The recipe
has the temperature of 0.7. The code carries the input of the old instruction along, beside a new
one that it no longer fits; here it is cleared or written anew.

Ours: the wording; rows are numbered in the order of their ids; an instruction that comes back as
it was, or as the prompt, is dropped; the requests for new inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pipeline.types import NonEmpty, NonNegativeFloat, option_group
from stages._llm.drafts import Draft, GenerateField, Prompt, user
from stages._llm.preambles import without_preamble
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Operator = Literal["constraints", "deepen", "concretize", "reasoning", "breadth"]

_NONE: Final = frozenset({"none", "n/a", "no input", "nothing"})


@option_group
class SmallerEvolvers:
    """Evol-Instruct's operators in turn, without elimination (Hua et al. 2024).

    Args:
        name: "smaller-evolvers".
        operators: In the order in which rows and rounds meet them.
        input: What becomes of a separate input: clear (it is evolved as a part of the
            instruction) or regenerate (the instruction is evolved alone, and an input is written
            for it).
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
        answer_temperature: Of the answers.
    """

    name: Literal["smaller-evolvers"] = "smaller-evolvers"
    operators: Annotated[tuple[Operator, ...], NonEmpty] = (
        *("constraints", "deepen", "concretize", "reasoning"),
    )
    input: Literal["clear", "regenerate"] = "clear"
    eliminate: bool = False
    write_answers: bool = True
    answer_temperature: NonNegativeFloat = 0.0


def operator(method: SmallerEvolvers, draft: Draft, number: int) -> str:
    """The operator of a row in a round.

    Args:
        method: The operators.
        draft: The row, with its number in `index`.
        number: The round.
    """
    position: int = (draft["index"] + number) % len(method.operators)
    return method.operators[position]


def part_inputs(drafts: Sequence[Draft]) -> None:
    """Set `instruction` of drafts without the input, and `input`.

    Args:
        drafts: Changed in place.
    """
    for draft in drafts:
        start = draft["input_start"]
        if start is not None:
            text = draft["instruction"]
            instruction = text[:start].removesuffix("\n\n")
            draft.fields |= {"instruction": instruction, "input": text[start:].strip()}


def write_inputs(write: GenerateField, drafts: Sequence[Draft]) -> None:
    """Have an input written for each new instruction whose old one had one.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: Changed in place.
    """
    with_input = [draft for draft in drafts if draft.active and draft["input"]]
    write(with_input, "new_input", _request, parse=_input)
    for draft in with_input:
        if draft.active:
            draft.fields["input"] = draft["new_input"]


def _request(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("instruction", "input")}
    return user(PROMPTS.render("input", **values))


def _input(text: str) -> str | None:
    """An input; an empty text where there shall be none, None where nothing is said."""
    written = without_preamble(text)
    return "" if written.strip(" .").casefold() in _NONE else written or None
