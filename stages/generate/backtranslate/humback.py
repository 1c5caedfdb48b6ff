"""Instruction Backtranslation: an instruction for each passage of unlabelled text.

Self-Alignment with Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259), known as
Humback.
- As in the paper: a model writes an instruction for each passage (self-augmentation) and rates the
  pairs from 1 to 5 (self-curation, see `curation.py`). The paper trains a backward model for the
  first step (`train.sft` with `reverse`, then `backward_model`) and repeats the second with better
  models: the recipe `humback` does both, with `score.judge` and its method of the same name.
- As in the unofficial code (Spico197/Humback): instructions of 10 to 800 characters.
- Ours: a prompt for models that were not trained backwards, how documents are cut into passages,
  and the sampling.
"""

from __future__ import annotations

from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.generate.backtranslate.curation import Curation, TextRating
from stages.generate.backtranslate.passage_options import PassageOptions

PROMPTS: Final = Prompts(__file__)


@option_group
class Humback(PassageOptions):
    """Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259).

    Args:
        name: "humback".
        backward_model: The model was trained to write the instruction of an answer: it is
            shown the passage alone.
        curation: How pairs are rated; null keeps all.
    """

    name: Literal["humback"] = "humback"
    backward_model: bool = False
    curation: Curation | None = TextRating()


def prompt(draft: Draft, method: Humback) -> Prompt:
    """The request for the instruction that a passage answers."""
    if method.backward_model:
        return user(draft["passage"])
    return user(PROMPTS.render("instruction", passage=draft["passage"]))
