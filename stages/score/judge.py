"""What a language model thinks of the rows: ratings, criteria, truth, pairs, gaps.

- `rating`: each aspect on a scale, as the expectation over the probabilities of the
  scale's tokens: DEITA (Liu et al. 2023, arXiv:2312.15685) with `quality` and
  `complexity` from 1 to 6, summed over turns on demand; `accuracy` from 0 to 5 is
  AlpaGasus (Chen et al. 2023, arXiv:2307.08701), `helpfulness` from 1 to 5 the scale of
  Instruction Backtranslation (arXiv:2308.06259).
- `rubric`: the part of your criteria that the answer meets.
- `p_true`: the probability of "True" against "False" for "is the answer correct?"
  (Kadavath et al. 2022, arXiv:2207.05221; Inverse-Instruct, arXiv:2407.05700, with yes
  and no).
- `pairwise`: answers to the same prompt against each other, in both orders.
- `gap`: the rating of a row less that of another model's answer to its prompt, on the
  edge `against`: CodecLM's contrastive filter (arXiv:2404.05875).

Deciding is a stage of its own: `select.top` or `select.response`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, LanguageModel, Request
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._llm.label_scores import TOP_LOGPROBS, YES, expectation
from stages._llm.prompts import Prompts
from stages.score._judging import Bias
from stages.score._talks import Talk, answers_of, pairs_of, talks

PROMPTS: Final = Prompts(__file__)

Method = Literal["rating", "rubric", "p_true", "pairwise", "gap"]
Aspect = Literal["quality", "complexity", "accuracy", "helpfulness"]

SCALES: Final[Mapping[str, tuple[int, int]]] = {
    "quality": (1, 6),
    "complexity": (1, 6),
    "accuracy": (0, 5),
    "helpfulness": (1, 5),
}
_TRUTH: Final = {"True": 1.0, "False": 0.0}
_ANSWER: Final = 4
"""Tokens of an answer, at most: it is one label."""
_VERDICT: Final = {"A": 1.0, "B": 0.0, "tie": 0.5}


def _check(options: SimpleNamespace) -> None:
    if options.method == "rubric" and not options.criteria:
        raise UserError("a rubric needs criteria", hint="criteria: [The answer names its source.]")
    if options.method in ("rating", "gap") and not options.aspects:
        raise UserError("there is nothing to rate", hint="aspects: [quality]")
    if options.method == "gap" and len(options.aspects) != 1:
        raise UserError("a gap is one of a single aspect", hint="aspects: [quality]")
    method = options.method
    refuse_idle(
        *(judge, options),
        (method == "rubric", "method: rubric", "criteria"),
        (method in ("rating", "gap"), "the methods rating and gap", "aspects"),
        (method == "rating", "method: rating", "turns"),
        (method == "pairwise", "method: pairwise", "most_pairs"),
    )


def _adds(options: SimpleNamespace, _edges: Any) -> dict[str, Any]:
    if options.method == "rating":
        names = [*options.aspects, *(["product"] if len(options.aspects) > 1 else [])]
        return {f"judge_{name}": pl.Float64 for name in names}
    adds: dict[str, dict[str, Any]] = {
        "rubric": {"judge_rubric": pl.Float64, "judge_met": pl.List(pl.Boolean)},
        "p_true": {"judge_p_true": pl.Float64},
        "pairwise": {"judge_wins": pl.Float64, "judge_pairs": pl.Int32},
        "gap": {"judge_score": pl.Float64, "judge_against": pl.Float64, "judge_gap": pl.Float64},
    }
    return adds[options.method]


@stage(
    version=1,
    scope="set",
    reads={"rows": ["messages"], "against": ["messages"]},
    adds=_adds,
    files=True,
    check=_check,
)
def judge(
    ctx: Context,
    rows: Records,
    against: Records | None = None,
    *,
    model: LanguageModel,
    method: Method = "rating",
    aspects: tuple[Aspect, ...] = ("quality",),
    criteria: tuple[str, ...] = (),
    turns: Literal["last", "sum"] = "last",
    most_pairs: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Add what the judge says, and write how biased it is into `bias.json` and `bias.md`.

    rating: `judge_<aspect>` for each aspect, and of several also their product
        `judge_product`. turns: the last answer, or the sum over all answers; the sum of
        the products of quality and complexity is DEITA's score of a conversation.
    rubric: `judge_rubric`, the part of the criteria that is met, and `judge_met`.
    p_true: `judge_p_true`, from 0 to 1.
    pairwise: `judge_wins`, the mean share that the answer gets against the other answers
        to its prompt, each asked in both orders, and `judge_pairs`; null without any.
        most_pairs: at most so many pairs of one prompt, the first by id.
    gap: `judge_score`, `judge_against` and `judge_gap`, the first less the second; null
        where `against` has no answer to the prompt (of several the first by id counts).

    A row without an answer, and one whose judgement cannot be had or read, has failed.
    Biases: of pairs, the share of the votes that goes to the first place, how often both
    orders agree, and the share of the longer answer; of ratings, the rank correlation
    of score and length.
    """
    engine = ctx.open(model)
    bias = Bias()
    if method == "rating":
        found = _rate(engine, rows, aspects, turns, seed, bias)
    elif method == "rubric":
        found = _by_rubric(engine, rows, criteria, seed)
    elif method == "p_true":
        values = _ask_each(engine, "true", talks(rows), _TRUTH, seed)
        found = _columns(len(rows), {"judge_p_true": values}, talks(rows))
    elif method == "pairwise":
        found = _compare(engine, rows, most_pairs, seed, bias)
    else:
        found = _gap(engine, rows, against, aspects[0], seed, bias)
    bias.write(ctx.files)
    return found


