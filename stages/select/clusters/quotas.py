"""The budget of `select.clusters`, spent by quotas: at once, or in rounds that reweigh clusters."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import Count, option_group
from stages._selection.amounts import Amount, Budget, PerGroup
from stages._selection.budget import EXPONENTS, Quota, divide_amount, fill_quotas, group_sizes
from stages._selection.scores import Expression
from stages._selection.scores import scores as values_of

Update = Literal["share", "softmax"]


@option_group
class QuotaRule:
    """A quota of the budget for each cluster, filled with its best rows.

    Attributes:
        quota: Split the budget by the clusters' sizes, by the roots of the sizes, or evenly.
        quota_weight: Multiplies the quotas by the mean of this column or SQL expression over
            a cluster's rows. Missing values are left out, a cluster without any takes the
            mean of the others. 0 gives a cluster nothing.
        sample: Draw the rows of a cluster with the score as their weight, 0 or more, instead
            of the best; without a score, all with the same weight.
        round_weight: A column or SQL expression that reweighs clusters between rounds.
        update: `share` reweighs as the paper does; `softmax` sets the weights to
            exp(s) / sum(exp(s)), as its code does, and allows scores below 0.
        rounds: The number of rounds.
    """

    name: Literal["quota"] = "quota"
    quota: Quota = "proportional"
    quota_weight: Expression | None = None
    sample: bool = False
    round_weight: Expression | None = None
    update: Update = "share"
    rounds: Count = 1

    def __post_init__(self) -> None:
        if self.round_weight is None and self.rounds > 1:
            raise ValueError(f"rounds must be 1 without round_weight, got {self.rounds}")
        if self.round_weight is None and self.update != "share":
            raise ValueError(f"update must be left out without round_weight, got {self.update!r}")


class Members(NamedTuple):
    """Rows as members of clusters; arrays of shape (rows,).

    Attributes:
        costs: What each row uses of the budget.
        labels: Each row's cluster.
        ranks: Each row's rank in its cluster, from 1.
        budget: The budget, which says in which units sizes are counted.
    """

    costs: NDArray[np.int64]
    labels: NDArray[np.int32]
    ranks: NDArray[np.int64]
    budget: Budget | None = None

    def only(self, rows: NDArray[np.int64]) -> Members:
        """Some of the rows."""
        return Members(self.costs[rows], self.labels[rows], self.ranks[rows], self.budget)

    def sizes(self, count: int) -> PerGroup:
        """The sizes of so many clusters."""
        return group_sizes(self.costs, self.labels, count, self.budget)


class Outcome(NamedTuple):
    """What a rule selects.

    Attributes:
        selected: A mask over the rows.
        facts: Columns that explain a row's verdict beside its cluster and rank.
        added: Columns that the rule adds.
    """

    selected: NDArray[np.bool_]
    facts: dict[str, Any]
    added: pl.DataFrame


class RoundScores(NamedTuple):
    """The scores that reweigh clusters between rounds; arrays of shape (rows,).

    Attributes:
        values: The row's score, NaN where it was not measured. Only scores of selected rows
            are read.
        previous: The round in which the row was selected before this stage, 0 where it was
            not.
    """

    values: NDArray[np.float64]
    previous: NDArray[np.int64]


def by_quota(
    members: Members,
    weights: PerGroup,
    amount: Amount,
    scores: RoundScores,
    rule: QuotaRule,
    is_held: NDArray[np.bool_],
) -> Outcome:
    """Spend the budget under `rule: quota`.

    Args:
        members: The rows.
        weights: The clusters' weights.
        amount: What may be spent.
        scores: The scores that reweigh clusters.
        rule: The rule.
        is_held: Rows that are kept first, where there are no rounds.
    """
    if is_held.any():
        selected, quotas = select_by_quotas(members, weights, amount, is_held)
        return Outcome(selected, {"quota": quotas.column(members.labels)}, pl.DataFrame())
    rounds, quotas = select_in_rounds(members, weights, amount, scores, rule.rounds, rule.update)
    selected = rounds > 0
    added = pl.DataFrame()
    if rule.round_weight is not None:
        added = pl.DataFrame({"cluster_round": rounds}).select(
            pl.when(pl.Series(selected)).then("cluster_round").cast(pl.Int32)
        )
    return Outcome(selected, {"quota": quotas.column(members.labels)}, added)


def select_by_quotas(
    members: Members,
    weights: PerGroup,
    amount: Amount,
    is_held: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], PerGroup]:
    """Split the budget among the clusters and fill each quota in the order of the ranks.

    What then remains of the budget is spent by rank, then by cluster. A cluster of weight 0
    gets nothing.

    Args:
        members: The rows.
        weights: The clusters' weights.
        amount: What may be spent.
        is_held: Rows that are selected before all others.

    Returns:
        A mask over the rows, and the clusters' quotas.

    Example:
        >>> ones = np.ones(3, int)
        >>> members = Members(ones, np.array([0, 0, 1], np.int32), np.array([2, 1, 1]))
        >>> selected, quotas = select_by_quotas(members, PerGroup(np.ones(2)), Amount(2))
        >>> selected.tolist(), quotas.total.tolist()
        ([False, True, True], [1, 1])
    """
    costs, labels, ranks, _ = members
    quotas = divide_amount(amount, members.sizes(len(weights.total)), weights)
    selected = fill_quotas(costs, labels, ranks, quotas, weights.positive(), amount, is_held)
    return selected, quotas


def select_in_rounds(
    members: Members,
    weights: PerGroup,
    amount: Amount,
    scores: RoundScores,
    rounds: int,
    update: Update,
) -> tuple[NDArray[np.int64], PerGroup]:
    """Spend the budget in rounds, and reweigh the clusters before each but the first.

    The budget is split evenly among the rounds; what one cannot spend goes to the next.
    Rounds are numbered on from those before this stage.

    Args:
        members: The rows.
        weights: The clusters' weights in the first round.
        amount: What may be spent.
        scores: The scores that reweigh clusters.
        rounds: The number of rounds, at least 1.
        update: How a score reweighs, see `reweighed`.

    Returns:
        The round in which each row was selected, 0 where it was not, and the clusters'
        quotas in all rounds together.
    """
    labels, (values, previous) = members.labels, scores

    def reweigh(weights: PerGroup, rows: NDArray[np.bool_]) -> PerGroup:
        return weights.map(lambda array: reweighed(array, labels[rows], values[rows], update))

    last = int(previous.max(initial=0))
    for number in range(1, last + 1):
        scored = (previous > 0) & (previous <= number)
        weights = reweigh(weights, scored)
    round_of, quotas = previous.copy(), weights.map(lambda array: np.zeros(len(array), np.int64))
    for number in range(1, rounds + 1):
        done = round_of > 0
        if number > 1:
            weights = reweigh(weights, done)
        free = np.flatnonzero(~done)
        allowed = _allowed(amount, Fraction(number, rounds), members.costs[done & (previous == 0)])
        selected, added = select_by_quotas(members.only(free), weights, allowed)
        round_of[free[selected]] = last + number
        quotas = PerGroup(
            quotas.total + added.total, None if added.rows is None else quotas.rows + added.rows
        )
    return np.where(previous > 0, 0, round_of), quotas


def _allowed(amount: Amount, fraction: Fraction, spent: NDArray[np.int64]) -> Amount:
    """What a round may spend: a fraction of an amount less what the rows selected so far cost."""
    rows = None if amount.rows is None else int(amount.rows * fraction) - len(spent)
    return Amount(int(amount.total * fraction) - int(spent.sum()), rows)


def reweighed(
    weights: NDArray[np.float64],
    labels: NDArray[np.int32],
    values: NDArray[np.float64],
    update: Update,
) -> NDArray[np.float64]:
    """Clusters' weights after rows with these labels and scores have been selected.

    s is the mean score of a cluster's rows. `share`: w becomes w * s / sum(s) (Yu et al.
    2024, arXiv:2409.11378, equations 5 and 6). `softmax`: exp(s) / sum(exp(s)), as in the
    authors' code. Weights stay as they are where no row has a score.

    Args:
        weights: The clusters' weights, shape (clusters,).
        labels: The clusters of the selected rows.
        values: Their scores, NaN where missing.
        update: Which formula.

    Raises:
        UserError: `share` with a mean score below 0.

    Example:
        >>> labels, values = np.array([0, 1], np.int32), np.array([1.0, 3.0])
        >>> reweighed(np.ones(2), labels, values, "share").tolist()
        [0.25, 0.75]
    """
    means = cluster_means(labels, values, len(weights))
    if np.isnan(means).any() or not means.size:  # no row has a score
        return weights
    if update == "softmax":
        means = np.exp(means - means.max())
        weights = np.ones(len(weights))
    elif means.size and means.min() < 0:
        raise UserError(
            f"rule.round_weight must be 0 or more on average in every cluster, got {means.min():g}",
            hint="use update: softmax, or scores of 0 or more",
        )
    total = means.sum()
    return weights * (means / total) if total > 0 else weights


def cluster_means(
    labels: NDArray[np.int32], values: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The mean of each cluster's finite values; a cluster without any gets the others' mean.

    Args:
        labels: The rows' clusters, shape (rows,).
        values: The rows' values, shape (rows,).
        count: The number of clusters.

    Returns:
        Shape (count,); NaN throughout where no value is finite.
    """
    finite = np.isfinite(values)
    sizes = np.bincount(labels[finite], minlength=count)
    means: NDArray[np.float64] = np.full(count, np.nan)
    np.divide(np.bincount(labels[finite], values[finite], count), sizes, means, where=sizes > 0)
    if finite.any():
        means[sizes == 0] = means[sizes > 0].mean()
    return means


