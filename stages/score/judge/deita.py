"""DEITA's scorers: fine-tuned models that grade complexity or quality from 1 to 6.

What Makes Good Data for Alignment? (Liu et al. 2023, arXiv:2312.15685).

- As in the paper: a score is the sum of k p(k), with p the softmax over the logits of "1" to "6" at
  the first generated token; complexity is that of the request, quality that of an answer to it; the
  score of a conversation is the sum over its turns of complexity times quality.
- As in the authors' code (hkust-nlp/deita, Apache-2.0): the text that the released scorers
  `hkust-nlp/deita-complexity-scorer` and `deita-quality-scorer` were trained on, letter by letter
  (an interface, not a wording: without it their scores mean nothing), a text to continue and no
  chat; each turn is graded alone, without the turns before it.
- Ours: all tokens that spell a grade count, not one id for each, so that scorers of any vocabulary
  load; a last request without an answer is left out, where the code grades an empty answer; a
  grade that is missing is `unreadable`, where the code takes 3.0.

The rest of the method is `select.diverse` with `method: threshold` (recipe `deita`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from pipeline.types import option_group
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import Exchange, exchanges
from stages._llm.judging.labels import Judge, Judgement, sums_by_row
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

GRADES: Final = {str(grade): float(grade) for grade in range(1, 7)}


@option_group
class Deita:
    """DEITA's complexity or quality of each turn, by a released scorer (Liu et al. 2023).

    Adds `judge_<aspect>`, the sum over the turns, and `judge_<aspect>_turns`, the score of each.
    The product that DEITA ranks by is `array_sum(judge_complexity_turns * judge_quality_turns)`.

    Args:
        aspect: What the model of the stage is a scorer of.
    """

    name: Literal["deita"] = "deita"
    aspect: Literal["complexity", "quality"]


def rate_as_deita(judge: Judge, rows: pl.DataFrame, method: Deita, bias: Bias) -> pl.DataFrame:
    """The columns of `Deita`.

    Args:
        judge: The scorer.
        rows: The rows to score.
        method: The options of the method.
        bias: Counts the scores.
    """
    judged = exchanges(rows, judge.view, all_answers=True)
    prompts = [
        PROMPTS.render(f"deita_{method.aspect}", instruction=e.request, response=e.response)
        for e in judged
    ]
    scores = judge.expected_values(judged, prompts, GRADES)
    bias.add_ratings(judged, scores)
    name = f"judge_{method.aspect}"
    sums = sums_by_row(len(rows), judged, {name: scores})
    turns = pl.Series(f"{name}_turns", _by_row(len(rows), judged, scores), pl.List(pl.Float64))
    return sums.with_columns(turns).with_columns(
        pl.when(pl.col("error").is_null()).then(pl.col(name, turns.name))
    )


def _by_row(
    height: int, judged: Sequence[Exchange], scores: Sequence[Judgement]
) -> list[list[float]]:
    turns: list[list[float]] = [[] for _ in range(height)]
    for exchange, score in zip(judged, scores, strict=True):
        if isinstance(score, float):
            turns[exchange.row].append(score)
    return turns
