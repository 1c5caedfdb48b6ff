"""A mixture: a budget for each source, task or tag, and the rows that fill it.

How the weights of the groups are set (`method`), r being a group's number of rows:

- `fixed`: given by name. Tülu 1 and 2 (Wang et al. 2023, arXiv:2306.04751; Ivison et al.
  2023, arXiv:2311.10702): counts per data set, without a budget; likewise AITP's fraction
  of rewritten rows, replay fractions and small amounts of a language;
- `proportional`: min(r, size_cap). Examples-proportional mixing with a limit K (T5, Raffel
  et al. 2020, arXiv:1910.10683, section 3.5.2); FLAN (Wei et al. 2021, arXiv:2109.01652):
  `size_cap: 3000` with `max_per_group: 30000`; OPT-IML (Iyer et al. 2022, arXiv:2212.12017),
  whose EPS is `size_cap`;
- `temperature`: min(r, size_cap)^(1/T) (T5, which tries T = 2, 4 and 8), from proportional
  at T = 1 to balanced as T grows;
- `balanced`: every group the same (the Flan Collection's balance of tasks, Longpre et al.
  2023, arXiv:2301.13688; a number of languages);
- `submodular`: SMART (Renduchintala et al. 2024, arXiv:2403.08370). A group is the mean of
  its vectors. Groups are selected greedily by graph cut, whose marginal gain is
  g(x) = sum of s(i, x) over all groups i - lambda (2 sum of s(j, x) over the selected j
  + s(x, x)), s being the cosine and lambda 0.4; their weights are the second-order Taylor
  softmax of the gains, 1 + g + g^2 / 2.

No row is repeated. What a group is too small to take goes to the others in proportion to
their weights (in SMART's code one by one in turn).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
from pipeline.types import Count, PositiveFloat, option_group
from stages._selection.amounts import Budget, PerGroup, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_same_units,
    check_selection,
    check_unused,
    cost_columns,
    divide_amount,
    fill_groups,
    group_sizes,
    not_selected,
    row_costs,
)
from stages._selection.groups import Groups, GroupWeights, group_columns, groups_of
from stages._selection.held import held_first, held_rows
from stages._selection.scores import Expression, expression_columns, ranks_within, sort_keys
from stages._vectors.arrays import Matrix, as_matrix

TINY: Final = float(np.finfo(np.float64).tiny)


@option_group
class Fixed:
    """Weights by name.

    Attributes:
        weights: `{math: 2, code: 1}`; a group that is not named gets nothing, a name without
            rows is an error. Without a budget, the rows or tokens to keep of each group.
    """

    name: Literal["fixed"] = "fixed"
    weights: GroupWeights


@option_group
class Proportional:
    """A group's number of rows.

    Attributes:
        size_cap: Rows beyond which a group gains no weight (K); null for no cap.
    """

    name: Literal["proportional"] = "proportional"
    size_cap: Count | None = None


@option_group
class Temperature:
    """A root of a group's number of rows.

    Attributes:
        temperature: T, of which the root is taken.
        size_cap: Rows beyond which a group gains no weight (K); null for no cap.
    """

    name: Literal["temperature"] = "temperature"
    temperature: PositiveFloat = 2.0
    size_cap: Count | None = None


@option_group
class Balanced:
    """The same weight for every group."""

    name: Literal["balanced"] = "balanced"


@option_group
class Submodular:
    """SMART's weights: those of groups that stand for the others.

    Attributes:
        redundancy: Lambda, how much the similarity of selected groups counts against them.
        n_groups: How many groups are selected; null for all.
        vector: The column of vectors.
    """

    name: Literal["submodular"] = "submodular"
    redundancy: float = 0.4
    n_groups: Count | None = None
    vector: str = "vector"


BySize = Proportional | Temperature | Balanced
Method = Annotated[
    Fixed | Proportional | Temperature | Balanced | Submodular, Field(discriminator="name")
]


def _reads(options: SimpleNamespace) -> list[str]:
    columns = [*group_columns(options.group), *expression_columns(options.score)]
    columns += [options.method.vector] if isinstance(options.method, Submodular) else []
    return list(dict.fromkeys([*columns, *cost_columns(options)]))


def _check(options: SimpleNamespace) -> None:
    fixed = options.method.weights if isinstance(options.method, Fixed) else None
    if options.budget is None and fixed is None:
        what = f"must be given with method: {options.method.name}, got null"
        raise OptionError("budget", what, hint="write for example budget: 10000")
    if options.budget is None and fixed and any(weight % 1 for weight in fixed.values()):
        what = f"must be whole numbers of {options.unit} without a budget, got {dict(fixed)}"
        raise OptionError("method.weights", what, hint="give whole numbers, or a budget")
    # Without a budget, the weights themselves are counted in the unit.
    check_selection(SimpleNamespace(**{**vars(options), "budget": options.budget or 0}))
    check_same_units(options, "max_per_group")
    if options.score is not None:
        check_unused(options, "seed", 0, "with a score, because no row is drawn")


@stage(
    version=4,
    scope="set",
    reads=_reads,
    adds={"mix_group": pl.String, "mix_weight": pl.Float64, "mix_rank": pl.Int32},
    files=True,
    check=_check,
    later=("held",),
)
def weights(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    method: Method,
    budget: Budget | None = None,
    unit: Unit = "rows",
    group: Expression = "source",
    max_per_group: Budget | None = None,
    score: Expression | None = None,
    descending: bool = True,
    seed: int = 0,
    token_column: str = TOKEN_COLUMN,
) -> pl.DataFrame:
    """Split the budget among groups by weights, and keep rows of each, at random or the best.

    Adds `mix_group`, `mix_weight` (all groups' sum to 1) and `mix_rank`, the row's rank in
    its group. Dropped: `not_selected`, or `missing_score` where it has none, with all that
    and the group's quota. Writes `budgets.json`: each group's rows, size (in the budget's
    unit), weight and quota, and what was kept of it.

    Args:
        rows: The rows to mix.
        held: Rows that were chosen before: those that are among the rows are kept first, as far
            as the quota of their group goes, which the weights alone decide.
        method: How the weights of the groups are set: `fixed`, `proportional`,
            `temperature`, `balanced` or `submodular`.
        budget: How much to keep in all, in rows or tokens; never exceeded, and in rows met
            exactly where the groups with a weight have enough. In tokens, a row that no
            longer fits its group's quota is passed over. null, for `fixed`: the weights are
            themselves the rows or tokens to keep of each group.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        group: `source`, a column or an SQL expression; of lists such as tags, a row belongs
            to the rarest, among those that `fixed` names (see `stages/_selection/groups.py`).
        max_per_group: The most that is kept of one group, in the budget's unit.
        score: Keep the best rows of a group by a column or an SQL expression; missing scores
            rank last, equal ones by id. null: random rows.
        descending: Whether large scores are the best ones.
        seed: Of the random order, without a score.
        token_column: The column of each row's number of tokens, where tokens are counted.

    Example:
        ```yaml
        mixture:
          uses: mix.weights
          needs: pool
          with: {method: {name: temperature, temperature: 2.0}, budget: 5000}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> rows = pl.DataFrame({"id": ["a", "b", "c", "d"], "kind": ["x", "x", "x", "y"]})
        >>> result = weights(ctx, rows, method=Balanced(), budget=2, group="kind")
        >>> result.filter(pl.col("drop_reason").is_null())["mix_group"].to_list()
        ['x', 'y']
    """
    named = method.weights if isinstance(method, Fixed) else {}
    groups = groups_of(rows, group, named)
    costs = row_costs(rows, budget, unit, token_column)
    sizes = group_sizes(costs, groups.codes, len(groups.names), budget)
    group_weights = _group_weights(rows, groups, method)
    capacities = _capacities(sizes, max_per_group)
    if budget is None:
        quotas = PerGroup(np.minimum(group_weights, capacities.total).astype(np.int64))
    else:
        weighed = PerGroup(group_weights, group_weights)
        quotas = divide_amount(amount_of(budget), capacities, weighed)
    keys = sort_keys(rows, score, descending, f"mix.weights:{seed}")
    ranks = ranks_within(groups.codes, keys)
    order = held_first(np.argsort(ranks, kind="stable"), held_rows(rows, held))
    order = order[quotas.positive()[groups.codes[order]]]
    selected = fill_groups(costs, groups.codes, order, quotas)
    weight = group_weights / max(group_weights.sum(), TINY)
    kept = group_sizes(costs[selected], groups.codes[selected], len(groups.names), budget)
    every = np.arange(len(groups.names))
    facts = {"size": sizes.column(every), "weight": weight, "quota": quotas.column(every)}
    _write(ctx, groups, selected, {**facts, "kept": kept.column(every)})
    added = {
        "group": groups.labels(),
        "weight": weight[groups.codes],
        "rank": pl.Series(ranks, dtype=pl.Int32),
    }
    verdict = not_selected(selected, {**added, "quota": quotas.column(groups.codes)}, score, keys)
    return verdict.with_columns(pl.Series(f"mix_{name}", column) for name, column in added.items())


def _capacities(sizes: PerGroup, max_per_group: Budget | None) -> PerGroup:
    """The most that is kept of each group."""
    if max_per_group is None:
        return sizes
    total, rows = amount_of(max_per_group)
    most = None if sizes.rows is None else np.minimum(sizes.rows, rows or 0)
    return PerGroup(np.minimum(sizes.total, total), most)


def _group_weights(rows: pl.DataFrame, groups: Groups, method: Method) -> NDArray[np.float64]:
    """The weights of the groups, on the method's own scale; shape (groups,)."""
    match method:
        case Fixed():
            return groups.weights(method.weights)
        case Submodular():
            means = _means(as_matrix(rows[method.vector]), groups)
            return _submodular(means, method.redundancy, method.n_groups)
        case _:
            return _by_size(groups, method)


def _by_size(groups: Groups, method: BySize) -> NDArray[np.float64]:
    """Weights that follow from the groups' numbers of rows alone."""
    rows = np.bincount(groups.codes, minlength=len(groups.names)).astype(np.float64)
    if isinstance(method, Balanced):
        return np.ones(len(rows))
    capped = rows if method.size_cap is None else np.minimum(rows, method.size_cap)
    if isinstance(method, Proportional):
        return capped
    largest = capped.max(initial=1.0)  # a ratio cannot overflow, however low T is
    heated: NDArray[np.float64] = (capped / largest) ** (1 / method.temperature)
    return heated


def _means(vectors: Matrix, groups: Groups) -> NDArray[np.float64]:
    """The mean vector of each group, shape (groups, dimensions)."""
    order = np.argsort(groups.codes, kind="stable")
    sizes = np.bincount(groups.codes, minlength=len(groups.names))
    parts = np.split(order, np.cumsum(sizes))[: len(sizes)]
    means = [vectors[part].mean(axis=0, dtype=np.float64) for part in parts]
    return np.array(means).reshape(len(means), vectors.shape[1])


def _submodular(
    means: NDArray[np.float64], redundancy: float, n_groups: int | None
) -> NDArray[np.float64]:
    """SMART's weights of groups.

    In: the groups' mean vectors, lambda, the number of groups to select.
    Out: the Taylor softmax of the gains of the selected groups, 0 for the others.

    The same as `by_hand` in tests/stages/mix/test_weights.py, which evaluates the graph cut
    by its definition; here a selected group lowers the gains of the others. A mean of zeros
    has similarity 0 to every group, itself included. Of equal gains (to 12 decimals) the
    first group in alphabetical order is selected.

    Args:
        means: Shape (groups, dimensions).
        redundancy: Lambda.
        n_groups: How many groups are selected; None for all.

    Example:
        >>> _submodular(np.array([[1.0, 0.0], [0.0, 2.0]]), 0.5, None).tolist()
        [1.625, 1.625]
    """
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    units = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0)
    similarities = np.einsum("ik,jk->ij", units, units)
    gains = similarities.sum(axis=0) - redundancy * np.diag(similarities)
    weights = np.zeros(len(means))
    open_groups = np.ones(len(means), np.bool_)
    for _ in range(len(means) if n_groups is None else min(n_groups, len(means))):
        best = int(np.argmax(np.where(open_groups, np.round(gains, 12), -np.inf)))
        weights[best] = 1 + gains[best] + gains[best] ** 2 / 2
        open_groups[best] = False
        gains -= 2 * redundancy * similarities[best]
    return weights


def _write(
    ctx: Context,
    groups: Groups,
    selected: NDArray[np.bool_],
    facts: Mapping[str, NDArray[Any] | pl.Series],
) -> None:
    """Write `budgets.json`, an entry for each group."""
    count = len(groups.names)
    table = {
        "group": groups.names,
        "rows": np.bincount(groups.codes, minlength=count),
        **facts,
        "kept_rows": np.bincount(groups.codes, selected, count).astype(np.int64),
    }
    entries = pl.DataFrame(table).to_dicts()
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    (ctx.files / "budgets.json").write_text(text + "\n", "utf-8")
