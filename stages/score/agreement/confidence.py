"""How sure a model is of a row's answer: what it says itself, and what it says when asked again.

CLEAR: Automated Data Curation for Robust Language Model Fine-Tuning (Chen and Mueller 2024,
arXiv:2403.12776).

As in the paper: the confidence in a row's target is that of BSDetector (Chen and Mueller 2023,
arXiv:2308.16175), by the base model: 0.7 of the observed consistency and 0.3 of self-reflection.
Consistency is over samples at temperature 1 how far each agrees with the target, by meaning (0.8)
and by being the same answer (0.2); reflection is the mean over two questions whether the target is
correct: correct 1, incorrect 0, unsure 0.5. CLEAR drops what is below the median, or replaces it
by a confidently better answer: `select.top` and `rewrite.revise`. As others report it; no code was
read.

Ours: the wording; agreement in meaning is the cosine of vectors or ROUGE-L, in the paper a
classifier of contradictions; reflection is an expectation over the probabilities of the labels;
a confidence of which either part is missing is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.models.base import Decoding, LanguageModel, Request
from pipeline.types import Count, Fraction, option_group
from stages._llm.drafts import LABEL_TOKENS, user
from stages._llm.label_scores import MIN_MASS, TOP_LOGPROBS, ask_labels, warn_of_written_labels
from stages._llm.prompts import Prompts
from stages._text.final_answer import normalized_answer
from stages.score.agreement.comparisons import Vote
from stages.score.agreement.measures import Measured
from stages.score.agreement.questions import Question, Sampler, answerable

PROMPTS: Final = Prompts(__file__)

LABELS: Final[Mapping[str, float]] = {"A": 1.0, "B": 0.0, "C": 0.5}
"""Correct, incorrect, unsure."""

QUESTIONS: Final = ("correct", "certain")
"""The prompt files of the two questions."""


@option_group
class Confidence:
    """The model's confidence in the row's answer, as of CLEAR and BSDetector.

    Adds `agreement_confidence` from 0 to 1, and of what it is made: `agreement_consistency` and
    `agreement_reflection`.

    Args:
        name: "confidence".
        num_samples: Samples for the consistency.
        consistency_weight: The weight of the consistency; that of the reflection is the rest.
        similarity_weight: Within the consistency the weight of the similarity under `rouge` and
            `embedding`; that of equal answers is the rest.
        min_mass: The least probability that the labels of a question must have together.
    """

    name: Literal["confidence"] = "confidence"
    num_samples: Count = 5
    consistency_weight: Fraction = 0.7
    similarity_weight: Fraction = 0.8
    min_mass: Fraction = MIN_MASS


@dataclass(frozen=True)
class Sureness:
    """The confidence of one row and its parts.

    Attributes:
        consistency: Of the samples with the answer; None without any that can be read.
        reflection: What the model says of the answer; None where it cannot be read.
        weight: The weight of the consistency.
    """

    consistency: float | None
    reflection: float | None
    weight: float

    @property
    def confidence(self) -> float | None:
        """Both parts together; None where one is missing."""
        if self.consistency is None or self.reflection is None:
            return None
        return self.weight * self.consistency + (1 - self.weight) * self.reflection


def reflections(
    sampler: Sampler, rows: Sequence[Question], model: LanguageModel, method: Confidence
) -> list[float | None]:
    """What the model says of each row's answer, from 0 to 1.

    Args:
        sampler: Opens the model.
        rows: The rows; keys of completions and errors are noted in them.
        model: The model.
        method: The options of the method.
    """
    results: list[float | None] = [None] * len(rows)
    asked = [question for question in answerable(rows) if (question.reference or "").strip()]
    decoding = Decoding(LABEL_TOKENS, choice=tuple(LABELS), logprobs=TOP_LOGPROBS)
    requests = [
        Request(user(_prompt(name, question)), decoding, sampler.seed)
        for question in asked
        for name in QUESTIONS
    ]
    answers = iter(ask_labels(sampler.open(model), requests, LABELS, min_mass=method.min_mass))
    written = 0
    for question in asked:
        pair = [next(answers) for _ in QUESTIONS]
        question.journal += [key for answer in pair for key in answer.journal]
        question.error = question.error or next((a.error for a in pair if a.error), None)
        values = [answer.value for answer in pair if answer.value is not None]
        if len(values) == len(QUESTIONS):
            results[question.row] = sum(values) / len(values)
            written += not all(answer.from_logprobs for answer in pair)
    warn_of_written_labels("agreement_reflection", written, len(asked))
    return results


def _prompt(name: str, question: Question) -> str:
    return PROMPTS.render(name, request=question.request, response=question.reference)


def sureness(
    question: Question,
    measured: Measured,
    reflection: float | None,
    method: Confidence,
    *,
    is_exact: bool,
) -> Sureness:
    """The confidence of one row.

    Args:
        question: The row, with its votes.
        measured: What the votes say.
        reflection: What the model says.
        method: The weights.
        is_exact: Whether the comparison itself is one of equal answers.
    """
    consistency = measured.agreement
    if consistency is not None and not is_exact:
        share = _equal_share(question)
        weight = method.similarity_weight
        consistency = weight * min(1.0, max(0.0, consistency)) + (1 - weight) * share
    return Sureness(consistency, reflection, method.consistency_weight)


def _equal_share(question: Question) -> float:
    """The part of the votes that are the reference, word by word."""
    gold = normalized_answer(question.reference or "")
    texts = [vote.text for vote in question.votes if isinstance(vote, Vote) and not vote.is_cut]
    return sum(normalized_answer(text) == gold for text in texts) / len(texts) if texts else 0.0
