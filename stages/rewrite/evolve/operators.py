"""Operators of Evol-Instruct: each is a prompt file that rewrites an instruction.

Five in depth and one in breadth are of WizardLM (Xu et al. 2023, arXiv:2304.12244), those
under `code/` of WizardCoder (Luo et al. 2023, arXiv:2306.08568).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Operator = Literal[
    "constraints",
    "deepen",
    "concretize",
    "reasoning",
    "complicate",
    "breadth",
    "code/constraints",
    "code/rarer",
    "code/steps",
    "code/misleading",
    "code/complexity",
]
Operators = Annotated[tuple[Operator, ...], NonEmpty]

DEPTH: Final[tuple[Operator, ...]] = (
    *("constraints", "deepen", "concretize", "reasoning", "complicate"),
)
CODE: Final[tuple[Operator, ...]] = (
    *("code/constraints", "code/rarer", "code/steps", "code/misleading", "code/complexity"),
)


@option_group
class WizardLM:
    """Evol-Instruct (Xu et al. 2023, arXiv:2304.12244).

    Each round draws one of six operators, five in depth and one in breadth, rewrites the
    instruction, and has it answered.

    Args:
        name: "wizardlm".
        operators: Operators to draw from, all with the same probability.
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered. If not, rows end with the user's
            turn, and only comparison and leaks count.
    """

    name: Literal["wizardlm"] = "wizardlm"
    operators: Operators = (*DEPTH, "breadth")
    eliminate: bool = True
    write_answers: bool = True


@option_group
class WizardLMCode:
    """The released script of WizardLM: one of five operators, no elimination.

    With `rounds: 1` it is all of that script.

    Args:
        name: "wizardlm-code".
        operators: Operators to draw from, all with the same probability.
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["wizardlm-code"] = "wizardlm-code"
    operators: Operators = (*DEPTH[:4], "breadth")
    eliminate: bool = False
    write_answers: bool = True


@option_group
class WizardCoder:
    """Five operators for programming tasks (Luo et al. 2023, arXiv:2306.08568).

    Args:
        name: "wizardcoder".
        operators: Operators to draw from, all with the same probability.
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["wizardcoder"] = "wizardcoder"
    operators: Operators = CODE
    eliminate: bool = True
    write_answers: bool = True


def prompt(draft: Draft) -> Prompt:
    """The request that the draft's operator makes of its instruction."""
    return user(PROMPTS.render(f"{draft['operator']}", instruction=draft["instruction"]))
