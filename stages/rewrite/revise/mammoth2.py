"""MAmmoTH2's refinement: the steps that an answer leaves out.

MAmmoTH2: Scaling Instructions from the Web (Yue et al. 2024, arXiv:2405.03548).

As in the paper: a strong model completes a question and its answer, above all by the reasoning
between them; whatever it says is taken. `generate.from_documents` with `mammoth2` is the whole
method, which first extracts such pairs from pages; this is its last step, for rows that there are.

Ours: the wording, temperature 0 and 2,048 tokens; and that the question stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)


@option_group
class Mammoth2:
    """The reasoning that an answer lacks, added (MAmmoTH2, Yue et al. 2024).

    Args:
        name: "mammoth2".
    """

    name: Literal["mammoth2"] = "mammoth2"

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Complete answers."""
        attempts = [draft.child() for draft in drafts]
        reviser.write(attempts, "new_response", _prompt)
        reviser.conclude(drafts, attempts, "mammoth2")


def _prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response")}
    return user(PROMPTS.render("complete", **values))
