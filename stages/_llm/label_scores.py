"""From the probabilities of an answer's first token to a number: ratings, yes or no.

A model that writes a rating gives some probability to several of them. The expected value
separates rows that the most probable rating alone would tie (DEITA, Liu et al. 2023,
arXiv:2312.15685, section 3).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Final

from pipeline.models.ask import ParsedCompletion, Rejection, ask
from pipeline.models.base import Completion, Engine, Request, TokenLogprobs
from pipeline.models.structured_output import Unreadable

_log = logging.getLogger(__name__)

YES: Final = {"yes": 1.0, "no": 0.0}
"""The labels of a question with the answers yes and no, with their values."""

TOP_LOGPROBS: Final = 20
"""How many of the most probable tokens are requested: the most that servers return."""


MIN_MASS: Final = 0.5
"""The least probability that all labels together must have."""

SAMPLING_TEMPERATURE: Final = 1.0
"""Of the samples whose mean stands in for probabilities."""

_MAX_SHARED: Final = 0.01
"""The most probability of tokens that begin several labels, of which none can be said."""

_SPACE: Final = " \t\r\n▁ĠĊ"
"""White space, also as vocabularies write it."""


@dataclass(frozen=True)
class LabelAnswer:
    """What a model answered to a question with labels.

    Args:
        value: The expected value of the labels; None where there is an error or a rejection.
        from_logprobs: Whether it is an expectation over probabilities.
        journal: The keys of all completions that it was read from.
        error: Why there is no answer.
        rejection: Why the answer is no label.
        fallback: The model that answered in the place of the first one.
        probabilities: The probability of each label; without probabilities the part of the
            samples that wrote it, or 1 for the one that was written. Empty without a value.
    """

    value: float | None
    from_logprobs: bool
    journal: list[str]
    error: str | None = None
    rejection: Rejection | None = None
    fallback: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)


def ask_labels(
    engine: Engine,
    requests: Sequence[Request],
    labels: Mapping[str, float],
    *,
    min_mass: float = MIN_MASS,
    samples: int = 1,
) -> list[LabelAnswer]:
    """Have questions answered by labels, and take the expectation of their values.

    Without probabilities it is the value of the label that was written, or the mean of
    several samples.

    Args:
        engine: Where the requests are sent, all at once.
        requests: The questions, whose decoding names the labels as `choice`.
        labels: Each label with its value.
        min_mass: The least probability of all labels together; with less the answer is
            unreadable.
        samples: Answers that are sampled where the engine gives no probabilities.
    """

    def check(completion: Completion) -> object:
        return expected_value(completion, labels, min_mass)

    answers = ask(engine, requests, check=check)
    read = [_read(answer, labels, min_mass) for answer in answers]
    unknown = [i for i, a in enumerate(read) if a.value is not None and not a.from_logprobs]
    if samples > 1 and unknown:
        means = _sampled(engine, [requests[i] for i in unknown], labels, samples)
        for i, mean in zip(unknown, means, strict=True):
            read[i] = replace(mean, journal=[*read[i].journal, *mean.journal])
    return read


def _read(answer: ParsedCompletion, labels: Mapping[str, float], min_mass: float) -> LabelAnswer:
    result = LabelAnswer(None, False, answer.journal, answer.error, answer.rejection)
    if not answer.readable:
        return replace(result, fallback=answer.fallback)
    value = expected_value(answer.completion, labels, min_mass)
    parts = label_probabilities(answer.completion, labels, min_mass)
    if value is None or parts is None:
        value, parts = labels[answer.value], None
    return replace(
        result,
        value=value,
        from_logprobs=parts is not None,
        fallback=answer.fallback,
        probabilities=parts or {answer.value: 1.0},
    )


def _sampled(
    engine: Engine, requests: Sequence[Request], labels: Mapping[str, float], samples: int
) -> list[LabelAnswer]:
    """For each request the mean over its readable samples."""
    drawn = [
        replace(
            request,
            decoding=replace(request.decoding, temperature=SAMPLING_TEMPERATURE),
            sample=request.sample * samples + number,
        )
        for request in requests
        for number in range(samples)
    ]
    answers = ask(engine, drawn)
    means = []
    for start in range(0, len(answers), samples):
        own = answers[start : start + samples]
        journal = [key for answer in own for key in answer.journal]
        written = [answer.value for answer in own if answer.readable]
        error = next((a.error for a in own if a.error is not None), None)
        if error is not None or not written:
            means.append(LabelAnswer(None, False, journal, error, own[0].rejection))
        else:
            mean = sum(labels[label] for label in written) / len(written)
            parts = {label: number / len(written) for label, number in Counter(written).items()}
            fallback = next((a.fallback for a in own if a.fallback), None)
            means.append(LabelAnswer(mean, False, journal, fallback=fallback, probabilities=parts))
    return means


def expected_value(
    completion: Completion, labels: Mapping[str, float], min_mass: float = MIN_MASS
) -> float | None:
    """The mean of the labels' values under the probabilities of the answer's first token.

    The probability of a label is that of all tokens that spell it, whatever their case or the
    space before it. They are normalized over the labels among the most probable tokens:
    DEITA's softmax over the logits of the scores, without anything added.

    Args:
        completion: A completion with or without log probabilities.
        labels: Each label with its value.
        min_mass: The least probability of all labels together.

    Returns:
        The expected value; None without probabilities, as from servers that ignore the
        request for them. Then there is only the label that was written.

    Raises:
        Unreadable: The labels have less than `min_mass`.

    Example:
        >>> from pipeline.models.base import TokenLogprobs
        >>> top = TokenLogprobs("Yes", -0.01, (("Yes", -0.01), ("No", -5.0), (" no", -7.0)))
        >>> round(expected_value(Completion("key", "Yes", "stop", 0, 1, logprobs=(top,)), YES), 3)
        0.992
        >>> expected_value(Completion("key", "yes", "stop", 0, 1), YES) is None
        True
    """
    weights = _checked_weights(completion, labels, min_mass)
    if not weights:
        return None
    return sum(labels[label] * weight for label, weight in weights.items()) / sum(weights.values())


def label_probabilities(
    completion: Completion, labels: Collection[str], min_mass: float = MIN_MASS
) -> dict[str, float] | None:
    """The probability of each label that has any; see `expected_value`.

    Args:
        completion: A completion with or without log probabilities.
        labels: The labels.
        min_mass: The least probability of all labels together.

    Returns:
        Parts of 1; None without probabilities, and where the first token may begin several
        labels (a vocabulary of single digits writes 1 and 10 with the same one).

    Raises:
        Unreadable: The labels have less than `min_mass`.

    Example:
        >>> from pipeline.models.base import TokenLogprobs
        >>> top = TokenLogprobs("1", -0.01, (("1", -0.01), ("7", -5.0)))
        >>> answer = Completion("key", "1", "stop", 0, 1, logprobs=(top,))
        >>> label_probabilities(answer, ["1", "7", "10"]) is None
        True
        >>> round(label_probabilities(answer, ["1", "7"])["1"], 3)
        0.993
    """
    weights = _checked_weights(completion, labels, min_mass)
    if not weights:
        return None
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def _checked_weights(
    completion: Completion, labels: Collection[str], min_mass: float
) -> dict[str, float] | None:
    """The probabilities of the labels before they are normalized; None without any."""
    first = next((entry for entry in completion.logprobs if entry.token.strip(_SPACE)), None)
    if first is None or not first.top:
        return None
    weights, shared = _weights(first, completion.text, labels)
    if shared > _MAX_SHARED:
        return None
    total = sum(weights.values())
    if total < min_mass:
        raise Unreadable("the answer must be one of: " + ", ".join(labels))
    return weights if total else None


def _weights(
    first: TokenLogprobs, text: str, labels: Collection[str]
) -> tuple[dict[str, float], float]:
    """The probability of each label, that of the tokens that spell it; and of shared beginnings."""
    spelled = {_bare(label): label for label in labels}
    tokens = {_bare(token) for token, _ in first.top}
    weights: dict[str, float] = {}
    shared = 0.0
    for token, logprob in first.top:
        label = spelled.get(_bare(token))
        if label is not None and _begins_more(_bare(token), spelled, tokens):
            shared += exp(logprob)
        elif label is not None:
            weights[label] = weights.get(label, 0.0) + exp(logprob)
    written = spelled.get(_bare(text))
    if written is not None and _bare(first.token) not in spelled:
        # A label of several tokens, of which this is the first.
        weights[written] = weights.get(written, 0.0) + exp(first.logprob)
        if _begins_more(_bare(first.token), [name for name in spelled if name != _bare(text)], ()):
            shared += exp(first.logprob)
    return weights, shared


def _begins_more(token: str, labels: Collection[str], tokens: Collection[str]) -> bool:
    """Whether a token begins a longer label, which no token spells whole."""
    return any(
        label.startswith(token) and label != token and label not in tokens for label in labels
    )


def _bare(text: str) -> str:
    return text.strip(_SPACE).casefold()


def warn_of_written_labels(subject: str, written: int, total: int) -> None:
    """Warn that scores are labels as they were written, and no expected values.

    Args:
        subject: What was scored.
        written: How many scores are.
        total: Of how many.
    """
    if written:
        _log.warning(
            "%s: %d of %d scores are the label as it was written, because the server gave no "
            "log probabilities: equal labels are ties; use one that returns logprobs, such as "
            "vllm serve",
            subject,
            written,
            total,
        )
