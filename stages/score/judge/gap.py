"""The rating of an answer less that of another model's answer to the same prompt.

After CodecLM's Contrastive Filtering (Wang et al. 2024, arXiv:2404.05875), for answers that
exist. As in the paper: a strong model's answer and the target model's are graded, and the
difference says what the target has to learn. Ours: each answer is graded by itself, on the
scales of `rating`; in the paper the judge sees both and grades from 1 to 10, as it does in the
whole method (`rewrite.evolve` with `target`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import polars as pl

from pipeline.types import option_group
from stages._common.edges import required
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import answers_by_prompt, exchanges
from stages._llm.judging.labels import Judge, sums_by_row
from stages.score.judge.rating import Aspect, rate_aspect


@option_group
class Gap:
    """How much better an answer is than the one on the edge `reference_answers` (CodecLM).

    Adds `judge_score`, `judge_against` (the reference answer's rating) and `judge_gap`, the
    first less the second; the last two are null where the prompt has no reference answer
    (of several the first by id counts).

    Args:
        aspect: What is graded, on the scales of the method `rating`.
    """

    name: Literal["gap"] = "gap"
    aspect: Aspect = "quality"


def rate_gap(
    judge: Judge,
    rows: pl.DataFrame,
    reference_answers: pl.DataFrame | None,
    method: Gap,
    bias: Bias,
) -> pl.DataFrame:
    """The columns of `Gap`.

    Args:
        judge: The judge.
        rows: The rows to rate.
        reference_answers: Another model's answers to the same prompts.
        method: The options of the method.
        bias: Counts the ratings of `rows`.

    Raises:
        OptionError: No reference answers are connected.
    """
    answers = required(reference_answers, "reference_answers", method.name)
    judged = exchanges(rows, judge.view)
    references = answers_by_prompt(judged, answers, judge.view)
    ratings = rate_aspect(judge, judged, method.aspect)
    of_references = replace(judge, written=set(), rejected={}, failed=set())
    reference_ratings = rate_aspect(of_references, list(references.values()), method.aspect)
    written = {prompt for prompt, e in references.items() if e.row in of_references.written}
    judge.written.update(exchange.row for exchange in judged if exchange.prompt in written)
    for exchange in judged:
        reference = references.get(exchange.prompt)
        if reference is not None and reference.row in of_references.failed:
            judge.failed.add(exchange.row)
        elif reference is not None and reference.row in of_references.rejected:
            judge.rejected.setdefault(exchange.row, of_references.rejected[reference.row])
    bias.add_ratings(judged, ratings)
    by_prompt = dict(zip(references, reference_ratings, strict=True))
    by_row = {exchange.row: by_prompt.get(exchange.prompt) for exchange in judged}
    others = [by_row.get(row) for row in range(len(rows))]
    values = [None if isinstance(other, str) else other for other in others]
    errors = [other if isinstance(other, str) else None for other in others]
    return sums_by_row(len(rows), judged, {"judge_score": ratings}).select(
        "judge_score",
        pl.Series("judge_against", values, dtype=pl.Float64),
        (pl.col("judge_score") - pl.Series(values, dtype=pl.Float64)).alias("judge_gap"),
        pl.coalesce("error", pl.Series("failed", errors, dtype=pl.String)).alias("error"),
    )
