"""Adapt-∞: each cluster is measured by the scorer of the highest entropy.

Adapt-∞: Adapt-infinity: Scalable Lifelong Multimodal Instruction Tuning via Dynamic Data Selection
(Maharana et al. 2024, arXiv:2410.10636).

As in the paper: rows are clustered by their gradients; of several scorers each cluster has the one
whose values have the highest entropy there; rows are drawn over the range of that score (CCS, Zheng
et al. 2023, arXiv:2210.15809), and near-duplicates go afterwards (`dedup.semantic`).

As in the authors' code: entropies are in bits, of histograms of 50 bins over 4 standard deviations
to either side; clusters have equal parts of the budget, and what a small one leaves goes to the
others; the 5% of lowest and of highest scores are left out; 50 bins of equal width have equal
parts, the poorest first.

Ours: values are standardized within the cluster; draws by the ids of the rows; texts in place of
images with texts; the scorers are columns (the code has log-perplexity, EL2N, gradient norm and
entropy).
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.types import Count, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._selection.random_draws import uniform
from stages._selection.scores import Expression
from stages._selection.scores import scores as values_of
from stages.select.clusters.quotas import Outcome

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

DEVIATIONS = 4.0
"""How far the histograms of entropies reach to either side, in standard deviations."""


@option_group
class AdaptInfinity:
    """The scorer of the highest entropy in each cluster, and draws over the range of its scores.

    Rows in the tails of the scores are never taken, so that fewer than the budget may be.

    Attributes:
        scorers: Columns or SQL expressions; of equal entropies the first counts.
        bins: Bins of a histogram, for entropies and for draws.
        trim: The fraction of a cluster's rows that is left out at each end of the scores.
    """

    name: Literal["adapt_infinity"] = "adapt_infinity"
    scorers: Annotated[tuple[Expression, ...], NonEmpty, Distinct]
    bins: Count = 50
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.05


class _Cluster(NamedTuple):
    """The rows of a cluster that can be drawn, and the bin of each.

    Attributes:
        scorer: Which scorer measures them.
        entropy: Its entropy in bits.
        rows: Their positions.
        bins: Shape of `rows`.
    """

    scorer: int
    entropy: float
    rows: Positions
    bins: Positions


def entropy(values: Floats, bins: int) -> float:
    """The entropy of a score in bits, over the histogram of its standardized values.

    Args:
        values: Finite scores.
        bins: Bins of the histogram.

    Example:
        >>> even, uneven = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0, 3.0])
        >>> round(entropy(even, 50), 3), round(entropy(uneven, 50), 3)
        (2.0, 0.811)
    """
    spread = float(values.std()) if len(values) else 0.0
    if spread == 0:
        return 0.0
    standardized = (values - values.mean()) / spread
    counts, _ = np.histogram(standardized, bins, (-DEVIATIONS, DEVIATIONS))
    parts = counts[counts > 0] / max(1, counts.sum())
    return float(-(parts * np.log2(parts)).sum()) + 0.0


def equal_parts(sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """An equal part of a budget for each group, the poorest first; what one leaves goes on.

    Args:
        sizes: Rows of each group.
        budget: Rows in all.

    Example:
        >>> equal_parts(np.array([9, 1, 5]), 9).tolist()
        [4, 1, 4]
    """
    parts, left = np.zeros(len(sizes), np.int64), budget
    order = np.argsort(sizes, kind="stable")
    for done, group in enumerate(order.tolist()):
        parts[group] = min(int(sizes[group]), left // (len(order) - done))
        left -= int(parts[group])
    return parts


def by_adapt_infinity(
    rows: pl.DataFrame,
    labels: NDArray[np.int32],
    can_be_taken: NDArray[np.bool_],
    budget: int,
    rule: AdaptInfinity,
    seed: int,
) -> Outcome:
    """Spend the budget under `rule: adapt_infinity`.

    Args:
        rows: The rows with their scores.
        labels: Each row's cluster.
        can_be_taken: Shape (rows,).
        budget: Rows in all.
        rule: The rule.
        seed: Of the draws.
    """
    scores = np.stack([values_of(rows, scorer) for scorer in rule.scorers])
    draws = uniform(rows["id"], f"select.clusters:adapt_infinity:{seed}")
    count = int(labels.max(initial=-1)) + 1
    members = [np.flatnonzero((labels == cluster) & can_be_taken) for cluster in range(count)]
    measured = [_measured(scores, positions, rule) for positions in members]
    quotas = equal_parts(np.array([len(one.rows) for one in measured], np.int64), budget)
    selected = np.zeros(len(rows), np.bool_)
    for one, quota in zip(measured, quotas.tolist(), strict=True):
        selected[_drawn(one, quota, draws)] = True
    names = [rule.scorers[measured[cluster].scorer] for cluster in labels.tolist()]
    entropies = [measured[cluster].entropy for cluster in labels.tolist()]
    facts = {"quota": quotas[labels], "scorer": names, "entropy": entropies}
    return Outcome(
        selected, facts, pl.DataFrame({"cluster_scorer": pl.Series(names, dtype=pl.String)})
    )


def _measured(scores: Floats, positions: Positions, rule: AdaptInfinity) -> _Cluster:
    """The scorer of a cluster, and the bins of the rows that are not in its tails."""
    known = [each[positions][~np.isnan(each[positions])] for each in scores]
    entropies = [entropy(values, rule.bins) for values in known]
    scorer = int(np.argmax(entropies))
    values = scores[scorer][positions]
    order = np.argsort(values, kind="stable")[: len(known[scorer])]  # those without come last
    tail = int(rule.trim * len(order))
    inner = order[tail : len(order) - tail]
    low, high = (float(values[inner[at]]) for at in (0, -1)) if len(inner) else (0.0, 0.0)
    width = (high - low) / rule.bins
    bins = (
        ((values[inner] - low) / width).astype(np.int64)
        if width > 0
        else np.zeros(len(inner), np.int64)
    )
    return _Cluster(scorer, entropies[scorer], positions[inner], np.minimum(bins, rule.bins - 1))


def _drawn(cluster: _Cluster, quota: int, draws: Floats) -> Positions:
    """The rows of a cluster that are taken."""
    numbers, of_row, sizes = np.unique(cluster.bins, return_inverse=True, return_counts=True)
    parts = equal_parts(sizes.astype(np.int64), quota)
    selected = [np.zeros(0, np.int64)]
    for number in range(len(numbers)):
        inside = cluster.rows[of_row == number]
        selected.append(inside[np.argsort(draws[inside], kind="stable")[: parts[number]]])
    return np.concatenate(selected)
