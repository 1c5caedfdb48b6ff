"""A language model as a judge of rows: one module per method.

- `rating`: grades of several aspects (DEITA, AlpaGasus, Instruction Backtranslation);
- `rubric`: the part of your own criteria that the answer meets;
- `p_true`: the probability that the answer is correct (Kadavath et al. 2022);
- `pairwise`: answers to the same prompt against each other, in both orders;
- `gap`: the rating of an answer less that of another model's (CodecLM).

Deciding is a stage of its own: `select.top` or `select.response`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from stages._common.edges import require_input
from stages.score.judge.bias import Bias
from stages.score.judge.gap import Gap, rate_gap
from stages.score.judge.p_true import PTrue, rate_p_true
from stages.score.judge.pairwise import Pairwise, compare_pairs
from stages.score.judge.rating import Rating, rate
from stages.score.judge.rubric import Rubric, rate_by_rubric

Method = Annotated[Rating | Rubric | PTrue | Pairwise | Gap, Field(discriminator="name")]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    match options.method:
        case Rating(aspects=aspects):
            names = [*aspects, *(["product"] if len(aspects) > 1 else [])]
            return {f"judge_{name}": pl.Float64 for name in names}
        case Rubric():
            return {"judge_rubric": pl.Float64, "judge_met": pl.List(pl.Boolean)}
        case PTrue():
            return {"judge_p_true": pl.Float64}
        case Pairwise():
            return {"judge_wins": pl.Float64, "judge_pairs": pl.Int32}
    require_input(edges, "reference_answers", options.method.name)
    return {"judge_score": pl.Float64, "judge_against": pl.Float64, "judge_gap": pl.Float64}


@stage(
    version=1,
    scope="set",
    reads={name: ["messages", "tools"] for name in ("rows", "reference_answers")},
    adds=_adds,
    files=True,
)
def judge(
    ctx: Context,
    rows: Records,
    reference_answers: Records | None = None,
    *,
    model: LanguageModel,
    method: Method = Rating(),
    seed: int = 0,
) -> pl.DataFrame:
    """Judge the answers of rows with a language model, and measure how biased it is.

    A row without an answer, and one whose judgement fails or cannot be read, is a failed
    row. `bias.json` and `bias.md` say of pairs which share of the votes goes to the first
    place, how often both orders agree, and the share of the longer answer; of ratings the
    rank correlation of score and length.

    Args:
        rows: The rows to judge.
        reference_answers: Another model's answers to the same prompts; for the method `gap`.
        model: The judge.
        method: How to judge; each method says what columns it adds.
        seed: Enters the requests' keys: another seed asks anew.

    Returns:
        The columns of the method, and `error`.

    Raises:
        UserError: The method is `gap`, and there are no reference answers.

    Example:
        ```yaml
        rated: {uses: score.judge, needs: pool,
                with: {model: judge, method: {name: rating, aspects: [quality, complexity]}}}
        best:  {uses: select.top, needs: rated, with: {score: judge_product, budget: 1000}}
        ```
    """
    engine = ctx.open(model)
    bias = Bias()
    match method:
        case Rating():
            result = rate(engine, rows, method, seed, bias)
        case Rubric():
            result = rate_by_rubric(engine, rows, method, seed)
        case PTrue():
            result = rate_p_true(engine, rows, seed)
        case Pairwise():
            result = compare_pairs(engine, rows, method, seed, bias)
        case Gap():
            result = rate_gap(engine, rows, reference_answers, method, seed, bias)
    bias.write(ctx.files)
    return result
