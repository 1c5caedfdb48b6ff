"""How `select.clusters` spends its budget: by quotas, in rounds, or on a union of the best rows."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._selection.budget import divide, fill, fill_groups

Update = Literal["share", "softmax"]


class Members(NamedTuple):
    """One entry per row: what it takes from the budget, its cluster, its place there from 1."""

    prices: NDArray[np.int64]
    labels: NDArray[np.int32]
    ranks: NDArray[np.int64]

    def only(self, rows: NDArray[np.int64]) -> Members:
        return Members(self.prices[rows], self.labels[rows], self.ranks[rows])


class Scores(NamedTuple):
    """What weighs clusters anew: one entry per row.

    values: the row's score, NaN where it was not measured; only those of rows already
    chosen are looked at. earlier: the round in which the row was chosen before this
    stage, 0 where it was not.
    """

    values: NDArray[np.float64]
    earlier: NDArray[np.int64]


def choose(
    members: Members, weights: NDArray[np.float64], budget: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The rows chosen, and each cluster's quota.

    Each cluster's quota is filled in the order of its ranks; what remains of the
    budget is spent by rank, then cluster. A cluster of weight 0 gets nothing.
    """
    prices, labels, ranks = members
    capacities = np.bincount(labels, prices, len(weights)).astype(np.int64)
    quotas = divide(budget, capacities, weights)
    order = np.lexsort((labels, ranks))
    order = order[weights[labels[order]] > 0]
    chosen = fill_groups(prices, labels, order, quotas)
    rest = order[~chosen[order]]
    return chosen | fill(prices, rest.tolist(), budget - int(prices[chosen].sum())), quotas


def in_rounds(
    members: Members,
    weights: NDArray[np.float64],
    budget: int,
    scores: Scores,
    rounds: int,
    update: Update,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The round in which each row was chosen (0: it was not), and each cluster's quota in all.

    The budget is split evenly among the rounds; what one cannot spend goes to the
    next. Rounds are counted on from those before this stage.
    """
    labels, (values, earlier) = members.labels, scores
    past = int(earlier.max(initial=0))
    for turn in range(1, past + 1):
        known = (earlier > 0) & (earlier <= turn)
        weights = reweighed(weights, labels[known], values[known], update)
    chosen, quotas, spent = earlier.copy(), np.zeros(len(weights), np.int64), 0
    for turn in range(1, rounds + 1):
        if turn > 1:
            weights = reweighed(weights, labels[chosen > 0], values[chosen > 0], update)
        free = np.flatnonzero(chosen == 0)
        picked, shares = choose(members.only(free), weights, budget * turn // rounds - spent)
        chosen[free[picked]] = past + turn
        spent += int(members.prices[free[picked]].sum())
        quotas += shares
    return np.where(earlier > 0, 0, chosen), quotas


def reweighed(
    weights: NDArray[np.float64],
    labels: NDArray[np.int32],
    values: NDArray[np.float64],
    update: Update,
) -> NDArray[np.float64]:
    """Clusters' weights after the rows with these labels and scores have been chosen.

    s is the mean score of a cluster's rows. `share`: w becomes w * s / sum(s) (Yu et
    al. 2024, arXiv:2409.11378, equations 5 and 6). `softmax`: exp(s) / sum(exp(s)),
    as in the authors' code.
    """
    means = cluster_means(labels, values, len(weights))
    if np.isnan(means).any() or not means.size:  # no row has a score
        return weights
    if update == "softmax":
        means = np.exp(means - means.max())
        weights = np.ones(len(weights))
    elif means.size and means.min() < 0:
        raise UserError(
            "reweigh_by: the mean score of a cluster is below zero, so it is no share",
            hint="give `update: softmax`, or scores of 0 or more",
        )
    total = means.sum()
    return weights * (means / total) if total > 0 else weights


def cluster_means(
    labels: NDArray[np.int32], values: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The mean of each cluster's finite values; one without any takes the mean of the others."""
    known = np.isfinite(values)
    sizes = np.bincount(labels[known], minlength=count)
    means: NDArray[np.float64] = np.full(count, np.nan)
    np.divide(np.bincount(labels[known], values[known], count), sizes, means, where=sizes > 0)
    if known.any():
        means[sizes == 0] = means[sizes > 0].mean()
    return means


class Union(NamedTuple):
    """Masks over the rows: who is chosen, and who is among the first of its cluster, of all."""

    chosen: NDArray[np.bool_]
    of_cluster: NDArray[np.bool_]
    of_all: NDArray[np.bool_]


def union(
    members: Members,
    ranking: NDArray[np.int64],
    best: int | None,
    per_cluster: int,
    budget: int | None,
) -> Union:
    """The first `per_cluster` rows of every cluster and the `best` first rows of all.

    ranking: the rows that may be chosen, best first. best: null for as many of the
    others as the budget allows. Where it does not suffice, the clusters' rows come first.
    """
    allowed, of_all = np.zeros((2, len(members.prices)), np.bool_)
    allowed[ranking] = True
    of_cluster = allowed & (members.ranks <= per_cluster)
    of_all[ranking[:best]] = True
    if best is None:
        of_all &= ~of_cluster
    wanted = ranking[(of_all | of_cluster)[ranking]]
    order = wanted[np.argsort(~of_cluster[wanted], kind="stable")]
    limit = int(members.prices.sum()) if budget is None else budget
    return Union(fill(members.prices, order.tolist(), limit), of_cluster, of_all)