def cluster_weights(rows: pl.DataFrame, members: Members, rule: QuotaRule, count: int) -> PerGroup:
    """The weights of the clusters, to which their quotas are proportional.

    Args:
        rows: The rows.
        members: The same as members of clusters.
        rule: How clusters are weighed.
        count: The number of clusters.
    """
    exponent = EXPONENTS[rule.quota]
    weights = members.sizes(count).map(lambda size: size.astype(np.float64) ** exponent)
    if rule.quota_weight is None or rows.is_empty():
        return weights
    means = cluster_means(members.labels, values_of(rows, rule.quota_weight), count)
    if np.isnan(means).any():
        raise UserError(f"rule.quota_weight: no row has a value of {rule.quota_weight!r}")
    if means.min() < 0 or not means.any():
        raise UserError(
            "rule.quota_weight must be 0 or more on average in every cluster, and above 0 in "
            f"one, got {means.min():g} to {means.max():g}",
            hint="give an expression that is 0 or more, and not 0 everywhere",
        )
    return weights.map(lambda weight: weight * means)


def _positions(rows: pl.DataFrame, held: pl.DataFrame) -> NDArray[np.int64]:
    """The positions of the held rows in the pool. Raises UserError for rows that it lacks."""
    index = rows.select("id", position=pl.int_range(pl.len()))
    matched = held.select("id").join(index, on="id", how="left", maintain_order="left")
    positions = matched["position"]
    if positions.has_nulls():
        raise UserError(
            f"`held` must be rows of the pool, got {positions.null_count()} others",
            hint="connect `rows` to the complete pool: rows selected before are passed over",
        )
    return positions.to_numpy()


