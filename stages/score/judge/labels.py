"""Questions that are answered with one label, and what the labels' probabilities are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
from schemas.turns import View
from stages._llm.label_scores import TOP_LOGPROBS, expected_value
from stages.score.judge.exchanges import Exchange

MAX_TOKENS: Final = 4
"""Tokens of an answer, at most: it is one label."""

NO_ANSWER: Final = "there is no answer to judge"
"""The error of a row without an answer."""

Judgement = float | str
"""A judgement, or, as a text, why there is none."""


def label_requests(prompts: Sequence[str], labels: Sequence[str], seed: int) -> list[Request]:
    """Requests whose completions are one of the labels.

    Args:
        prompts: One user turn each.
        labels: What may be answered.
        seed: Enters the requests' keys.
    """
    decoding = Decoding(max_tokens=MAX_TOKENS, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    return [Request((("user", prompt),), decoding, seed) for prompt in prompts]


@dataclass
class Judge:
    """A language model that judges exchanges by labels.

    Attributes:
        engine: The language model.
        seed: Enters the requests' keys.
        view: What of a turn it sees.
        written: The rows of the exchanges whose judgement is the label that was written,
            because the engine gave no probabilities of labels.
    """

    engine: Engine
    seed: int
    view: View = "calls"
    written: set[int] = field(default_factory=set)

    def expected_values(
        self, judged: Sequence[Exchange], prompts: Sequence[str], labels: Mapping[str, float]
    ) -> list[Judgement]:
        """For each prompt the expectation over the labels' probabilities, or the error.

        Args:
            judged: The exchanges.
            prompts: One user turn for each of them.
            labels: The value of each label.
        """
        answers = ask(self.engine, label_requests(prompts, tuple(labels), self.seed))
        pairs = zip(judged, answers, strict=True)
        return [self._value(exchange, answer, labels) for exchange, answer in pairs]

    def _value(
        self, exchange: Exchange, answer: ParsedCompletion, labels: Mapping[str, float]
    ) -> Judgement:
        if answer.error is not None:
            return answer.error
        value = expected_value(answer.completion, labels)
        if value is None:
            self.written.add(exchange.row)
        return labels[answer.value] if value is None else value


def first_error(judgements: Sequence[Judgement]) -> str | None:
    """The first judgement that failed.

    >>> first_error([2.0, "no server", "cut"])
    'no server'
    """
    return next((judgement for judgement in judgements if isinstance(judgement, str)), None)


def errors_without_answers(height: int, judged: Sequence[Exchange]) -> list[str | None]:
    """By row an error where nothing was judged, for want of an answer."""
    errors: list[str | None] = [NO_ANSWER] * height
    for exchange in judged:
        errors[exchange.row] = None
    return errors


def sums_by_row(
    height: int, judged: Sequence[Exchange], judgements: Mapping[str, Sequence[Judgement]]
) -> pl.DataFrame:
    """Judgements as columns, summed over a row's answers.

    Args:
        height: The number of rows.
        judged: What was judged, in any number per row.
        judgements: By column one judgement for each of `judged`.

    Returns:
        A Float64 column for each name, and `error`: a row with a failed judgement, or
        without an answer, has failed.
    """
    errors = errors_without_answers(height, judged)
    columns = {}
    for name, values in judgements.items():
        sums: list[float | None] = [None] * height
        for exchange, value in zip(judged, values, strict=True):
            if isinstance(value, str):
                errors[exchange.row] = value
            else:
                sums[exchange.row] = (sums[exchange.row] or 0.0) + value
        columns[name] = pl.Series(sums, dtype=pl.Float64)
    return pl.DataFrame({**columns, "error": pl.Series(errors, dtype=pl.String)})
