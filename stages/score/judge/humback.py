"""Humback's self-curation, for rows that exist: a reasoned grade from 1 to 5.

Self-Alignment with Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259).

- As in the paper: five levels that are described one by one, the reasons in short, and the
  grade in a last line; the pair is shown without the system prompt that marks where it came from.
  The paper keeps 5 (`select.top` with `min_score: 5`), and the model of each round rates the same
  pairs anew (recipe `humback`).
- As in the unofficial code (Spico197/Humback), with `strict: false`: the first "Score: n" anywhere,
  which reads 65 % more answers (265,760 against 160,639 of 482,963) and gives a third more fives,
  reasoning such as "not yet a score: 5" among them.
- Ours: the wording; that a grade may stand at the beginning of a line before the end, for models
  that write their reasons last; the grade without reasons; several turns as one instruction.

What holds no grade is sampled anew and then dropped as `unreadable`: it counts, and is no grade.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from pipeline.types import option_group
from stages._llm.drafts import user
from stages._llm.humback import LEVELS, REASONS_MAX_TOKENS, Form, rating_question
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import exchanges
from stages._llm.judging.labels import Judge, sums_by_row
from stages._llm.ratings import rating


@option_group
class Humback:
    """Humback's reasoned grade of the last answer (Li et al. 2023, arXiv:2308.06259).

    Adds `judge_humback`, from 1 to 5.

    Args:
        reasons: Whether the judge gives its reasons before the grade, as in the paper. If not,
            it answers the number alone, and the score is the expectation over probabilities.
        strict: The last grade that begins a line or ends the answer counts. Otherwise the first
            "Score: n" anywhere does, as in the unofficial code.
    """

    name: Literal["humback"] = "humback"
    reasons: bool = True
    strict: bool = True

    def __post_init__(self) -> None:
        if not self.reasons and not self.strict:
            raise ValueError("strict must be left out with reasons: false, got false")


def rate_as_humback(judge: Judge, rows: pl.DataFrame, method: Humback, bias: Bias) -> pl.DataFrame:
    """The column of `Humback`.

    Args:
        judge: The judge.
        rows: The rows to rate.
        method: The options of the method.
        bias: Counts the grades.
    """
    judged = exchanges(rows, judge.view)
    form: Form = "reasons" if method.reasons else "number"
    prompts = [user(rating_question(e.instruction, e.response, form)) for e in judged]
    if method.reasons:
        grades = judge.written_values(
            *(judged, prompts, lambda text: rating(text, method.strict), REASONS_MAX_TOKENS)
        )
    else:
        labels = {str(level): float(level) for level in LEVELS}
        grades = judge.expected_values(judged, prompts, labels)
    bias.add_ratings(judged, grades)
    return sums_by_row(len(rows), judged, {"judge_humback": grades})
