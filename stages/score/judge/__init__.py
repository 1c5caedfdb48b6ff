"""A language model as a judge of rows: one module per method.

- `rating`: grades of several aspects by any model (the scales of the next three);
- `humback`: Instruction Backtranslation's reasoned grade (Li et al. 2023);
- `alpagasus`: a score with half points, explained (Chen et al. 2023);
- `deita`: DEITA's fine-tuned scorers in their own input form (Liu et al. 2023);
- `rubric`: the part of your own criteria that the answer meets;
- `p_true`: the probability that the answer is correct (Kadavath et al. 2022);
- `pairwise`: answers to the same prompt against each other, in both orders;
- `gap`: the rating of an answer less that of another model's (CodecLM).

Deciding is a stage of its own: `select.top` or `select.response`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction
from schemas.turns import View
from stages._common.edges import require_input
from stages._llm.judging.bias import Bias
from stages._llm.judging.labels import Judge
from stages._llm.label_scores import MIN_MASS, warn_of_written_labels
from stages.score.judge.alpagasus import AlpaGasus, rate_as_alpagasus
from stages.score.judge.deita import Deita, rate_as_deita
from stages.score.judge.gap import Gap, rate_gap
from stages.score.judge.humback import Humback, rate_as_humback
from stages.score.judge.p_true import PTrue, rate_p_true
from stages.score.judge.pairwise import Pairwise, compare_pairs
from stages.score.judge.rating import Rating, rate
from stages.score.judge.rubric import Rubric, rate_by_rubric

FROM_LOGPROBS: Final = "judge_from_logprobs"
"""The column that says whether a row's judgement is an expectation over probabilities."""

Method = Annotated[
    Rating | Humback | AlpaGasus | Deita | Rubric | PTrue | Pairwise | Gap,
    Field(discriminator="name"),
]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    columns = _scores(options, edges)
    return columns | ({FROM_LOGPROBS: pl.Boolean} if _has_origin(options.method) else {})


def _has_origin(method: Method) -> bool:
    """Whether a judgement may be an expectation over probabilities."""
    return not isinstance(method, Pairwise) and not _reads_text(method)


def _reads_text(method: Method) -> bool:
    """Whether the judge gives its reasons, and the judgement is read among them."""
    match method:
        case Humback(reasons=written) | AlpaGasus(explanation=written):
            return written
    return False


def _check(options: SimpleNamespace) -> None:
    if not _reads_text(options.method):
        return
    for name, default in (("min_mass", MIN_MASS), ("samples", 1)):
        if (value := getattr(options, name)) != default:
            raise OptionError(
                *(name, f"must be left out with method: {options.method.name}, got {value}"),
                why="its score is read from the text, without probabilities",
                hint="reasons: false (alpagasus: explanation: false) in the method",
            )


def _scores(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    match options.method:
        case Rating(aspects=aspects):
            names = [*aspects, *(["product"] if len(aspects) > 1 else [])]
            return {f"judge_{name}": pl.Float64 for name in names}
        case Humback():
            return {"judge_humback": pl.Float64}
        case AlpaGasus(dimension=name):
            return {f"judge_{name}": pl.Float64}
        case Deita(aspect=name):
            return {f"judge_{name}": pl.Float64, f"judge_{name}_turns": pl.List(pl.Float64)}
        case Rubric():
            return {"judge_rubric": pl.Float64, "judge_met": pl.List(pl.Boolean)}
        case PTrue():
            return {"judge_p_true": pl.Float64}
        case Pairwise():
            return {"judge_wins": pl.Float64, "judge_pairs": pl.Int32}
    require_input(edges, "reference_answers", options.method.name)
    return {"judge_score": pl.Float64, "judge_against": pl.Float64, "judge_gap": pl.Float64}


@stage(
    version=4,
    scope="set",
    reads={name: ["messages", "tools"] for name in ("rows", "reference_answers")},
    adds=_adds,
    check=_check,
    files=True,
    later=("max_tokens", "min_mass", "samples"),
)
def judge(
    ctx: Context,
    rows: Records,
    reference_answers: Records | None = None,
    *,
    model: LanguageModel,
    method: Method = Rating(),
    view: View = "calls",
    max_tokens: Count | None = None,
    min_mass: Fraction = MIN_MASS,
    samples: Count = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """Judge the answers of rows with a language model, and measure how biased it is.

    A row without an answer, and one whose judgement fails, is a failed row; one whose
    judgement cannot be read, however often it is sampled, is dropped as `unreadable` (as
    `reasoning_unclosed` where reasoning used up all tokens). Scores are expectations over
    the probabilities of labels, in whatever spelling; where the server gives none, the label
    that was written counts, `judge_from_logprobs` is false, and the run warns of it. (Pairs
    are decided by labels alone, and `humback` and `alpagasus` read a number beside its
    reasons.) `bias.json` and `bias.md` say of pairs which share of the
    votes goes to the first place, how often both orders agree, and the share of the longer
    answer; of ratings the rank correlation of score and length.

    Args:
        rows: The rows to judge.
        reference_answers: Another model's answers to the same prompts; for the method `gap`.
        model: The judge.
        method: How to judge; each method says what columns it adds.
        view: What of a turn the judge sees: its content, the tool calls too, or all (its
            reasoning, and the definitions of the tools).
        max_tokens: Limit of an answer in tokens, by default 4 for a label, 512 for Humback's
            reasons and 256 for AlpaGasus' explanation. The model's `reasoning.max_tokens`
            comes on top.
        min_mass: The least probability that all labels together must have; with less the
            judgement cannot be read.
        samples: Answers that are sampled, for their mean, where the server gives no
            probabilities. `pairwise` reads one.
        seed: Enters the requests' keys: with another seed they are sent anew.

    Returns:
        The columns of the method, `judge_from_logprobs` for all methods but `pairwise` and
        those that read reasons, and `error`, `drop_reason` and `evidence`.

    Raises:
        UserError: The method is `gap`, and there are no reference answers.

    Example:
        ```yaml
        rated: {uses: score.judge, needs: pool,
                with: {model: judge, method: {name: rating, aspects: [quality, complexity]}}}
        best:  {uses: select.top, needs: rated, with: {score: judge_product, budget: 1000}}
        ```
    """
    opened = Judge(ctx.open(model), seed, view, max_tokens, min_mass, samples)
    bias = Bias()
    match method:
        case Rating():
            result = rate(opened, rows, method, bias)
        case Humback():
            result = rate_as_humback(opened, rows, method, bias)
        case AlpaGasus():
            result = rate_as_alpagasus(opened, rows, method, bias)
        case Deita():
            result = rate_as_deita(opened, rows, method, bias)
        case Rubric():
            result = rate_by_rubric(opened, rows, method)
        case PTrue():
            result = rate_p_true(opened, rows)
        case Pairwise():
            result = compare_pairs(opened, rows, method, bias)
        case Gap():
            result = rate_gap(opened, rows, reference_answers, method, bias)
    bias.write(ctx.files)
    result = _with_origin(result, opened.written) if _has_origin(method) else result
    return opened.verdicts(result)


def _with_origin(result: pl.DataFrame, written: set[int]) -> pl.DataFrame:
    """The result with `judge_from_logprobs`; a warning where it is false."""
    judged = result["error"].is_null()
    is_written = pl.Series([row in written for row in range(len(result))], dtype=pl.Boolean)
    warn_of_written_labels("score.judge", int((judged & is_written).sum()), int(judged.sum()))
    return result.with_columns(pl.when(judged).then(~is_written).alias(FROM_LOGPROBS))
