"""Which of several arms train better than others: intervals, tests, and their correction.

Two things are uncertain, and each has its interval (95%):

- over evaluation rows: would other rows of this kind give the same result? A paired
  bootstrap (Efron 1979): rows are drawn with replacement, the same ones for all arms, and
  the ratio (summed difference of losses) / (summed tokens) is computed anew.
- over trainings: would other draws and orders give the same result? A t interval for the
  difference of the two arms' mean losses, one loss per training. The trainings of a set of
  rows differ by the order of the rows alone, so one variance is pooled over all sets; a
  random arm, whose draws differ as well, has its own (Welch 1947: with one set it is his
  interval). Where arms are paired, what all sets have in common at a seed is taken out
  first, as in a randomized block design.

Each also has a p value: of the difference over the bootstrap's standard error (normal), and of
the t test. A comparison's is the larger of both, since a claim needs both (an
intersection-union test, Berger 1982), and is corrected for all comparisons of the
experiment by Holm's method (1979). A difference is claimed when both intervals exclude zero and
the corrected p value is at most 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

RESAMPLES: Final = 2000
LEVEL: Final = 0.05
POWER: Final = 0.8
DRAWN_AT_ONCE: Final = 5_000_000
"""Rows drawn at one time, so that memory does not grow with the number of rows."""

Interval = tuple[float, float]


def over_rows(
    differences: NDArray[np.float64], tokens: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The intervals over evaluation rows, and the standard errors.

    Args:
        differences: For each row, and each comparison, the summed nats of one arm less those
            of the other.
        tokens: By row the tokens that are summed over.
        seed: Of the bootstrap, which draws the same rows for all comparisons.

    Returns:
        Lower and upper bounds, of shape (2, comparisons), and their standard errors.
    """
    generator = np.random.default_rng(seed)
    count = len(tokens)
    ratios = []
    at_once = max(1, DRAWN_AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        drawn = generator.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
        times = (
            np.bincount(drawn.ravel(), minlength=draws * count)
            .reshape(draws, count)
            .astype(np.float64)
        )
        ratios.append((times @ differences) / (times @ tokens)[:, None])
    all_ratios = np.concatenate(ratios)
    return np.quantile(all_ratios, [0.025, 0.975], axis=0), all_ratios.std(axis=0, ddof=1)


@dataclass(frozen=True)
class Spread:
    """How much the trainings of an arm vary.

    Attributes:
        variance: Of their losses.
        degrees: The degrees of freedom of its estimate.
        is_pooled: Whether it is the sets' common one.
    """

    variance: float
    degrees: float
    is_pooled: bool


def spreads(
    losses: Mapping[str, Sequence[float]], sets: Collection[str], paired: bool
) -> dict[str, Spread]:
    """The spread of each arm.

    Args:
        losses: Of each arm, one per training, in the order of the seeds; at least two.
        sets: The arms that are sets of rows, at least one.
        paired: Whether what the sets have in common at a seed is taken out.
    """
    values = {arm: np.asarray(of, dtype=np.float64) for arm, of in losses.items()}
    of_sets = np.array([values[arm] for arm in values if arm in sets])
    blocked = paired and len(of_sets) > 1
    common = of_sets.mean(axis=0) - of_sets.mean() if blocked else np.zeros(of_sets.shape[1])
    residuals = of_sets - of_sets.mean(axis=1, keepdims=True) - common
    degrees = (len(of_sets) - blocked) * (of_sets.shape[1] - 1)
    pooled = Spread(float((residuals**2).sum() / degrees), degrees, is_pooled=True)
    return {
        arm: pooled
        if arm in sets
        else Spread(float(np.var(of - common, ddof=1)), len(of) - 1, is_pooled=False)
        for arm, of in values.items()
    }


def over_trainings(
    difference: float, first: Spread, second: Spread, num_trainings: int
) -> tuple[Interval, float]:
    """The interval of a difference of two arms' mean losses, and the p value of none.

    Args:
        difference: The first arm's mean loss less the second's.
        first: Of the first arm.
        second: Of the second arm.
        num_trainings: Of each arm.
    """
    from scipy.stats import t

    variances = np.array([first.variance, second.variance]) / num_trainings
    error = math.sqrt(variances.sum())
    if error == 0:
        return (difference, difference), float(difference == 0)
    degrees = first.degrees  # of an estimate that both have
    if not (first.is_pooled and second.is_pooled):
        parts = variances**2 / np.array([first.degrees, second.degrees])
        degrees = float(variances.sum() ** 2 / parts.sum())
    half = float(t.ppf(1 - LEVEL / 2, degrees) * error)
    p = float(2 * t.sf(abs(difference) / error, degrees))
    return (difference - half, difference + half), p


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), which controls the family-wise error.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def compare_all(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    sets: Collection[str],
    eval_rows: pl.DataFrame,
    paired: bool,
) -> list[dict[str, Any]]:
    """Each arm against each on each set of evaluation rows.

    Args:
        runs: The trainings of each arm in the order of their seeds, with `by_set` and
            `rows_loss` (per row).
        sets: The arms that are sets of rows.
        eval_rows: `eval_set` and the answer `tokens` of each evaluation row.
        paired: Whether trainings of one seed belong together.

    Returns:
        For each comparison `selected` and `arm` (the two arms), `eval_rows` (the set),
        `difference` (the first arm's loss less the other's), `over_rows`, `over_trainings`, `p`,
        `p_corrected` and `verdict`.
    """
    comparisons: list[dict[str, Any]] = []
    pairs = list(combinations(runs, 2))
    per_row = {arm: np.mean([run["rows_loss"] for run in of], axis=0) for arm, of in runs.items()}
    for name in eval_rows["eval_set"].unique(maintain_order=True):
        of_set = (eval_rows["eval_set"] == name).to_numpy()
        tokens = eval_rows["tokens"].to_numpy()[of_set]
        differences = np.array([per_row[a][of_set] - per_row[b][of_set] for a, b in pairs]).T
        bounds, errors = over_rows(differences, tokens, seed=0)
        losses = {arm: [run["by_set"][name] for run in of] for arm, of in runs.items()}
        of_arm = spreads(losses, sets, paired)
        for i, (a, b) in enumerate(pairs):
            difference = float(np.mean(losses[a]) - np.mean(losses[b]))
            trainings, p = over_trainings(difference, of_arm[a], of_arm[b], len(losses[a]))
            comparisons.append(
                {
                    "selected": a,
                    "arm": b,
                    "eval_rows": name,
                    "difference": difference,
                    "over_rows": (float(bounds[0, i]), float(bounds[1, i])),
                    "over_trainings": trainings,
                    "p": max(_normal_p(difference, float(errors[i])), p),
                }
            )
    for entry, p in zip(comparisons, holm([c["p"] for c in comparisons]), strict=True):
        entry["p_corrected"] = p
        entry["verdict"] = verdict(entry["over_rows"], entry["over_trainings"], p=p)
    return comparisons


