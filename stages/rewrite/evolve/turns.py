"""Conversations that grow by a user's turn and its answer each round.

M2Lingual: Enhancing Multilingual, Multi-Turn Instruction Alignment in Large Language Models
(Maheshwary et al. 2024, arXiv:2406.16783).

As in the paper: the second of two steps (the first is `m2lingual.py`): the user's next turn is
written after a drawn kind of dialogue move, one of 21, in the language of the conversation, which
grows by it and its answer.

Ours: which moves the 21 are, the wording, WizardLM's signs of failed answers; a turn that the user
has said before, or that is in another language, is dropped.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pipeline.types import Fraction, NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.languages import language_of

PROMPTS: Final = Prompts(__file__)

TurnKind = Literal[
    "follow_up", "refine", "correct", "example", "apply", "shift", "clarify", "expand", "shorten",
    "rephrase", "recall", "compare", "justify", "object", "condition", "reverse", "format",
    "audience", "combine", "continue", "ambiguous",
]  # fmt: skip
TURN_KINDS: Final[tuple[TurnKind, ...]] = get_args(TurnKind)

DESCRIPTIONS: Final[dict[TurnKind, str]] = {
    "follow_up": "It is a question that the last answer gives rise to.",
    "refine": "It asks for the last answer to be changed in one particular way.",
    "correct": "It points out something in the last answer that is doubtful or missing.",
    "example": "It asks for an example, or for another one.",
    "apply": "It brings up a case of the user's own to which the last answer is to be applied.",
    "shift": "It turns to a neighbouring matter and refers back to the conversation.",
    "clarify": "It asks what a word or a sentence of the last answer means.",
    "expand": "It asks for more about one point of the last answer.",
    "shorten": "It asks for the last answer in far fewer words.",
    "rephrase": "It asks for the last answer in other words or another tone.",
    "recall": "It asks about something that was said earlier in the conversation.",
    "compare": "It asks to compare something in the last answer with something else.",
    "justify": "It asks how the assistant knows that, or why it is so.",
    "object": "It contradicts the last answer with a reason, which may be a wrong one.",
    "condition": "It adds a condition that was not mentioned, and asks what changes.",
    "reverse": "It asks the opposite of what was asked before.",
    "format": "It asks for the last answer in another form, such as a table or a list.",
    "audience": "It asks for the last answer as somebody else would need it.",
    "combine": "It asks to join the last answer with an earlier one, or with a new task.",
    "continue": "It asks to go on from where the last answer ended.",
    "ambiguous": "It refers to what was said by words like it, that one or the second, and nothing"
    " else.",
}
"""What a next turn of the user may be, as the prompt says it."""


@option_group
class Turns:
    """A further turn and its answer each round: M2Lingual (arXiv:2406.16783).

    Args:
        name: "turns".
        operators: Kinds of turns to draw from, all with the same probability.
        eliminate: Drop turns that failed (see `elimination.py`); they are not compared.
        min_language_probability: The least probability of the conversation's language for a new
            turn; with `eliminate`.
    """

    name: Literal["turns"] = "turns"
    operators: Annotated[tuple[TurnKind, ...], NonEmpty] = TURN_KINDS
    eliminate: bool = True
    min_language_probability: Fraction = 0.2


def without_answer(draft: Draft) -> Rejection | None:
    """Why a conversation does not go on: the user has no answer to speak of yet.

    Args:
        draft: A row.
    """
    role, text = draft["turns"][-1]
    return None if role == "assistant" and text.strip() else ("no_answer", {"role": role})


def said_before(draft: Draft) -> Rejection | None:
    """Why a turn is none: the user has said it already.

    Args:
        draft: A conversation that ends with the new turn.
    """
    *earlier, (_, new) = draft["turns"]
    said = {" ".join(text.casefold().split()) for role, text in earlier if role == "user"}
    return ("no_gain", {"unchanged": True}) if " ".join(new.casefold().split()) in said else None


def language(draft: Draft) -> str | None:
    """The language in which the user has spoken so far."""
    *earlier, _ = draft["turns"]
    return language_of(" ".join(text for role, text in earlier if role == "user"))


def prompt(draft: Draft) -> Prompt:
    """The request for the next turn of the user."""
    description = DESCRIPTIONS[draft["operator"]]
    return user(PROMPTS.render("turn", turns=draft["turns"], manner=description))
