"""From the probabilities of a completion's first token to a number: ratings, yes or no.

A model that writes a rating gives some probability to several of them. The expected value
separates rows that the most probable rating alone would tie (DEITA, Liu et al. 2023,
arXiv:2312.15685, section 3).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import exp
from typing import Final

from pipeline.models.base import Completion

_log = logging.getLogger(__name__)

YES: Final = {"yes": 1.0, "no": 0.0}
"""The labels of a question with the answers yes and no, with their values."""

TOP_LOGPROBS: Final = 20
"""How many of the most probable tokens are requested: the most that servers return."""


def expected_value(completion: Completion, labels: Mapping[str, float]) -> float | None:
    """The mean of the labels' values under the probabilities of the first token.

    Probabilities are normalized over the labels among the most probable tokens. This is
    DEITA's softmax over the logits of the scores, without anything added.

    Args:
        completion: A completion with or without log probabilities.
        labels: Each label with its value.

    Returns:
        The expected value; None without the probability of any label, as from servers that
        ignore the request for them. Then there is only the label that was written.

    Example:
        >>> from pipeline.models.base import TokenLogprobs
        >>> top = TokenLogprobs("yes", -0.7, (("yes", -0.7), (" no", -0.7)))
        >>> expected_value(Completion("key", "yes", "stop", 0, 1, logprobs=(top,)), YES)
        0.5
        >>> expected_value(Completion("key", "yes", "stop", 0, 1), YES) is None
        True
    """
    weights: dict[str, float] = {}
    for token, logprob in completion.logprobs[0].top if completion.logprobs else ():
        label = token.strip()
        if label in labels:
            weights[label] = weights.get(label, 0.0) + exp(logprob)
    total = sum(weights.values())
    if total == 0:
        return None
    return sum(labels[label] * weight for label, weight in weights.items()) / total


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
