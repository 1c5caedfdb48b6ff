"""From the probabilities of an answer's first token to a number: ratings and yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Final

from pipeline.models.base import Completion

YES: Final = {"yes": 1.0, "no": 0.0}

TOP_LOGPROBS: Final = 20
"""The most probable tokens that are looked at: as many as servers give."""


def expectation(completion: Completion, labels: Mapping[str, float]) -> float | None:
    """The mean of the labels' values under the probabilities of the answer's first token.

    Probabilities are normalised over the labels that are among the most probable
    tokens, which is DEITA's softmax over the scores' logits with nothing added. Where
    there are no probabilities, the label that the answer is; None where it is none.
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
