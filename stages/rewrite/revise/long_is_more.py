"""Long-Is-More's refinement: the style and structure of an answer, not its content.

Long Is More: Long Is More for Alignment: A Simple but Tough-to-Beat Baseline for Instruction
Fine-Tuning (Zhao et al. 2024, arXiv:2402.04833; tml-epfl/long-is-more-for-alignment).

As in the paper: the longest answers of a pool (`select.top` by length) are criticised and
rewritten by Reflection-Tuning's prompt, which also names structure and asks that the content
stays; the instruction is not touched.

As in the authors' code: temperature 0, 2,048 tokens, one new answer between marks.

Ours: the wording and the marks, and what keeps the old answer (see `reflection.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite._blocks import blocks
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)

_NAMES: Final = ("Critique", "New answer")
_EVIDENCE_CHARACTERS: Final = 2_000


@option_group
class LongIsMore:
    """A critique of style and structure, and the answer with the same content (Zhao et al. 2024).

    Args:
        name: "long_is_more".
    """

    name: Literal["long_is_more"] = "long_is_more"

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Refine answers."""
        attempts = [draft.child() for draft in drafts]
        reviser.write(attempts, "refined", _prompt, parse=partial(blocks, names=_NAMES))
        for attempt in attempts:
            if attempt.active:
                critique, attempt.fields["new_response"] = attempt["refined"].values()
                attempt.fields["evidence"] = {"critique": critique[:_EVIDENCE_CHARACTERS]}
        reviser.conclude(drafts, attempts, "long_is_more")


def _prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response")}
    return user(PROMPTS.render("refine", **values))