Value = float | str
"""A judgement, or, as a text, why there is none."""


def _ask_each(
    engine: Engine,
    name: str,
    of: Sequence[Talk],
    labels: Mapping[str, float],
    seed: int,
    **values: Any,
) -> list[Value]:
    """One question about each talk, answered by one of the labels."""
    requests = [
        _request(
            PROMPTS.render(
                f"{name}",
                conversation=talk.conversation,
                response=talk.response,
                **values,
            ),
            labels,
            seed,
        )
        for talk in of
    ]
    return [_value(answer, labels) for answer in ask(engine, requests)]


def _request(text: str, labels: Mapping[str, float], seed: int) -> Request:
    decoding = Decoding(max_tokens=_ANSWER, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    return Request((("user", text),), decoding, seed)


def _value(answer: ParsedCompletion, labels: Mapping[str, float]) -> Value:
    if answer.error is not None:
        return answer.error
    found = expectation(answer.completion, labels)
    return labels[answer.value] if found is None else found


def _scale(aspect: str) -> dict[str, float]:
    low, high = SCALES[aspect]
    return {str(n): float(n) for n in range(low, high + 1)}


def _rated(engine: Engine, of: Sequence[Talk], aspect: str, seed: int) -> list[Value]:
    low, high = SCALES[aspect]
    return _ask_each(engine, aspect, of, _scale(aspect), seed, low=low, high=high)


def _rate(
    engine: Engine,
    rows: pl.DataFrame,
    aspects: Sequence[str],
    turns: str,
    seed: int,
    bias: Bias,
) -> pl.DataFrame:
    of = talks(rows, every=turns == "sum")
    found = {f"judge_{aspect}": _rated(engine, of, aspect, seed) for aspect in aspects}
    values = found[f"judge_{aspects[0]}"]
    _note_lengths(bias, of, values)
    if len(aspects) > 1:
        found["judge_product"] = [_product(each) for each in zip(*found.values(), strict=True)]
    return _columns(len(rows), found, of)


def _product(values: Sequence[Value]) -> Value:
    """The product of the aspects of one answer, or why one of them is missing."""
    failed = next((value for value in values if isinstance(value, str)), None)
    return failed if failed is not None else math.prod(v for v in values if isinstance(v, float))


def _note_lengths(bias: Bias, of: Sequence[Talk], values: Sequence[Value]) -> None:
    for talk, value in zip(of, values, strict=True):
        if not isinstance(value, str):
            bias.scores.append(value)
            bias.lengths.append(len(talk.response))


def _columns(height: int, found: Mapping[str, Sequence[Value]], of: Sequence[Talk]) -> pl.DataFrame:
    """Judgements by row, summed over its answers; a row with a failure, or without any, failed."""
    errors: list[str | None] = ["there is no answer to judge"] * height
    for talk in of:
        errors[talk.row] = None
    columns = {}
    for name, values in found.items():
        sums: list[float | None] = [None] * height
        for talk, value in zip(of, values, strict=True):
            if isinstance(value, str):
                errors[talk.row] = value
            else:
                sums[talk.row] = (sums[talk.row] or 0.0) + value
        columns[name] = pl.Series(sums, dtype=pl.Float64)
    return pl.DataFrame({**columns, "error": pl.Series(errors, dtype=pl.String)})


def _by_rubric(
    engine: Engine, rows: pl.DataFrame, criteria: Sequence[str], seed: int
) -> pl.DataFrame:
    of = talks(rows)
    found = {
        criterion: _ask_each(engine, "criterion", of, YES, seed, criterion=criterion)
        for criterion in criteria
    }
    frame = _columns(len(rows), found, of)
    met = [[x is not None and x > 0.5 for x in row] for row in frame.select(criteria).rows()]
    whole = np.mean([[bool(x) for x in row] for row in met] or np.zeros((0, 1)), axis=1)
    return pl.DataFrame(
        {
            "judge_rubric": pl.Series(whole, dtype=pl.Float64),
            "judge_met": pl.Series(met, dtype=pl.List(pl.Boolean)),
            "error": frame["error"],
        }
    ).with_columns(pl.when(pl.col("error").is_null()).then(pl.col("judge_rubric", "judge_met")))


def _compare(
    engine: Engine, rows: pl.DataFrame, most: int | None, seed: int, bias: Bias
) -> pl.DataFrame:
    """All pairs of answers to one prompt, each in both orders."""
    of = talks(rows)
    pairs = pairs_of(of, most)
    orders = [order for one, two in pairs for order in ((one, two), (two, one))]
    requests = [_request(_ballot(first, second), _VERDICT, seed) for first, second in orders]
    votes = [
        answer.error if answer.error is not None else _VERDICT[answer.value]
        for answer in ask(engine, requests)
    ]
    shares: list[list[float]] = [[] for _ in range(len(rows))]
    errors: list[str | None] = ["there is no answer to judge"] * len(rows)
    for talk in of:
        errors[talk.row] = None
    for (one, two), first, second in zip(pairs, votes[::2], votes[1::2], strict=True):
        failed = next((vote for vote in (first, second) if isinstance(vote, str)), None)
        if failed is not None:
            errors[one.row] = errors[two.row] = failed
        elif not isinstance(first, str) and not isinstance(second, str):
            share = (first + 1 - second) / 2
            shares[one.row].append(share)
            shares[two.row].append(1 - share)
            bias.pair(first, 1 - second, (len(one.response), len(two.response)))
    means = [sum(found) / len(found) if found else None for found in shares]
    return pl.DataFrame(
        {
            "judge_wins": pl.Series(means, dtype=pl.Float64),
            "judge_pairs": pl.Series([len(found) for found in shares], dtype=pl.Int32),
            "error": pl.Series(errors, dtype=pl.String),
        }
    )


def _ballot(first: Talk, second: Talk) -> str:
    return PROMPTS.render(
        "pair",
        conversation=first.conversation,
        first=first.response,
        second=second.response,
    )


def _gap(
    engine: Engine,
    rows: pl.DataFrame,
    against: pl.DataFrame | None,
    aspect: str,
    seed: int,
    bias: Bias,
) -> pl.DataFrame:
    """Ratings of the rows and of the other model's answers to the same prompts."""
    if against is None:
        raise UserError(
            "method gap compares with another model's answers",
            hint="needs: {rows: ONE, against: STAGE WITH THE OTHER ANSWERS}",
        )
    of = talks(rows)
    others = answers_of(of, against)
    mine = _rated(engine, of, aspect, seed)
    theirs = dict(zip(others, _rated(engine, list(others.values()), aspect, seed), strict=True))
    _note_lengths(bias, of, mine)
    pairs = {talk.row: theirs.get(talk.prompt) for talk in of}
    frame = _columns(len(rows), {"judge_score": mine}, of)
    other = [pairs.get(row) for row in range(len(rows))]
    values = [None if isinstance(value, str) else value for value in other]
    failed = [value if isinstance(value, str) else None for value in other]
    return frame.select(
        "judge_score",
        pl.Series("judge_against", values, dtype=pl.Float64),
        (pl.col("judge_score") - pl.Series(values, dtype=pl.Float64)).alias("judge_gap"),
        pl.coalesce("error", pl.Series("failed", failed, dtype=pl.String)).alias("error"),
    )
