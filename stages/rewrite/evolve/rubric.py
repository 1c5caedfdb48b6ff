"""Self-Rubrics: the model itself names how an instruction could become harder.

CodecLM (Wang et al. 2024, arXiv:2404.05875), its step Self-Rubrics.
- As in the paper: the model names criteria of difficulty and an action that raises each; one action
  is drawn and applied, round after round.
- Ours: the wording, up to four criteria, criteria from the instruction itself where the paper has
  them from its use case and skills, and WizardLM's elimination. (`generate.taxonomy` and
  `score.judge` with `gap` have the paper's other steps.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.drafts import Draft, GenerateField, Prompt, user
from stages._llm.lists import listed_items
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

_NUM_ACTIONS: Final = 4


@option_group
class Rubric:
    """CodecLM's Self-Rubrics (Wang et al. 2024, arXiv:2404.05875).

    Args:
        name: "rubric".
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["rubric"] = "rubric"
    eliminate: bool = True
    write_answers: bool = True


def write_actions(write: GenerateField, drafts: Sequence[Draft]) -> None:
    """Set `action` of every draft: one of the changes that the model names, by its `draw`."""

    def request(draft: Draft) -> Prompt:
        text = PROMPTS.render("actions", count=_NUM_ACTIONS, instruction=draft["instruction"])
        return user(text)

    write(drafts, "actions", request, parse=lambda text: listed_items(text) or None)
    for draft in drafts:
        if draft.active:
            actions = draft["actions"]
            draft.fields["action"] = actions[int(draft["draw"] * len(actions))].strip()


def prompt(draft: Draft) -> Prompt:
    """The request to apply the action to the instruction."""
    text = PROMPTS.render("apply", instruction=draft["instruction"], action=draft["action"])
    return user(text)
