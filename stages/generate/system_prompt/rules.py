"""Roles with rules: from an instruction to a developer's prompt that bears on it.

RNR, Teaching Large Language Models to Follow Roles and Rules (Wang et al. 2024,
arXiv:2409.13733).
- As in the paper: from an ordinary instruction the model invents a developer's prompt, a role with
  a random number of rules, and then the answer that obeys.
- Ours: 1 to 5 rules, the wording, and that a prompt without a list of rules is dropped. No code was
  released; the check `verify` of the stage is ours, too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Literal

from pipeline.types import Range, option_group
from stages._llm.drafts import Draft, GenerateField, filter_drafts, user
from stages._llm.preambles import requested_items
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection

PROMPTS: Final = Prompts(__file__)


@option_group
class Rules:
    """A role with rules for each instruction: RNR (Wang et al. 2024, arXiv:2409.13733).

    Args:
        name: "rules".
        num_rules: Fewest and most rules of a system prompt; the number is drawn.
    """

    name: Literal["rules"] = "rules"
    num_rules: Range = (1, 5)


def write_rules(write: GenerateField, drafts: Sequence[Draft], method: Rules, seed: int) -> None:
    """Write `system` and `rules` of every draft; one without a list is `no_rules`.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: The instructions.
        method: How many rules.
        seed: Seed of the number of rules.
    """
    for draft in drafts:
        rng = random.Random(f"{seed} rules {draft.parents}")
        draft.fields["count"] = rng.randint(*method.num_rules)
    write(drafts, "system", lambda d: user(PROMPTS.render("rules", **d.fields)))

    def rejection(draft: Draft) -> Rejection | None:
        draft.fields["rules"] = requested_items(draft["system"], draft["count"])
        return None if draft["rules"] else ("no_rules", {"system_end": draft["system"][-200:]})

    filter_drafts(drafts, rejection)
