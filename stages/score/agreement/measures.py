"""Votes counted: how many agree with a row's answer, and with each other.

The order of the votes changes nothing: answers that are the same in pairs form one group, the
largest group is the majority, and of equal ones that of the first answer in alphabetical order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    gold = None if reference is None else comparison.read(Vote(reference))
    answers = [None if vote is None else comparison.read(vote) for vote in votes]
    read = [answer for answer in answers if answer is not None]
    if gold is None:
        return counted(comparison, Counter(read))
    degrees = [comparison.agreement(answer, gold) for answer in read]
    known = [degree for degree in degrees if degree is not None]
    valid = Counter(a for a, degree in zip(read, degrees, strict=True) if degree is not None)
    result = counted(comparison, valid)
    if not known:
        return result
    of_majority = comparison.agreement(result.majority or "", gold)
    return result._replace(
        agreement=sum(sorted(known)) / len(known),
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
    shares = np.array([count for _, count in counts]) / total
    entropy = abs(float(-(shares * np.log(shares)).sum())) / np.log(total) if total > 1 else None
    return Measured(
        majority=counts[0][0],
        share=float(shares[0]),
        entropy=entropy,
        votes=total,
        counts=tuple(counts),
    )


def _components(same: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The groups that pairs connect, each as positions in ascending order."""
    labels = np.arange(len(same))
    for i in range(len(same)):
        for label in np.unique(labels[same[i]]):
            labels[labels == label] = labels[i]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
