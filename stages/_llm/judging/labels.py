"""Questions that are answered with one label, or with reasons and a grade.

Of a label the probabilities count; a grade among reasons is read from the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import polars as pl

from pipeline.models.ask import Rejection, ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.models.structured_output import Unreadable
from schemas.turns import View
from stages._llm.drafts import Prompt
from stages._llm.judging.exchanges import Exchange
from stages._llm.label_scores import MIN_MASS, TOP_LOGPROBS, ask_labels
from stages._llm.rows import to_json

T = TypeVar("T")

MAX_TOKENS: Final = 4
"""Tokens of an answer, at most, where nothing else is said: it is one label."""

NO_ANSWER: Final = "there is no answer to judge"
"""The error of a row without an answer."""

Judgement = float | str
"""A judgement, or, as a text, why there is none."""


def label_requests(
    prompts: Sequence[Prompt], labels: Sequence[str], seed: int, max_tokens: int = MAX_TOKENS
) -> list[Request]:
    """Requests whose completions are one of the labels.

    Args:
        prompts: Turns, or a text to continue.
        labels: What may be answered.
        seed: Enters the requests' keys.
        max_tokens: Tokens of an answer, reasoning included.
    """
    decoding = Decoding(max_tokens=max_tokens, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    return [Request(prompt, decoding, seed) for prompt in prompts]


@dataclass
class Judge:
    """A language model that judges exchanges by labels.

    Attributes:
        engine: The language model.
        seed: Enters the requests' keys.
        view: What of a turn it sees.
        max_tokens: Tokens of an answer, reasoning included; None for what the method needs.
        min_mass: The least probability of all labels together.
        samples: Answers that are sampled where the engine gives no probabilities.
        written: The rows of the exchanges whose judgement is the label that was written,
            because the engine gave no probabilities of labels.
        rejected: Rows that have an answer which is no label, with the reason.
        failed: Rows of which a question was not answered.
    """

    engine: Engine
    seed: int
    view: View = "calls"
    max_tokens: int | None = None
    min_mass: float = MIN_MASS
    samples: int = 1
    written: set[int] = field(default_factory=set)
    rejected: dict[int, Rejection] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @property
    def label_tokens(self) -> int:
        """Limit in tokens of an answer that is one label."""
        return self.max_tokens or MAX_TOKENS

    def written_values(
        self,
        judged: Sequence[Exchange],
        prompts: Sequence[Prompt],
        parse: Callable[[str], float | None],
        max_tokens: int,
    ) -> list[Judgement]:
        """For each prompt the grade in the text of the answer, or the error.

        Args:
            judged: The exchanges.
            prompts: The turns of the question about each of them.
            parse: From an answer to its grade; None where there is none, however often it is
                sampled anew.
            max_tokens: Tokens of an answer, where nothing else is said.
        """

        values = self.read_texts(judged, prompts, parse, max_tokens)
        return [value if isinstance(value, str) else float(value) for value in values]

    def read_texts(
        self,
        judged: Sequence[Exchange],
        prompts: Sequence[Prompt],
        parse: Callable[[str], T | None],
        max_tokens: int,
    ) -> list[T | str]:
        """For each prompt what is read in the text of the answer, or the error as a text.

        Args:
            judged: The exchanges.
            prompts: The turns of the question about each of them.
            parse: From an answer to a value that is no text; None where there is none.
            max_tokens: Tokens of an answer, where nothing else is said.
        """

        def grade(text: str) -> T:
            value = parse(text)
            if value is None:
                raise Unreadable("the answer must hold a grade where it was asked for")
            return value

        decoding = Decoding(self.max_tokens or max_tokens)
        requests = [Request(prompt, decoding, self.seed) for prompt in prompts]
        answers = ask(self.engine, requests, parse=grade, repair=False)
        return [
            answer.value
            if answer.readable
            else self.note(exchange.row, answer.error, answer.rejection)
            for exchange, answer in zip(judged, answers, strict=True)
        ]

    def expected_values(
        self,
        judged: Sequence[Exchange],
        prompts: Sequence[Prompt],
        labels: Mapping[str, float],
    ) -> list[Judgement]:
        """For each prompt the expectation over the labels' probabilities, or the error.

        Args:
            judged: The exchanges.
            prompts: The question about each of them: turns, or a text to continue.
            labels: The value of each label.
        """
        requests = label_requests(prompts, tuple(labels), self.seed, self.label_tokens)
        answers = ask_labels(
            self.engine, requests, labels, min_mass=self.min_mass, samples=self.samples
        )
        values: list[Judgement] = []
        for exchange, answer in zip(judged, answers, strict=True):
            if answer.value is None:
                values.append(self.note(exchange.row, answer.error, answer.rejection))
                continue
            if not answer.from_logprobs:
                self.written.add(exchange.row)
            values.append(answer.value)
        return values

    def note(self, row: int, error: str | None, rejection: Rejection | None) -> str:
        """Remember why a row has no judgement.

        Args:
            row: The row.
            error: Why a question was not answered.
            rejection: Why its answer is no label.

        Returns:
            The reason, as a judgement.
        """
        if error is not None:
            self.failed.add(row)
            return error
        reason, evidence = rejection or ("unreadable", {})
        self.rejected.setdefault(row, (reason, evidence))
        return reason

    def verdicts(self, result: pl.DataFrame) -> pl.DataFrame:
        """The result with `drop_reason` and `evidence` in the place of errors that are none.

        Args:
            result: One row for each row, with `error`.
        """
        dropped = [
            self.rejected.get(row) if error is not None and row not in self.failed else None
            for row, error in enumerate(result["error"])
        ]
        return result.with_columns(
            pl.Series("drop_reason", [d and d[0] for d in dropped], dtype=pl.String),
            pl.Series("evidence", [d and to_json(d[1]) for d in dropped], dtype=pl.String),
            pl.when(pl.Series([d is None for d in dropped], dtype=pl.Boolean)).then("error"),
        )


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
