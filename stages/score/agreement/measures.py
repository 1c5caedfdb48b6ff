"""Votes counted: how many agree with a row's answer, and with each other.

The order of the votes changes nothing: answers that are the same in pairs form one group, the
largest group is the majority, and of equal ones that of the first answer in alphabetical order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.score.agreement.comparisons import Comparison, Vote


class Measured(NamedTuple):
    """What votes say of a row; a field is null where it cannot be known.

    Attributes:
        agreement: The mean agreement of the votes with the reference.
        is_majority: Whether the reference is the majority's answer.
        majority: The answer of the largest group.
        share: The part of the votes that are in it.
        entropy: Of the groups, divided by the logarithm of the number of votes: 0 where all
            agree, 1 where none do.
        votes: How many votes could be read.
        counts: Each group's answer with its votes, the largest first.
    """

    agreement: float | None = None
    is_majority: bool | None = None
    majority: str | None = None
    share: float | None = None
    entropy: float | None = None
    votes: int = 0
    counts: tuple[tuple[str, int], ...] = ()


def measure(
    comparison: Comparison, reference: str | None, votes: Sequence[Vote | None]
) -> Measured:
    """Count the votes for one row.

    Args:
        comparison: How answers are read and compared.
        reference: The answer that they are compared with; None for nothing.
        votes: The samples; None for one that holds no answer.

    Example:
        >>> from stages.score.agreement.comparisons import Exact, comparison
        >>> votes = [Vote("4"), Vote("The answer is 4."), Vote("5"), Vote("Who knows?"), None]
        >>> result = measure(comparison(Exact(), (), None), "4", votes)
        >>> result.votes, round(result.agreement, 3), result.majority, result.counts
        (3, 0.667, '4', (('4', 2), ('5', 1)))
    """
    gold = None if reference is None else comparison.read_reference(reference)
    answers = [None if vote is None else comparison.read(vote) for vote in votes]
    read = Counter(answer for answer in answers if answer is not None)
    if gold is None:
        return counted(comparison, read)
    degrees = {answer: comparison.agreement(answer, gold) for answer in sorted(read)}
    known = [(degree, read[answer]) for answer, degree in degrees.items() if degree is not None]
    result = counted(comparison, {a: n for a, n in read.items() if degrees[a] is not None})
    if not known:
        return result
    of_majority = comparison.agreement(result.majority or "", gold)
    return result._replace(
        agreement=sum(degree * number for degree, number in known) / result.votes,
        is_majority=None if of_majority is None else of_majority >= comparison.threshold,
    )


def counted(comparison: Comparison, answers: Mapping[str, int]) -> Measured:
    """The groups of some answers.

    Args:
        comparison: When two are the same.
        answers: What was read, with the number of its votes.
    """
    texts = sorted(answers)
    if not texts:
        return Measured()
    weights = np.array([answers[text] for text in texts])
    similar = comparison.same(texts)
    groups = _components(similar >= comparison.threshold)
    counts = []
    for group in groups:
        support = similar[np.ix_(group, group)] @ weights[group]
        # argmax takes the first of equal ones, and the texts are sorted.
        counts.append((texts[group[int(np.argmax(support))]], int(weights[group].sum())))
    counts.sort(key=lambda one: (-one[1], one[0]))
    total = int(weights.sum())
    return Measured(
        majority=counts[0][0],
        share=counts[0][1] / total,
        entropy=_entropy([count for _, count in counts], total),
        votes=total,
        counts=tuple(counts),
    )


def _entropy(counts: Sequence[int], total: int) -> float | None:
    """The entropy of the groups' shares, divided by the logarithm of the number of votes."""
    if total < 2:
        return None
    if len(counts) == 1:
        return 0.0
    # The same as the sum over shares, and exactly 1 where every group is one vote.
    return 1 - sum(count * log(count) for count in counts) / (total * log(total))


def _components(same: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The groups that pairs connect, each as positions in ascending order."""
    labels = np.arange(len(same))
    for i in range(len(same)):
        for label in np.unique(labels[same[i]]):
            labels[labels == label] = labels[i]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
