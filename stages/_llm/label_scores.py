"""From the probabilities of a completion's first token to a number: ratings, yes or no.

A model that writes a rating gives some probability to several of them. The expected value
separates rows that the most probable rating alone would tie (DEITA, Liu et al. 2023,
arXiv:2312.15685, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Final

from pipeline.models.base import Completion

YES: Final = {"yes": 1.0, "no": 0.0}
"""The labels of a question with the answers yes and no, with their values."""

TOP_LOGPROBS: Final = 20
"""How many of the most probable tokens are requested: the most that servers return."""


def expectation(completion: Completion, labels: Mapping[str, float]) -> float | None:
    """The mean of the labels' values under the probabilities of the first token.

    Probabilities are normalized over the labels among the most probable tokens. This is
    DEITA's softmax over the logits of the scores, without anything added.

    Args:
        completion: A completion with or without log probabilities.
        labels: Each label with its value.

    Returns:
        The expected value. Without probabilities, the value of the label that the text is;
        None where the text is not a label.

    Example:
        >>> expectation(Completion("key", " yes ", "stop", 0, 1), YES)
        1.0
        >>> expectation(Completion("key", "perhaps", "stop", 0, 1), YES) is None
        True
    """
    weights: dict[str, float] = {}
    for token, logprob in completion.logprobs[0].top if completion.logprobs else ():
        label = token.strip()
        if label in labels:
            weights[label] = weights.get(label, 0.0) + exp(logprob)
    total = sum(weights.values())
    if total > 0:
        return sum(labels[label] * weight for label, weight in weights.items()) / total
    return labels.get(completion.text.strip())
