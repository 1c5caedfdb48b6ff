"""The win rate that a model would have if its answers were as long as the baseline's.

In: preferences from 0 to 1 and differences of length. Out: the rate at a difference of 0.

A logistic regression of the preference on tanh(difference / standard deviation of the
differences), fitted to preferences that may lie between 0 and 1 (AlpacaEval 2; Dubois et al. 2024,
arXiv:2404.04475, without its term for the difficulty of an instruction, which needs the
annotations of other models).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

_RIDGE: Final = 1.0
"""The weight of half the squared length coefficient in the loss, which is a sum over rows: ours."""


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal lengths.

    Attributes:
        win_rate: From 0 to 1.
        stderr: Its standard error, which is right whether or not the regression is (sandwich).
        coefficient: Of the length: above 0 the judge prefers longer answers.
    """

    win_rate: float
    stderr: float
    coefficient: float


def length_controlled(
    preferences: Sequence[float], differences: Sequence[float]
) -> LengthControlled | None:
    """Fit the regression; None where all lengths are equal, or all preferences the same.

    Args:
        preferences: For each row the share of the vote that the model's answer got.
        differences: The length of the model's answer less that of the baseline's.

    Example:
        >>> result = length_controlled([1, 1, 0.5, 0, 0, 1], [9, 7, 0, -8, -9, 8])
        >>> result.coefficient > 0, 0.4 < result.win_rate < 0.6
        (True, True)
    """
    from sklearn.linear_model import LogisticRegression

    p = np.asarray(preferences, dtype=np.float64)
    length = np.asarray(differences, dtype=np.float64)
    if len(p) < 3 or length.std() == 0 or p.std() == 0:
        return None
    x = np.tanh(length / length.std(ddof=1))
    # A preference of 0.7 counts as 0.7 of a win and 0.3 of a loss.
    outcomes = np.repeat([1, 0], len(p))
    fitted = LogisticRegression(C=1 / _RIDGE, tol=1e-8, max_iter=1000).fit(
        np.tile(x, 2)[:, None], outcomes, sample_weight=np.concatenate([p, 1 - p])
    )
    intercept, slope = float(fitted.intercept_[0]), float(fitted.coef_[0, 0])
    rate = 1 / (1 + np.exp(-intercept))
    predicted = 1 / (1 + np.exp(-(intercept + slope * x)))
    design = np.stack([np.ones_like(x), x], axis=1)
    curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design + np.diag([0, _RIDGE])
    gradients = design * (p - predicted)[:, None]
    inverse = np.linalg.inv(curvature)
    covariance = inverse @ (gradients.T @ gradients) @ inverse
    stderr = rate * (1 - rate) * sqrt(covariance[0, 0])
    return LengthControlled(float(rate), float(stderr), slope)
