"""AlpaGasus: a score from 0 to 5, explained afterwards.

AlpaGasus: Training a Better Alpaca with Fewer Data (Chen et al. 2023, arXiv:2307.08701).

- As in the paper: one dimension of the pair is rated, accuracy for the main results; score first,
  explanation afterwards; what scores 4.5 or more is kept (`select.top` with `min_score: 4.5`),
  9,229 of Alpaca's 52,002 rows by ChatGPT.
- As in the authors' code (gpt4life/alpagasus): helpfulness as the other dimension, a system prompt
  before the question, greedy answers of at most 256 tokens, and the first line as the score.
- Ours: the wording; "Score: 4.5" and "4.5/5" are read too; half points are asked for, but any
  number on the scale counts, such as 4.25; one outside it is none.
  The code scores what it cannot read as -1, or by the first digit after "Score:" (4 for 4.5); here
  it is sampled anew and then dropped as `unreadable`. The score without an explanation is ours too.
"""

from __future__ import annotations

from typing import Final, Literal

import polars as pl

from pipeline.types import option_group
from stages._llm.drafts import Prompt, user
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import Exchange, exchanges
from stages._llm.judging.labels import Judge, sums_by_row
from stages._llm.prompts import Prompts
from stages._llm.ratings import first_line_grade

PROMPTS: Final = Prompts(__file__)

HALF_POINTS: Final = {f"{half / 2:g}": half / 2 for half in range(11)}
"""The scores of an answer without an explanation."""

EXPLANATION_MAX_TOKENS: Final = 256
"""Of the score with its explanation, as in the authors' code."""


@option_group
class AlpaGasus:
    """AlpaGasus' score of the last answer (Chen et al. 2023, arXiv:2307.08701).

    Adds `judge_accuracy` or `judge_helpfulness`, from 0 to 5: half points, mostly, which are asked
    for; another number on the scale counts too.

    Args:
        dimension: What of the answer is rated.
        explanation: Whether the judge explains the score in the lines after it, as in the paper.
            If not, it answers the number alone, and the score is the expectation over
            probabilities where whole and half points begin with different tokens.
    """

    name: Literal["alpagasus"] = "alpagasus"
    dimension: Literal["accuracy", "helpfulness"] = "accuracy"
    explanation: bool = True


def rate_as_alpagasus(
    judge: Judge, rows: pl.DataFrame, method: AlpaGasus, bias: Bias
) -> pl.DataFrame:
    """The column of `AlpaGasus`.

    Args:
        judge: The judge.
        rows: The rows to rate.
        method: The options of the method.
        bias: Counts the scores.
    """
    judged = exchanges(rows, judge.view)
    prompts = [_prompt(exchange, method) for exchange in judged]
    if method.explanation:
        scores = judge.written_values(judged, prompts, first_line_grade, EXPLANATION_MAX_TOKENS)
    else:
        scores = judge.expected_values(judged, prompts, HALF_POINTS)
    bias.add_ratings(judged, scores)
    return sums_by_row(len(rows), judged, {f"judge_{method.dimension}": scores})


def _prompt(exchange: Exchange, method: AlpaGasus) -> Prompt:
    question = PROMPTS.render(
        "alpagasus",
        instruction=exchange.instruction,
        response=exchange.response,
        dimension=method.dimension,
        explanation=method.explanation,
    )
    return user(question, system=PROMPTS.render("alpagasus_system"))
