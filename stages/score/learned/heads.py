"""Heads on vectors and columns: a classifier, a regressor and a comparison of pairs.

All are linear over standardized features, by scikit-learn, and are fitted in the order of the
ids on one thread, so that the order of the rows changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import option_group
from stages._selection.scores import Expression
from stages.score.learned.labels import Floats, Trained

FOLDS: Final = 5
"""Folds of the training rows on which a classifier is calibrated."""

MAX_ITERATIONS: Final = 1000


@option_group
class Classifier(Trained):
    """The probability of a label of two values: logistic regression.

    `learned` is the probability that the label is 1 (true).

    Args:
        calibration: How scores become probabilities, on folds of the training rows: `platt` (a
            sigmoid), `isotonic` (any increasing function; needs about 1,000 rows), or `none`,
            the regression's own.
        similarity: Whether `learned_similarity` is added: the largest cosine of the row's
            features with those of a training row whose label is 1 (IterSelectTune).
    """

    name: Literal["classifier"] = "classifier"
    calibration: Literal["platt", "isotonic", "none"] = "platt"
    similarity: bool = False


@option_group
class Regressor(Trained):
    """The expected label: ridge regression.

    Args:
        advantage: What the prediction is subtracted from: a column or an SQL expression over
            columns of the rows to score. Adds `learned_advantage`, and `learned_priority`, its
            positive part over the sum of these (A-LoL).
    """

    name: Literal["regressor"] = "regressor"
    advantage: Expression | None = None


@option_group
class Pairs(Trained):
    """A reward whose differences say which of two answers is better: Bradley and Terry's model.

    Rows of one group that differ in their labels are pairs; the larger label is the better one.
    `learned` has no zero of its own: only differences count.
    """

    name: Literal["pairs"] = "pairs"


Predict = Callable[[Floats], Floats]
"""From features of shape (rows, features) to scores of shape (rows,)."""


def fit(method: Trained, features: Floats, labels: Floats, groups: NDArray[np.int64]) -> Predict:
    """Train a head.

    Args:
        method: Which one.
        features: Shape (rows, features), without NaN.
        labels: Shape (rows,).
        groups: The number of each row's group, shape (rows,).

    Raises:
        UserError: The training rows cannot teach it.
    """
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        scaler = StandardScaler().fit(features)
        match method:
            case Classifier():
                head = _classifier(method, scaler.transform(features), labels, groups)
            case Pairs():
                head = _comparison(method, scaler.transform(features), labels, groups)
            case _:
                head = _regressor(method, scaler.transform(features), labels)

    def predict(new: Floats) -> Floats:
        with threadpool_limits(1):
            return head(scaler.transform(new)) if len(new) else np.zeros(0)

    return predict


def pairs_within(labels: Floats, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs of rows of one group whose labels differ, the better one first: shape (pairs, 2).

    >>> pairs_within(np.array([0.0, 1.0, 1.0]), np.array([4, 4, 7])).tolist()
    [[1, 0]]
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    parts: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    # A loop, because groups differ in size; all pairs of one are compared at once.
    for members in np.split(order, starts[1:]):
        better, worse = np.nonzero(labels[members][:, None] > labels[members][None, :])
        parts.append(np.stack([members[better], members[worse]], axis=1))
    return np.concatenate(parts)


def _classifier(
    method: Classifier, features: Floats, labels: Floats, groups: NDArray[np.int64]
) -> Predict:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=1 / method.regularization, max_iter=MAX_ITERATIONS)
    if method.calibration != "none":
        kind = "isotonic" if method.calibration == "isotonic" else "sigmoid"
        splits = _folds(labels, groups)
        model = CalibratedClassifierCV(model, method=kind, cv=splits, ensemble=False)
    fitted = model.fit(features, labels.astype(np.int64))
    return lambda new: np.asarray(fitted.predict_proba(new)[:, 1])


def _folds(labels: Floats, groups: NDArray[np.int64]) -> list[tuple[Any, Any]]:
    """Folds by groups, each with both labels among what it is trained on."""
    from sklearn.model_selection import StratifiedGroupKFold

    smallest = min(len(np.unique(groups[labels == value])) for value in (0, 1))
    folds = min(FOLDS, smallest)
    splits: list[tuple[Any, Any]] = []
    if folds > 1:
        splits = [*StratifiedGroupKFold(folds).split(labels, labels.astype(int), groups)]
    if not splits or any(len(np.unique(labels[train])) < 2 for train, _ in splits):
        raise UserError(
            f"calibration must have two groups of each label to train on, got {smallest}",
            hint="label more rows, or write calibration: none",
        )
    return splits


def _regressor(method: Trained, features: Floats, labels: Floats) -> Predict:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=method.regularization, solver="cholesky").fit(features, labels)
    return lambda new: np.asarray(fitted.predict(new), np.float64)


def _comparison(
    method: Pairs, features: Floats, labels: Floats, groups: NDArray[np.int64]
) -> Predict:
    from sklearn.linear_model import LogisticRegression

    pairs = pairs_within(labels, groups)
    if not len(pairs):
        raise UserError(
            "pairs must have two rows of one group with different labels to train on, got none",
            hint="give several answers to a prompt, or name another `group`",
        )
    differences = features[pairs[:, 0]] - features[pairs[:, 1]]
    # Each pair in both orders: a regression needs both outcomes, and has no intercept then.
    both = np.concatenate([differences, -differences])
    model = LogisticRegression(
        C=1 / method.regularization, fit_intercept=False, max_iter=MAX_ITERATIONS
    )
    fitted = model.fit(both, np.repeat([1, 0], len(pairs)))
    return lambda new: np.asarray(new @ fitted.coef_[0])
