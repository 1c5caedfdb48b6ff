"""Conversations that grow by a user's turn and its answer each round.

After the second step of M2Lingual (Maheshwary et al. 2024, arXiv:2406.16783).
- As in the paper: the user's next turn is written after a drawn kind of dialogue move, and the
  conversation grows by it and its answer.
- Ours: six kinds of moves in the place of its 21, the wording, and WizardLM's signs of failed
  answers. The paper's first step, a taxonomy of evolutions for each language and task, is not here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

TurnKind = Literal["follow_up", "refine", "correct", "example", "apply", "shift"]
TURN_KINDS: Final[tuple[TurnKind, ...]] = get_args(TurnKind)

DESCRIPTIONS: Final[dict[TurnKind, str]] = {
    "follow_up": "It is a question that the last answer gives rise to.",
    "refine": "It asks for the last answer to be changed in one particular way.",
    "correct": "It points out something in the last answer that is doubtful or missing.",
    "example": "It asks for an example, or for another one.",
    "apply": "It brings up a case of the user's own to which the last answer is to be applied.",
    "shift": "It turns to a neighbouring matter and refers back to the conversation.",
}
"""What a next turn of the user may be, as the prompt says it."""


@option_group
class Turns:
    """A further turn and its answer each round: M2Lingual (arXiv:2406.16783).

    Args:
        name: "turns".
        operators: Kinds of turns to draw from, all with the same probability.
        eliminate: Drop turns that failed (see `elimination.py`); they are not compared.
    """

    name: Literal["turns"] = "turns"
    operators: Annotated[tuple[TurnKind, ...], NonEmpty] = TURN_KINDS
    eliminate: bool = True


def prompt(draft: Draft) -> Prompt:
    """The request for the next turn of the user."""
    description = DESCRIPTIONS[draft["operator"]]
    return user(PROMPTS.render("turn", turns=draft["turns"], manner=description))
