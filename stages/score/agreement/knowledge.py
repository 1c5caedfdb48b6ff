"""What a model knows about a request, compared with the answer.

NILE: Internal Consistency Alignment in Large Language Models (Hu et al. 2024, arXiv:2412.16686).

As in the paper: the model that will be tuned writes what it knows about each request, and the
similarity of the answer's vector with that of this knowledge is the row's consistency; the lowest
tail alone is dropped (`select.top` with a percentile), as dropping the highest made results
worse. As others report it; the authors' code was not read.

Ours: the wording; no demonstrations (the paper shows two, retrieved by BM25); temperature 0. The
whole of NILE, which revises the answer with that knowledge first, is `rewrite.revise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.models.base import LanguageModel
from pipeline.types import option_group
from stages._llm.drafts import user
from stages._llm.prompts import Prompts
from stages.score.agreement.questions import Question, Sampler, answerable

PROMPTS: Final = Prompts(__file__)


@option_group
class Knowledge:
    """The model's own knowledge about the request as the only vote (NILE).

    Args:
        name: "knowledge".
    """

    name: Literal["knowledge"] = "knowledge"


def add_knowledge(sampler: Sampler, rows: Sequence[Question], model: LanguageModel) -> None:
    """Add what the model knows to the votes of each row.

    Args:
        sampler: Sends the requests.
        rows: Changed in place.
        model: The model that will be tuned.
    """
    prompts = [
        (question, user(PROMPTS.render("knowledge", request=question.request)), 0)
        for question in answerable(rows)
    ]
    sampler.add_votes([model], prompts)
