"""How good a head is on the rows that it has not seen, beside length alone and shuffled labels.

- classifier: AUC first; accuracy at 0.5, Brier score, expected calibration error, and the
  accuracy within groups where a group has both labels;
- regressor: Spearman's rank correlation first; R2 and the mean absolute error;
- pairs: the part of the pairs that are in the right order (a tie is half a pair), and the loss.

The interval of the first one is a bootstrap over groups, with the same draws for the head and
for length alone. `length` is a head of the same kind on the answer's length. `shuffled` is the
mean of heads that were trained after the labels of the training rows have changed places, with
the lowest and the highest one: a mean far from chance is a leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._selection.random_draws import uniform
from stages.score.learned.heads import Classifier, Pairs, fit, pairs_within
from stages.score.learned.labels import Floats, Labelled, Trained

DRAWS: Final = 300
"""Bootstrap draws."""

SHUFFLES: Final = 5
"""Trainings on labels that have changed places."""

LEVEL: Final = (2.5, 97.5)
"""Percentiles of an interval."""

MIN_GROUPS: Final = 10
"""Groups held out from which on an interval is given: of fewer, draws say nothing."""

BINS: Final = 10

Metric = Callable[[Floats, Floats, NDArray[np.int64]], float]
"""From predictions, labels and groups to a number, NaN where it cannot be measured."""


def auc(predicted: Floats, labels: Floats, groups: NDArray[np.int64]) -> float:
    """The chance that a row with label 1 scores above one with label 0; a tie is half.

    Args:
        predicted: Scores of shape (rows,).
        labels: Shape (rows,).
        groups: The number of each row's group; shape (rows,).
    """
    positive = labels == 1
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return np.nan
    return float((_ranks(predicted)[positive].sum() - n * (n + 1) / 2) / (n * m))


def spearman(predicted: Floats, labels: Floats, groups: NDArray[np.int64]) -> float:
    """The rank correlation; NaN for constant labels, 0 for a prediction that is constant.

    Args:
        predicted: Scores of shape (rows,).
        labels: Shape (rows,).
        groups: The number of each row's group; shape (rows,).
    """
    if len(predicted) < 3 or np.ptp(labels) == 0:
        return np.nan
    if np.ptp(predicted) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(predicted), _ranks(labels))[0, 1])


def _ranks(values: Floats) -> Floats:
    """Ranks from 1 on, of equal values their mean; a bootstrap is too short for scipy's checks.

    >>> _ranks(np.array([5.0, 2.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    return ranks


def pair_accuracy(predicted: Floats, labels: Floats, groups: NDArray[np.int64]) -> float:
    """The part of the pairs within groups that are in the right order; a tie is half.

    Args:
        predicted: Scores of shape (rows,).
        labels: Shape (rows,).
        groups: The number of each row's group; shape (rows,).
    """
    pairs = pairs_within(labels, groups)
    if not len(pairs):
        return np.nan
    margin = predicted[pairs[:, 0]] - predicted[pairs[:, 1]]
    return float(((margin > 0) + 0.5 * (margin == 0)).mean())


def first_metric(method: Trained) -> tuple[str, Metric, float]:
    """The first metric of a method: its name, the function, and its value by chance."""
    match method:
        case Classifier():
            return "auc", auc, 0.5
        case Pairs():
            return "pair_accuracy", pair_accuracy, 0.5
    return "spearman", spearman, 0.0


def train_and_test(data: Labelled, method: Trained) -> tuple[Any, dict[str, Any]]:
    """Train the head on the training rows, and test it on the others.

    Args:
        data: The labelled rows.
        method: The head.

    Returns:
        The head's function, and the report.

    Raises:
        UserError: The training rows cannot teach it.
    """
    train, test = ~data.is_held_out, data.is_held_out
    _check_training(data.labels[train], method)
    labels, groups = data.labels[train], data.groups[train]
    head = fit(method, data.features[train], labels, groups)
    predicted = {"head": head(data.features[test])}
    try:
        by_length = fit(method, data.length[train], labels, groups)
        predicted["length"] = by_length(data.length[test])
    except UserError:  # too few rows to calibrate it, as a test with few groups has
        pass
    counts = data.counts | {"training": int(train.sum()), "held_out": int(test.sum())}
    tested = _tested(method, predicted, data.labels[test], data.groups[test])
    tested["shuffled"] = _shuffled(data, method)
    return head, {"method": method.name, "label": method.label, "rows": counts, **tested}  # type: ignore[attr-defined]


def _check_training(labels: Floats, method: Trained) -> None:
    if isinstance(method, Classifier) and (strange := set(labels.tolist()) - {0.0, 1.0}):
        raise UserError(
            f"the labels of a classifier must be 0 or 1 (or true and false), got {min(strange):g}",
            hint="write a comparison as the label (score >= 4), or use method: regressor",
        )
    if len(set(labels.tolist())) < 2:
        raise UserError(
            f"the training rows must have labels that differ, got {len(labels):,} rows with "
            f"{len(set(labels.tolist()))} label",
            hint="label more rows, or lower held_out",
        )


def _shuffled(data: Labelled, method: Trained) -> dict[str, float] | None:
    """The first metric of heads that were trained on labels that have changed places.

    Of pairs they change places within their group, which turns pairs round.

    Returns:
        The mean, the lowest and the highest; None where it cannot be measured.
    """
    if isinstance(method, Classifier):
        method = replace(method, calibration="none")  # it changes no order
    _, metric, _ = first_metric(method)
    train, test = ~data.is_held_out, data.is_held_out
    labels, groups = data.labels[train], data.groups[train]
    places = np.lexsort((np.arange(len(groups)), groups)) if isinstance(method, Pairs) else None
    values = []
    for number in range(SHUFFLES):
        keys = uniform(data.ids, f"score.learned:shuffle {number}:{method.seed}")[train]
        if places is None:
            moved = labels[np.argsort(keys, kind="stable")]
        else:
            moved = np.empty_like(labels)
            moved[places] = labels[np.lexsort((keys, groups))]
        head = fit(method, data.features[train], moved, groups)
        values.append(metric(head(data.features[test]), data.labels[test], data.groups[test]))
    if np.isnan(values).any():
        return None
    return {"mean": float(np.mean(values)), "lowest": min(values), "highest": max(values)}


def _tested(
    method: Trained,
    predicted: Mapping[str, Floats],
    labels: Floats,
    groups: NDArray[np.int64],
) -> dict[str, Any]:
    """The metrics of each head on the rows held out, and what they say."""
    name, metric, chance = first_metric(method)
    draws = {who: _bootstrap(method, values, labels, groups) for who, values in predicted.items()}
    intervals = {who: _interval(values) for who, values in draws.items()}
    table = {
        who: {
            name: _number(metric(values, labels, groups)),
            "interval": intervals[who],
            **_more(method, values, labels, groups),
        }
        for who, values in predicted.items()
    }
    own = intervals["head"]
    gain = _interval(draws["head"] - draws["length"]) if "length" in draws else None
    return {
        "metric": name,
        "chance": chance,
        "held_out": table,
        "beyond_chance": None if own is None else own[0] > chance,
        "gain_over_length": gain,
        "beyond_length": None if gain is None else gain[0] > 0,
        "reliability": [] if isinstance(method, Pairs) else reliability(predicted["head"], labels),
    }


def _bootstrap(
    method: Trained, predicted: Floats, labels: Floats, groups: NDArray[np.int64]
) -> Floats:
    """The first metric on draws of groups with replacement, the same draws for equal groups."""
    if len(np.unique(groups)) < MIN_GROUPS:
        return np.zeros(0)
    _, metric, _ = first_metric(method)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    generator = np.random.default_rng(method.seed)
    draws = generator.integers(len(members), size=(DRAWS, len(members)))
    if isinstance(method, Pairs):
        return _drawn_pairs(predicted, labels, members, draws)
    rows = (np.concatenate([members[group] for group in drawn]) for drawn in draws)
    return np.array([metric(predicted[drawn], labels[drawn], groups[drawn]) for drawn in rows])


def _drawn_pairs(
    predicted: Floats, labels: Floats, members: list[NDArray[np.int64]], draws: NDArray[np.int64]
) -> Floats:
    """The accuracy over the pairs of the groups that are drawn, NaN for a draw without any."""
    right, count = np.zeros(len(members)), np.zeros(len(members))
    for group, rows in enumerate(members):
        pairs = pairs_within(labels[rows], np.zeros(len(rows), np.int64))
        margin = predicted[rows][pairs[:, 0]] - predicted[rows][pairs[:, 1]]
        right[group] = ((margin > 0) + 0.5 * (margin == 0)).sum()
        count[group] = len(pairs)
    totals, result = count[draws].sum(axis=1), np.full(DRAWS, np.nan)
    np.divide(right[draws].sum(axis=1), totals, out=result, where=totals > 0)
    return result


def _interval(values: Floats) -> list[float] | None:
    values = values[~np.isnan(values)]
    return [float(v) for v in np.percentile(values, LEVEL)] if len(values) > DRAWS / 2 else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _more(
    method: Trained, predicted: Floats, labels: Floats, groups: NDArray[np.int64]
) -> dict[str, float | None]:
    """The other metrics."""
    if not len(labels):
        return {}
    match method:
        case Classifier():
            bins = reliability(predicted, labels)
            error = sum(b["rows"] * abs(b["predicted"] - b["observed"]) for b in bins)
            return {
                "accuracy": float(((predicted > 0.5) == labels).mean()),
                "brier": float(((predicted - labels) ** 2).mean()),
                "calibration_error": error / len(labels),
                "pair_accuracy": _number(pair_accuracy(predicted, labels, groups)),
            }
        case Pairs():
            pairs = pairs_within(labels, groups)
            margin = predicted[pairs[:, 0]] - predicted[pairs[:, 1]]
            loss = float(np.logaddexp(0, -margin).mean()) if len(pairs) else None
            return {"pairs": len(pairs), "loss": loss}
    residual, spread = ((labels - predicted) ** 2).sum(), ((labels - labels.mean()) ** 2).sum()
    return {
        "r2": float(1 - residual / spread) if spread else None,
        "mean_absolute_error": float(np.abs(labels - predicted).mean()),
    }


def reliability(predicted: Floats, labels: Floats) -> list[dict[str, Any]]:
    """Mean prediction and mean label of tenths of the rows, in the order of the prediction.

    >>> reliability(np.array([0.1, 0.9]), np.array([0.0, 1.0]))[1]
    {'predicted': 0.9, 'observed': 1.0, 'rows': 1}
    """
    order = np.argsort(predicted, kind="stable")
    return [
        {
            "predicted": float(predicted[part].mean()),
            "observed": float(labels[part].mean()),
            "rows": len(part),
        }
        for part in np.array_split(order, BINS)
        if len(part)
    ]
