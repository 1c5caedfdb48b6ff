"""Answers to the same prompt against each other, each pair in both orders.

Zheng et al. 2023, arXiv:2306.05685.
- As in the paper: both orders are judged, against a judge that favours a position; a vote is the
  label that the judge answers, A, B or tie.
- Ours: no reasons before the verdict, the wording, and the mean of both orders: votes that
  contradict each other are half a win for either, the paper's tie. The score of an answer is its
  mean over the pairs of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from pipeline.models.ask import ask
from pipeline.types import Count, option_group
from stages._llm.drafts import Prompt, user
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import Exchange, exchanges, pairs_of_a_prompt
from stages._llm.judging.labels import (
    Judge,
    Judgement,
    errors_without_answers,
    first_error,
    label_requests,
)
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

SHARE_OF_FIRST: Final = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""The share of a vote that the answer in first place gets."""


@option_group
class Pairwise:
    """The mean share of the votes against the other answers to the same prompt.

    Adds `judge_wins`, from 0 to 1, and `judge_pairs`; `judge_wins` is null without a pair.

    Args:
        max_pairs: Pairs of one prompt, at most, the first by id; null for all.
    """

    name: Literal["pairwise"] = "pairwise"
    max_pairs: Count | None = None


def compare_pairs(judge: Judge, rows: pl.DataFrame, method: Pairwise, bias: Bias) -> pl.DataFrame:
    """The columns of `Pairwise`.

    Args:
        judge: The judge.
        rows: The rows to compare.
        method: The options of the method.
        bias: Counts the pairs.
    """
    judged = exchanges(rows, judge.view)
    pairs = pairs_of_a_prompt(judged, method.max_pairs)
    votes = _votes(judge, pairs)
    shares: list[list[float]] = [[] for _ in range(len(rows))]
    errors = errors_without_answers(len(rows), judged)
    for (one, two), first, second in zip(pairs, votes[::2], votes[1::2], strict=True):
        if isinstance(first, str) or isinstance(second, str):
            errors[one.row] = errors[two.row] = first_error((first, second))
            continue
        share = (first + 1 - second) / 2
        shares[one.row].append(share)
        shares[two.row].append(1 - share)
        bias.add_pair(first, 1 - second, (len(one.response), len(two.response)))
    means = [sum(values) / len(values) if values else None for values in shares]
    return pl.DataFrame(
        {
            "judge_wins": pl.Series(means, dtype=pl.Float64),
            "judge_pairs": pl.Series([len(values) for values in shares], dtype=pl.Int32),
            "error": pl.Series(errors, dtype=pl.String),
        }
    )


def _votes(judge: Judge, pairs: Sequence[tuple[Exchange, Exchange]]) -> list[Judgement]:
    """The share of the answer in first place, of each pair in both orders, one after the other."""
    orders = [order for one, two in pairs for order in ((one, two), (two, one))]
    prompts = [_ballot(first, second) for first, second in orders]
    requests = label_requests(prompts, tuple(SHARE_OF_FIRST), judge.seed, judge.label_tokens)
    votes: list[Judgement] = []
    for order, answer in zip(orders, ask(judge.engine, requests), strict=True):
        if answer.readable:
            votes.append(SHARE_OF_FIRST[answer.value])
        else:
            reasons = [judge.note(e.row, answer.error, answer.rejection) for e in order]
            votes.append(reasons[0])
    return votes


def _ballot(first: Exchange, second: Exchange) -> Prompt:
    text = PROMPTS.render(
        "pair",
        conversation=first.conversation,
        first=first.response,
        second=second.response,
    )
    return user(text)
