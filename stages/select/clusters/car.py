"""CaR's rule (Ge et al. 2024, arXiv:2402.18191): the best rows of all and of each cluster."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import Count, NonNegativeInt, option_group
from stages._selection.amounts import Amount
from stages._selection.budget import fill
from stages._selection.scores import ranking, ranks
from stages.select.clusters.quotas import Members, Outcome

CAR_VARIANCE: Final = 0.95
"""The fraction of the variance that the principal components hold."""

CAR_BEST: Final = 1000
"""`num_best` in the authors' code."""


@option_group
class Car:
    """The best rows of all and the best of each cluster (CaR).

    Attributes:
        num_best: Rows of all; null for 1000 without a budget, and for as many as the budget
            allows with one.
        num_per_cluster: Rows of each cluster.
    """

    name: Literal["car"] = "car"
    num_best: NonNegativeInt | None = None
    num_per_cluster: Count = 1


class Union(NamedTuple):
    """Masks over the rows.

    Attributes:
        selected: The rows that are kept.
        of_cluster: The rows that are among the best of their cluster.
        of_all: The rows that are among the best of all.
    """

    selected: NDArray[np.bool_]
    of_cluster: NDArray[np.bool_]
    of_all: NDArray[np.bool_]


def by_car(
    members: Members,
    keys: NDArray[np.float64],
    previous: NDArray[np.int64],
    rule: Car,
    amount: Amount | None,
    is_held: NDArray[np.bool_],
) -> Outcome:
    """Spend the budget under `rule: car`.

    Args:
        members: The rows.
        keys: What rows are ordered by, the smallest first; NaN for rows without a score.
        previous: The rounds in which rows were selected before this stage, 0 for none.
        rule: The rule.
        amount: What may be spent; None for no limit.
        is_held: Rows that are kept first.
    """
    order = ranking(keys, descending=False)
    order = order[~np.isnan(keys[order])]
    num_best = CAR_BEST if rule.num_best is None and amount is None else rule.num_best
    free = order[previous[order] == 0]
    result = union(members, free, num_best, rule.num_per_cluster, amount, is_held)
    added = pl.DataFrame({**result._asdict(), "held": is_held}).select(
        pl.when(~pl.col("selected"))
        .then(None)
        .when("held")
        .then(pl.lit("held"))
        .when(pl.col("of_cluster") & pl.col("of_all"))
        .then(pl.lit("both"))
        .when("of_cluster")
        .then(pl.lit("cluster"))
        .otherwise(pl.lit("score"))
        .alias("chosen_by")
    )
    facts = {
        "overall_rank": ranks(order, len(keys)),
        "per_cluster": [rule.num_per_cluster] * len(keys),
    }
    return Outcome(result.selected, facts, added)


def union(
    members: Members,
    order: NDArray[np.int64],
    num_best: int | None,
    num_per_cluster: int,
    amount: Amount | None,
    is_held: NDArray[np.bool_] | None = None,
) -> Union:
    """The first rows of every cluster and the first rows of all.

    Where the budget does not suffice, the clusters' rows come first. The same as `car` in
    tests/stages/select/test_clusters.py.

    Args:
        members: The rows.
        order: The rows that may be selected, the best first.
        num_best: How many of all; None for as many as the budget allows beside the
            clusters' rows.
        num_per_cluster: How many of each cluster.
        amount: What may be spent; None for no limit.
        is_held: Rows that are selected before all others.

    Example:
        >>> members = Members(np.ones(3, int), np.array([0, 0, 1], np.int32), np.array([1, 2, 1]))
        >>> union(members, np.array([0, 1, 2]), 1, 1, None).selected.tolist()
        [True, False, True]
    """
    allowed, of_all = np.zeros((2, len(members.costs)), np.bool_)
    allowed[order] = True
    of_cluster = allowed & (members.ranks <= num_per_cluster)
    of_all[order[:num_best]] = True
    if num_best is None:
        of_all &= ~of_cluster
    candidates = order[(of_all | of_cluster)[order]]
    clusters_first = candidates[np.argsort(~of_cluster[candidates], kind="stable")]
    if is_held is not None:
        others = clusters_first[~is_held[clusters_first]]
        clusters_first = np.concatenate([order[is_held[order]], others])
    limit = Amount(int(members.costs.sum())) if amount is None else amount
    return Union(fill(members.costs, clusters_first.tolist(), *limit), of_cluster, of_all)
