"""Instructions widened by rewriting, of which the varied and the good ones are kept afterwards.

LIFT: Rethinking the Instruction Quality: LIFT is What You Need (Xu et al. 2023, arXiv:2312.11508).

As in the paper: a model rewrites instructions into more demanding ones and answers them; of the
old and the new rows those are kept whose embeddings, reduced by principal components, have the
highest variance within the row (`score.row_variance`), and of these those that a model grades
best (`score.judge`): see the recipe `lift`.

Ours: the wording; three kinds of expansion (harder, more explicit, a rarer neighbour), drawn alike
for each row and round; all numbers of the recipe; the signs of failed evolutions, which are
WizardLM's. The authors published no code.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Operator = Literal["challenge", "detail", "neighbour"]


@option_group
class Lift:
    """Expansion of the data (LIFT, Xu et al. 2023, arXiv:2312.11508).

    Args:
        name: "lift".
        operators: Kinds of expansion to draw from, all with the same probability.
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["lift"] = "lift"
    operators: Annotated[tuple[Operator, ...], NonEmpty] = ("challenge", "detail", "neighbour")
    eliminate: bool = True
    write_answers: bool = True


def prompt(draft: Draft) -> Prompt:
    """The request that the draft's operator makes of its instruction."""
    return user(PROMPTS.render(draft["operator"], instruction=draft["instruction"]))
