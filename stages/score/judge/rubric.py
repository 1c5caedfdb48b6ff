"""The part of your own criteria that an answer meets, each graded by itself with yes or no.

Ours, after no one paper: checklists of this kind are common in judges of instruction following.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
import polars as pl

from pipeline.types import NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.drafts import user
from stages._llm.judging.exchanges import exchanges
from stages._llm.judging.labels import Judge, sums_by_row
from stages._llm.label_scores import YES
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)


@option_group
class Rubric:
    """The part of the criteria that the last answer meets.

    Adds `judge_rubric`, from 0 to 1, and `judge_met`: for each criterion whether it is met,
    which is where "yes" is more probable than "no".

    Args:
        criteria: Sentences about an answer, such as "It names its source.".
    """

    name: Literal["rubric"] = "rubric"
    criteria: Annotated[tuple[str, ...], NonEmpty, Distinct]


def rate_by_rubric(judge: Judge, rows: pl.DataFrame, method: Rubric) -> pl.DataFrame:
    """The columns of `Rubric`.

    Args:
        judge: The judge.
        rows: The rows to judge.
        method: The options of the method.
    """
    judged = exchanges(rows, judge.view)
    judgements = {}
    for criterion in method.criteria:
        prompts = [
            user(
                PROMPTS.render(
                    "criterion",
                    conversation=exchange.conversation,
                    response=exchange.response,
                    criterion=criterion,
                )
            )
            for exchange in judged
        ]
        judgements[criterion] = judge.expected_values(judged, prompts, YES)
    frame = sums_by_row(len(rows), judged, judgements)
    met = [[x is not None and x > 0.5 for x in row] for row in frame.select(method.criteria).rows()]
    fractions = np.mean(met or np.zeros((0, 1)), axis=1)
    return pl.DataFrame(
        {
            "judge_rubric": pl.Series(fractions, dtype=pl.Float64),
            "judge_met": pl.Series(met, dtype=pl.List(pl.Boolean)),
            "error": frame["error"],
        }
    ).with_columns(pl.when(pl.col("error").is_null()).then(pl.col("judge_rubric", "judge_met")))
