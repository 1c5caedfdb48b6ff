"""A mixture: a budget for each source, task or tag, and the rows that fill it.

How the weights of the groups are set (`method`), r being a group's number of rows:

- `fixed`: given by name; without a budget, the rows of each data set. Likewise AITP's fraction
  of rewritten rows and small amounts of a language;
- `published`: the counts or rates of a paper's mixture (`_published.py`): Tülu 1, 2 and 3 (Wang
  et al. 2023, arXiv:2306.04751; Ivison et al. 2023, arXiv:2311.10702; Lambert et al. 2024,
  arXiv:2411.15124), DMT's sets (Dong et al. 2023, arXiv:2310.05492), the rates of Scaling Flan
  (Chung et al. 2022, arXiv:2210.11416) and of the Flan Collection (Longpre et al. 2023,
  arXiv:2301.13688);
- `proportional`: min(r, size_cap). Examples-proportional mixing with a limit K (T5, Raffel
  et al. 2020, arXiv:1910.10683, section 3.5.2); FLAN (Wei et al. 2021, arXiv:2109.01652):
  `size_cap: 3000` with `max_per_group: 30000`; OPT-IML (Iyer et al. 2022, arXiv:2212.12017),
  whose EPS is `size_cap`, 4096 there;
- `temperature`: min(r, size_cap)^(1/T) (T5, which tries T = 2, 4 and 8), from proportional
  at T = 1 to balanced as T grows;
- `balanced`: every group the same (the Flan Collection's balance of tasks), or so many of the
  largest groups (a number of languages);
- `replay`: a fraction of old rows beside the new ones (GeRe, mix-cd, refreshes);
- `submodular`: SMART (Renduchintala et al. 2024, arXiv:2403.08370). A group is the mean of
  its vectors. Groups are selected greedily by graph cut, whose marginal gain is
  g(x) = sum of s(i, x) over all groups i - lambda (2 sum of s(j, x) over the selected j
  + s(x, x)), s being the cosine and lambda 0.4; their weights are the second-order Taylor
  softmax of the gains, 1 + g + g^2 / 2;
- `interaction`: Beyond IID's EE-CPO (Zhao et al. 2024, arXiv:2409.07045), which raises a E w for
  the present weights a and the effects E of groups on each other (`_interaction.py`): as a linear
  programme (the boxes are ours: without them one group gets everything), or as in the authors'
  code by Adam, of which the direction alone counts, 3% of the rows being moved.

No row is repeated. What a group is too small to take goes to the others in proportion to
their weights (in SMART's code one by one in turn).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
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
from stages._selection.groups import Groups, group_columns, groups_of
from stages._selection.held import held_first, held_rows
from stages._selection.scores import Expression, expression_columns, ranks_within, sort_keys
from stages.mix._group_weights import (
    Fixed,
    Method,
    Published,
    Submodular,
    group_weights,
)

TINY: Final = float(np.finfo(np.float64).tiny)


def _reads(options: SimpleNamespace) -> list[str]:
    columns = [*group_columns(options.group), *expression_columns(options.score)]
    columns += [options.method.vector] if isinstance(options.method, Submodular) else []
    return list(dict.fromkeys([*columns, *cost_columns(options)]))


def _check(options: SimpleNamespace) -> None:
    method = options.method
    fixed = method.weights if isinstance(method, Fixed) else None
    is_counted = isinstance(method, Published) and method.is_counted
    if options.budget is None and fixed is None and not is_counted:
        named = f"{method.name} {method.mixture}" if isinstance(method, Published) else method.name
        what = f"must be given with method: {named}, got null"
        raise OptionError("budget", what, hint="write for example budget: 10000")
    if options.budget is None and is_counted and options.unit != "rows":
        what = f"must be rows with the counts of {method.mixture}, got {options.unit}"
        raise OptionError("unit", what, hint="give a budget: the counts are its weights then")
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
        method: How the weights of the groups are set: `fixed`, `published`, `proportional`,
            `temperature`, `balanced`, `replay`, `submodular` or `interaction`.
        budget: How much to keep in all, in rows or tokens; never exceeded, and in rows met
            exactly where the groups with a weight have enough. In tokens, a row that no
            longer fits its group's quota is passed over. null, for `fixed` and for `published`
            counts: the weights are themselves the rows or tokens to keep of each group.
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
        >>> from stages.mix._group_weights import Balanced
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> rows = pl.DataFrame({"id": ["a", "b", "c", "d"], "kind": ["x", "x", "x", "y"]})
        >>> result = weights(ctx, rows, method=Balanced(), budget=2, group="kind")
        >>> result.filter(pl.col("drop_reason").is_null())["mix_group"].to_list()
        ['x', 'y']
    """
    named = method.weights if isinstance(method, Fixed | Published) else {}
    groups = groups_of(rows, group, named)
    costs = row_costs(rows, budget, unit, token_column)
    sizes = group_sizes(costs, groups.codes, len(groups.names), budget)
    raw_weights = group_weights(rows, groups, method)
    capacities = _capacities(sizes, max_per_group)
    if budget is None:
        quotas = PerGroup(np.minimum(raw_weights, capacities.total).astype(np.int64))
    else:
        weighed = PerGroup(raw_weights, raw_weights)
        quotas = divide_amount(amount_of(budget), capacities, weighed)
    keys = sort_keys(rows, score, descending, f"mix.weights:{seed}")
    ranks = ranks_within(groups.codes, keys)
    order = held_first(np.argsort(ranks, kind="stable"), held_rows(rows, held))
    order = order[quotas.positive()[groups.codes[order]]]
    selected = fill_groups(costs, groups.codes, order, quotas)
    weight = raw_weights / max(raw_weights.sum(), TINY)
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
