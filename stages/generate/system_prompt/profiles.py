"""Role profiles: characters under which ordinary instructions are answered.

After RoleMRC (Lu et al. 2025, arXiv:2502.11387).
- As in the paper: characters with what they know, how they speak and what they cannot or will not
  talk about, each around a topic; they answer within that and decline outside of it.
- Ours: any instructions in the place of its questions about passages, twenty characters (the paper
  has thousands), the topics where no file is given, the four parts of a character, and the
  wording. Its nested and ranked instructions are not here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pipeline.types import Count, NonEmpty, option_group
from stages._llm.drafts import Draft, GenerateField, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import labelled_lines
from stages.generate.taxonomy.axes import TOPICS

PROMPTS: Final = Prompts(__file__)

_PARTS: Final = ("Name", "Knows", "Speaks", "Refuses")


@option_group
class Profiles:
    """Characters, assigned to the rows at random: RoleMRC (arXiv:2502.11387).

    Args:
        name: "profiles".
        num_profiles: Characters to invent, each around one of the topics in turn.
        topics: What the characters are about; those of the stage's `topic_files` take their place.
    """

    name: Literal["profiles"] = "profiles"
    num_profiles: Count = 20
    topics: Annotated[tuple[str, ...], NonEmpty] = TOPICS


def write_profiles(
    write: GenerateField, method: Profiles, own_topics: Sequence[str] = ()
) -> list[Draft]:
    """Characters as drafts of their own, which become no rows but lead to them.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        method: How many, and about what.
        own_topics: What they are about instead, where files say it.
    """
    topics = own_topics or method.topics
    drafts = [
        Draft((), {"topic": topics[number % len(topics)]}, number=number // len(topics))
        for number in range(method.num_profiles)
    ]
    write(
        *(drafts, "profile", lambda d: user(PROMPTS.render("profile", **d.fields))),
        parse=parse_profile,
    )
    return drafts


def parse_profile(text: str) -> dict[str, str] | None:
    r"""The four parts of a character; None where one of them is missing.

    >>> parse_profile("Name: Ada\nKnows: numbers\nSpeaks: dryly\nRefuses: gossip")
    {'name': 'Ada', 'knows': 'numbers', 'speaks': 'dryly', 'refuses': 'gossip'}
    """
    parts = labelled_lines(text, _PARTS)
    if parts is None:
        return None
    return {name.lower(): " ".join(part.split()).strip(" .*") for name, part in parts.items()}


def assign_profiles(drafts: Sequence[Draft], profiles: Sequence[Draft], seed: int) -> None:
    """Set `system` and `rules` of each draft from a character drawn by its id.

    Without any usable character the drafts end as the first character did.

    Args:
        drafts: The instructions.
        profiles: The characters, as `write_profiles` returns them.
        seed: Seed of the choice.
    """
    usable = [profile for profile in profiles if profile.active]
    for draft in drafts:
        if not draft.active:
            continue
        if not usable:
            first = profiles[0]
            draft.error, draft.rejection = first.error, first.rejection
            draft.journal += first.journal
            continue
        profile = random.Random(f"{seed} profile {draft.parents}").choice(usable)
        parts = profile["profile"]
        draft.journal += profile.journal
        draft.notes["character"] = parts["name"]
        draft.fields |= {
            "system": PROMPTS.render("played", **parts),
            "rules": [parts["speaks"], parts["refuses"]],
        }