def _normal_p(difference: float, error: float) -> float:
    """The p value of no difference, of a normal estimate; of an exact one 0, or 1 where equal."""
    if error == 0:
        return float(difference == 0)
    return math.erfc(abs(difference) / error / math.sqrt(2))


def verdict(*intervals: Interval, p: float = 0.0) -> str:
    """`lower` or `higher` where all intervals lie on one side of zero, else `indistinguishable`.

    Args:
        *intervals: Of one difference.
        p: The corrected p value, which must be at most LEVEL.

    >>> verdict((-0.2, -0.1), (-0.3, 0.1))
    'indistinguishable'
    >>> verdict((-0.2, -0.1), (-0.3, -0.1), p=0.2)
    'indistinguishable'
    """
    if p <= LEVEL and all(high < 0 for _, high in intervals):
        return "lower"
    if p <= LEVEL and all(low > 0 for low, _ in intervals):
        return "higher"
    return "indistinguishable"


def visible_spreads(num_trainings: int, num_comparisons: int, degrees: float) -> float:
    """The smallest difference that is likely to be claimed, in spreads of an arm's trainings.

    A true difference of that size is claimed in 4 of 5 experiments: the two-sided t test of
    two arms of equal spread, at the level of Holm's first step. It is said before anything
    is trained; what the evaluation rows' interval adds to it is not known then.

    Args:
        num_trainings: Of each arm, at least 2.
        num_comparisons: In the whole experiment.
        degrees: The degrees of freedom of the spread.

    >>> round(visible_spreads(3, 1, degrees=4), 1)
    3.1
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    least = float(t.ppf(1 - LEVEL / num_comparisons / 2, degrees))

    def lacking(noncentrality: float) -> float:
        return float(nct.sf(least, degrees, noncentrality)) - POWER

    upper = 2.0
    while lacking(upper) < 0:
        upper *= 2
    return float(brentq(lacking, 0.0, upper)) * math.sqrt(2 / num_trainings)
