"""LongForm: instructions, chat messages and search queries for passages of text.

LongForm: Effective Instruction Tuning with Reverse Instructions (Köksal et al. 2023,
arXiv:2304.08460; akoksal/LongForm). As in the paper: a passage that people wrote is the answer,
and a model writes what it answers, in one of three styles: an instruction, a message to a
chatbot, or a search query. The paper has no curation.

Ours: the wording; the style is drawn for each passage; the sampling (256 tokens at temperature
0.7, nucleus 0.9), and the cap on an instruction's length. The paper's other sources (questions
of communities, guides, existing tasks) are pools that `load.records` reads.
"""

from __future__ import annotations

import random
from typing import Annotated, Final, Literal

from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.generate.backtranslate.curation import Curation
from stages.generate.backtranslate.passage_options import PassageOptions

PROMPTS: Final = Prompts(__file__)

Style = Literal["instruction", "chat", "query"]


@option_group
class LongForm(PassageOptions):
    """LongForm (Köksal et al. 2023, arXiv:2304.08460).

    Args:
        name: "longform".
        styles: What an instruction may be; one is drawn for each passage.
        curation: How pairs are rated; null keeps all.
    """

    name: Literal["longform"] = "longform"
    styles: Annotated[tuple[Style, ...], NonEmpty] = ("instruction", "chat", "query")
    curation: Curation | None = None


def prompt(draft: Draft, method: LongForm, seed: int) -> Prompt:
    """The request for an instruction of the passage's style, which is noted in the draft.

    Args:
        draft: The passage.
        method: The styles.
        seed: Seed of the choice of the style.
    """
    rng = random.Random(f"{seed} style {draft.parents} {draft.notes['passage']}")
    draft.notes["style"] = style = rng.choice(method.styles)
    return user(PROMPTS.render(style, passage=draft["passage"]))
