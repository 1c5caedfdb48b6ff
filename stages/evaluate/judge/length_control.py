"""The win rate that a model would have if its answers were as long as the baseline's.

In: preferences from 0 to 1, differences of length, and, where they are known, the difficulties of
the instructions. Out: the rate at a difference of 0.

AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475): a logistic regression of the preference on
tanh(difference / standard deviation of the differences) and on the difficulty of the instruction,
fitted to preferences that may lie between 0 and 1; the rate is the mean over the instructions of
what the fit says at a difference of 0. A difficulty is what a joint regression on the preferences
for other models' answers to the same instructions gives to the instruction, each model having an
ability and a slope of the length of its own. Ours: a ridge in place of cross-validated weights;
difficulties have mean 0 over the instructions, and one of which no model is known counts as mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np

_RIDGE: Final = 1.0
"""The weight of half of each squared coefficient in the loss, which is a sum over rows: ours."""

Judged = tuple[str, float, float]
"""The prompt's id, the preference for a model's answer, and the difference of length."""


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal lengths.

    Attributes:
        win_rate: From 0 to 1.
        stderr: Its standard error, which is right whether or not the regression is (sandwich);
            with difficulties, that of their mean over the instructions is in it.
        coefficient: Of the length: above 0 the judge prefers longer answers.
        difficulty: The coefficient of the difficulty: 1 for a model that it touches as it does the
            others; None where difficulties are unknown.
    """

    win_rate: float
    stderr: float
    coefficient: float
    difficulty: float | None = None


def length_controlled(
    preferences: Sequence[float],
    differences: Sequence[float],
    difficulties: Sequence[float] | None = None,
) -> LengthControlled | None:
    """Fit the regression; None where all lengths are equal, or all preferences the same.

    Args:
        preferences: For each row the share of the vote that the model's answer got.
        differences: The length of the model's answer less that of the baseline's.
        difficulties: Of the rows' instructions.

    Example:
        >>> result = length_controlled([1, 1, 0.5, 0, 0, 1], [9, 7, 0, -8, -9, 8])
        >>> result.coefficient > 0, 0.4 < result.win_rate < 0.6
        (True, True)
    """
    p = np.asarray(preferences, dtype=np.float64)
    length = np.asarray(differences, dtype=np.float64)
    if len(p) < 3 or length.std() == 0 or p.std() == 0:
        return None
    terms = [np.tanh(length / length.std(ddof=1))]
    terms += [] if difficulties is None else [np.asarray(difficulties, dtype=np.float64)]
    x = np.stack(terms, axis=1)
    fitted = _fitted(x, p)
    parameters = np.array([fitted.intercept_[0], *fitted.coef_[0]])
    design = np.column_stack([np.ones(len(p)), x])
    equal = design.copy()
    equal[:, 1] = 0.0
    predicted, at_equal = (_sigmoid(d @ parameters) for d in (design, equal))
    penalty = np.diag([0.0, *[_RIDGE] * x.shape[1]])
    curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design + penalty
    gradients = design * (p - predicted)[:, None]
    inverse = np.linalg.inv(curvature)
    covariance = inverse @ (gradients.T @ gradients) @ inverse
    slope = (equal * (at_equal * (1 - at_equal))[:, None]).mean(axis=0)
    variance = slope @ covariance @ slope + at_equal.var(ddof=1) / len(p)
    return LengthControlled(
        float(at_equal.mean()),
        sqrt(variance),
        float(parameters[1]),
        None if difficulties is None else float(parameters[2]),
    )


def _fitted(x: Any, preferences: Any) -> Any:
    """A logistic regression of preferences, dense or sparse, with a ridge."""
    from scipy.sparse import issparse, vstack
    from sklearn.linear_model import LogisticRegression

    # A preference of 0.7 counts as 0.7 of a win and 0.3 of a loss.
    outcomes = np.repeat([1, 0], len(preferences))
    twice = vstack([x, x], format="csr") if issparse(x) else np.concatenate([x, x])
    model = LogisticRegression(C=1 / _RIDGE, tol=1e-8, max_iter=2000)
    return model.fit(twice, outcomes, sample_weight=np.concatenate([preferences, 1 - preferences]))


def _sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-value))


def instruction_difficulties(models: Mapping[str, Sequence[Judged]]) -> dict[str, float]:
    """How much more often than others an instruction is won, in log odds, by prompt.

    Args:
        models: What was judged of each of several models.

    Example:
        >>> rows = [("easy", 1.0, 0.0), ("hard", 0.0, 0.0), ("easy", 1.0, 2.0), ("hard", 0.0, 1.0)]
        >>> effects = instruction_difficulties({"a": rows[:2], "b": rows[2:]})
        >>> effects["easy"] > 0 > effects["hard"]
        True
    """
    from scipy.sparse import csr_array

    rows = [(model, *row) for model, of in sorted(models.items()) for row in sorted(of)]
    preferences = np.array([row[2] for row in rows], dtype=np.float64)
    if not rows or preferences.std() == 0:
        return {}
    scale = {m: float(np.std([row[2] for row in of])) or 1.0 for m, of in models.items()}
    columns: dict[tuple[str, str], int] = {}
    cells: list[tuple[int, int, float]] = []
    for i, (model, prompt, _, difference) in enumerate(rows):
        for key, value in (
            (("model", model), 1.0),
            (("length", model), float(np.tanh(difference / scale[model]))),
            (("prompt", prompt), 1.0),
        ):
            cells.append((i, columns.setdefault(key, len(columns)), value))
    at, column, values = (np.array(part) for part in zip(*cells, strict=True))
    x = csr_array((values, (at, column)), shape=(len(rows), len(columns)))
    weights = _fitted(x, preferences).coef_[0]
    effects = {name: weights[i] for (kind, name), i in columns.items() if kind == "prompt"}
    middle = float(np.mean([*effects.values()]))
    return {prompt: float(value - middle) for prompt, value in effects.items()}
