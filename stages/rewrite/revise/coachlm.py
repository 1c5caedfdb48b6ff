"""CoachLM: a model that was trained on experts' revisions revises instructions and answers.

CoachLM: Automatic Instruction Revisions Improve the Data Quality in LLM Instruction Tuning (Liu
et al. 2023, arXiv:2311.13246; lunyiliu/CoachLM).

As in the paper: instruction and answer go in, both come out; what has foreign characters, repeats
itself or is over-long keeps the old texts. The model is one that `train.sft` made (`from:` in the
recipe), on the revisions with the largest edit distance (`passes` of a revised row holds that of
each field): the paper takes the top 30% of 2,301 by experts.

Ours: the wording and the marks, which the rows of the training must have too; that a foreign
character is one of a script which neither the old instruction nor the old answer has; a repeated
run is one of 13 words that the old texts do not repeat; over-long is more than `max_ratio` times
the old texts and 1,000 characters; only instructions that stand alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import PositiveFloat, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite._blocks import blocks
from stages.rewrite.revise.passes import Reviser
from stages.rewrite.revise.reflection import stands_alone
from stages.rewrite.revise.self_lengthen import repeats

PROMPTS: Final = Prompts(__file__)

_NAMES: Final = ("Revised instruction", "Revised answer")
_SPARE: Final = 1_000
"""Characters that a revision may be longer by, however short the old texts are."""


@option_group
class CoachLM:
    """Both texts revised by a trained reviser (CoachLM, Liu et al. 2023).

    Keeps texts as `foreign_characters`, `repetition`, `over_long`, or `multi_turn` (the
    instruction does not stand alone).

    Args:
        name: "coachlm".
        max_ratio: The new texts may have this many times the characters of the old ones.
    """

    name: Literal["coachlm"] = "coachlm"
    max_ratio: PositiveFloat = 4.0

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Revise instructions with their answers."""
        attempts = [draft.child() for draft in drafts]
        for attempt in attempts:
            if not stands_alone(attempt):
                attempt.reject("multi_turn")
        reviser.write(attempts, "revised", _prompt, parse=partial(blocks, names=_NAMES))
        for attempt in attempts:
            if attempt.active:
                texts = attempt["revised"].values()
                attempt.fields["new_instruction"], attempt.fields["new_response"] = texts
                reason = None if is_counting() else self._why_refused(attempt)
                if reason is not None:
                    attempt.reject(reason, response_end=attempt["new_response"][-200:])
        reviser.conclude(drafts, attempts, "coachlm")

    def _why_refused(self, attempt: Draft) -> str | None:
        old = f"{attempt['instruction']}\n\n{attempt['response']}"
        new = f"{attempt['new_instruction']}\n\n{attempt['new_response']}"
        if scripts(new) - scripts(old):
            return "foreign_characters"
        if repeats(new) and not repeats(old):
            return "repetition"
        return "over_long" if len(new) > max(self.max_ratio * len(old), _SPARE) else None


def scripts(text: str) -> set[str]:
    """The scripts of a text's letters, by the first word of their Unicode names.

    Args:
        text: The text.

    Example:
        >>> sorted(scripts("Das Meer, море, 海"))
        ['CJK', 'CYRILLIC', 'LATIN']
    """
    letters = {character for character in text if character.isalpha()}
    return {unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in letters}


def _prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("instruction", "response")}
    return user(PROMPTS.render("revise", **values))