def previous_rounds(
    rows: pl.DataFrame, held: pl.DataFrame | None, round_weight: str | None
) -> NDArray[np.int64]:
    """The round in which each row was selected before this stage, 0 where it was not.

    Args:
        rows: The pool.
        held: Rows selected before, with their `cluster_round` where there is a round weight.
        round_weight: The rule's; None for a rule without.
    """
    rounds = np.zeros(len(rows), np.int64)
    if held is not None:
        number = pl.lit(1) if round_weight is None else pl.col("cluster_round").fill_null(1)
        rounds[_positions(rows, held)] = held.select(number.alias("round"))["round"]
    return rounds


def round_scores(
    rows: pl.DataFrame,
    held: pl.DataFrame | None,
    rule: QuotaRule,
    previous: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The scores that reweigh clusters, NaN where there is none; of held rows those in `held`.

    Args:
        rows: The pool.
        held: Rows selected before.
        rule: The rule, whose `round_weight` it is.
        previous: The rounds in which rows were selected before.
    """
    values = np.full(len(rows), np.nan)
    if rule.round_weight is not None and rule.rounds > 1:
        values = np.where(previous > 0, np.nan, values_of(rows, rule.round_weight))
    if rule.round_weight is not None and held is not None:
        values[_positions(rows, held)] = values_of(held, rule.round_weight)
    return values
