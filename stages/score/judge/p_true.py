"""P(True): the probability of "True" against "False" for "is the answer correct?".

Kadavath et al. 2022, arXiv:2207.05221.
- As in the paper: the model sees the question and a proposed answer, and the probability of "True"
  is the score.
- Ours: the wording, the words themselves as labels (the paper has lettered choices), and
  probabilities that are normalized over the two. In the paper's better variant the model first
  sees several of its own answers; here it sees the judged one alone.

Inverse-Instruct (arXiv:2407.05700) asks in the same manner with yes and no.
"""

from __future__ import annotations

from typing import Final, Literal

import polars as pl

from pipeline.types import option_group
from stages._llm.drafts import user
from stages._llm.judging.exchanges import exchanges
from stages._llm.judging.labels import Judge, sums_by_row
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

TRUTH: Final = {"True": 1.0, "False": 0.0}


@option_group
class PTrue:
    """The probability that the last answer is correct (Kadavath et al. 2022).

    Adds `judge_p_true`, from 0 to 1.
    """

    name: Literal["p_true"] = "p_true"


def rate_p_true(judge: Judge, rows: pl.DataFrame) -> pl.DataFrame:
    """The column of `PTrue`.

    Args:
        judge: The judge.
        rows: The rows to judge.
    """
    judged = exchanges(rows, judge.view)
    prompts = [
        user(PROMPTS.render("true", conversation=exchange.conversation, response=exchange.response))
        for exchange in judged
    ]
    judgements = {"judge_p_true": judge.expected_values(judged, prompts, TRUTH)}
    return sums_by_row(len(rows), judged, judgements)
