"""Ratings on a scale by any model, as the expectation over the probabilities of the grades.

Ours: no paper has this method whole. The expectation and the subjects `quality` and
`complexity`, from 1 to 6, are those of DEITA (Liu et al. 2023, arXiv:2312.15685), whose raters
are fine-tuned; `accuracy` from 0 to 5 is the subject of AlpaGasus (Chen et al. 2023,
arXiv:2307.08701), `helpfulness` from 1 to 5 the scale of Instruction Backtranslation (Li et al.
2023, arXiv:2308.06259). The methods `deita`, `alpagasus` and `humback` are these papers' own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import polars as pl

from pipeline.types import NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.drafts import user
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import Exchange, exchanges
from stages._llm.judging.labels import Judge, Judgement, first_error, sums_by_row
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Aspect = Literal["quality", "complexity", "accuracy", "helpfulness"]

SCALES: Final[Mapping[str, tuple[int, int]]] = {
    "quality": (1, 6),
    "complexity": (1, 6),
    "accuracy": (0, 5),
    "helpfulness": (1, 5),
}
"""The lowest and the highest grade of each aspect."""


@option_group
class Rating:
    """Grades of each aspect, without reasons, by any model.

    Adds `judge_<aspect>` for each aspect, and of several also their product `judge_product`.

    Args:
        aspects: What is graded: quality and complexity from 1 to 6, accuracy from 0 to 5,
            helpfulness from 1 to 5. Complexity is that of the request: its prompt leaves
            the answer out.
        reduction: The grade of the last answer, or the sum over all answers. The summed
            product of quality and complexity is DEITA's score of a conversation.
    """

    name: Literal["rating"] = "rating"
    aspects: Annotated[tuple[Aspect, ...], NonEmpty, Distinct] = ("quality",)
    reduction: Literal["last", "sum"] = "last"


def rate(judge: Judge, rows: pl.DataFrame, method: Rating, bias: Bias) -> pl.DataFrame:
    """The columns of `Rating`.

    Args:
        judge: The judge.
        rows: The rows to rate.
        method: The options of the method.
        bias: Counts the ratings of the first aspect.
    """
    judged = exchanges(rows, judge.view, all_answers=method.reduction == "sum")
    ratings = {f"judge_{a}": rate_aspect(judge, judged, a) for a in method.aspects}
    bias.add_ratings(judged, ratings[f"judge_{method.aspects[0]}"])
    if len(method.aspects) > 1:
        ratings["judge_product"] = [_product(each) for each in zip(*ratings.values(), strict=True)]
    return sums_by_row(len(rows), judged, ratings)


def rate_aspect(judge: Judge, judged: Sequence[Exchange], aspect: str) -> list[Judgement]:
    """One aspect's grade of each exchange.

    Args:
        judge: The judge.
        judged: The exchanges.
        aspect: A key of `SCALES`.
    """
    low, high = SCALES[aspect]
    prompts = [
        user(
            PROMPTS.render(
                aspect,
                conversation=exchange.conversation,
                response=exchange.response,
                low=low,
                high=high,
            )
        )
        for exchange in judged
    ]
    grades = {str(grade): float(grade) for grade in range(low, high + 1)}
    return judge.expected_values(judged, prompts, grades)


def _product(values: Sequence[Judgement]) -> Judgement:
    """The product of the aspects of one answer, or why one of them is missing."""
    error = first_error(values)
    return error if error is not None else math.prod(v for v in values if isinstance(v, float))
