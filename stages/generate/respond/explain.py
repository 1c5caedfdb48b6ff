"""Answers under system prompts that demand an explanation, which stay in the row.

Orca (Mukherjee et al. 2023, arXiv:2306.02707).
- As in the paper: a system prompt is drawn for each query and put before it, and the answer under
  it becomes a row with the system prompt. The paper has 16, of which one is empty, and draws from
  those that suit the query's sub-collection of FLAN: a stage for each sub-collection, with a file
  of its own, does that.
- Ours: eight prompts after the kinds that the paper lists, where no file is given, and that
  several answers to one query have different ones. No code was released.
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
EMPTY: Final = "<empty>"
"""A line of a file that stands for no system prompt at all."""

SYSTEM_PROMPTS: Final[tuple[SystemPrompt, ...]] = get_args(SystemPrompt)
"""The names of the prompt files, in their order."""


@option_group
class Explain:
    """Answers that explain: Orca (Mukherjee et al. 2023, arXiv:2306.02707).

    Args:
        name: "explain".
        system_prompts: Names of the system prompts to draw from. Which one a prompt gets is
            drawn by the stage's `seed`, another one for each sample. Those of the stage's
            `system_prompt_files` take their place.
    """

    name: Literal["explain"] = "explain"
    system_prompts: Annotated[tuple[SystemPrompt, ...], NonEmpty] = SYSTEM_PROMPTS


def set_system_prompts(
    drafts: Sequence[Draft], method: Explain, seed: int, texts: Sequence[str] = ()
) -> None:
    """Put a system prompt before each draft's turns and its name into `manner`.

    Args:
        drafts: The prompts, with `before`; changed in place.
        method: The system prompts.
        seed: Seed of the choice.
        texts: System prompts in the place of those of the method; each is its own name.
    """
    names = list(texts or method.system_prompts)
    for draft in drafts:
        order = random.Random(f"{seed} explain {draft.parents}").sample(names, len(names))
        name = draft.fields["manner"] = order[draft.number % len(order)]
        if name == EMPTY:
            draft.fields["before"] = tuple(t for t in draft["before"] if t[0] != "system")
            continue
        system = name if texts else PROMPTS.render(name)
        draft.fields["before"] = with_system(system, draft["before"])
