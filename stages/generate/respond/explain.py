"""Answers under system prompts that demand an explanation, which stay in the row.

Orca (Mukherjee et al. 2023, arXiv:2306.02707). The prompts are ours, after the kinds that
the paper lists.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Final, Literal, get_args

from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages.generate.respond.turns import with_system

PROMPTS: Final = Prompts(__file__)

SystemPrompt = Literal[
    "five", "justify", "knowledge", "parts", "plain", "rules", "steps", "teacher"
]
SYSTEM_PROMPTS: Final[tuple[SystemPrompt, ...]] = get_args(SystemPrompt)
"""The names of the prompt files, in their order."""


@option_group
class Explain:
    """Answers that explain: Orca (Mukherjee et al. 2023, arXiv:2306.02707).

    Args:
        name: "explain".
        system_prompts: Names of the system prompts to draw from. Which one a prompt gets is
            drawn by the stage's `seed`, another one for each sample.
    """

    name: Literal["explain"] = "explain"
    system_prompts: Annotated[tuple[SystemPrompt, ...], NonEmpty] = SYSTEM_PROMPTS


def set_system_prompts(drafts: Sequence[Draft], method: Explain, seed: int) -> None:
    """Put a system prompt before each draft's turns and its name into `manner`.

    Args:
        drafts: The prompts, with `before`; changed in place.
        method: The system prompts.
        seed: Seed of the choice.
    """
    names = list(method.system_prompts)
    for draft in drafts:
        order = random.Random(f"{seed} explain {draft.parents}").sample(names, len(names))
        draft.fields["manner"] = order[draft.number % len(order)]
        draft.fields["before"] = with_system(PROMPTS.render(draft["manner"]), draft["before"])
