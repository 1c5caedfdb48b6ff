"""Operators of Evol-Instruct: each is a prompt file that rewrites an instruction.

WizardLM (Xu et al. 2023, arXiv:2304.12244).
- As in the paper: five operators in depth (constraints, deepening, concretizing, reasoning steps,
  complicated input) and one in breadth, all with the same probability; depth adds 10 to 20 words,
  breadth keeps length and difficulty; complicated input names a data format, and the new
  instruction holds data of that form; four rounds; failed evolutions go back as they were.
- As in the authors' code (nlpxucan/WizardLM): temperature 1, nucleus 0.95, 2,048 tokens; its one
  round has four operators in depth and the one in breadth, and no elimination (`wizardlm-code`).
- Ours: the wording; the data format is drawn alike for each row and round, and the paper's
  examples of such inputs are not shown.

WizardCoder (Luo et al. 2023, arXiv:2306.08568), the prompts under `code/`.
- As in the paper: no deepening, complicated input or breadth; five ways to make a programming task
  harder, among them misleading code and bounds on time and space.
- Ours: the wording, and the elimination, which the paper does not mention (`eliminate: false`);
  the paper stops when a further round no longer helps on held-out tasks, here `rounds` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
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

DATA_FORMATS: Final = (
    "XML data",
    "an SQL database",
    "Python code",
    "an HTML page",
    "a shell command with its output",
    "JSON data",
)
"""What an instruction may get to work on."""

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
        data_formats: What the operator `complicate` gives an instruction to work on; one is
            drawn each time.
    """

    name: Literal["wizardlm"] = "wizardlm"
    operators: Operators = (*DEPTH, "breadth")
    eliminate: bool = True
    write_answers: bool = True
    data_formats: Annotated[tuple[str, ...], NonEmpty] = DATA_FORMATS


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


def prompt(draft: Draft, data_formats: Sequence[str] = DATA_FORMATS) -> Prompt:
    """The request that the draft's operator makes of its instruction.

    Args:
        draft: The instruction, with its operator and a random number in `draw`.
        data_formats: What the operator `complicate` draws from.
    """
    values = {"instruction": draft["instruction"]}
    if draft["operator"] == "complicate":
        values["data_format"] = data_formats[int(draft["draw"] * len(data_formats))]
    return user(PROMPTS.render(f"{draft['operator']}", **values))
