"""A mixture: a budget for each source, task or tag, and the rows that fill it.

How the weights of the groups are set (`method`), r being a group's number of rows:

- `fixed`: given by name. Tülu 1 and 2 (Wang et al. 2023, arXiv:2306.04751; Ivison et
  al. 2023, arXiv:2311.10702): counts per data set, `budget: null`; AITP's share of
  rewritten rows, replay shares and pinches of a language likewise;
- `proportional`: min(r, cap). Examples-proportional mixing with a limit K (T5, Raffel
  et al. 2020, arXiv:1910.10683, section 3.5.2); FLAN (Wei et al. 2021,
  arXiv:2109.01652): `cap: 3000, limit: 30000`; OPT-IML (Iyer et al. 2022,
  arXiv:2212.12017), whose EPS is `cap`;
- `temperature`: min(r, cap)^(1/T) (T5, which tries T = 2, 4 and 8), from proportional
  at T = 1 to balanced as T grows;
- `balanced`: every group the same (the Flan Collection's balance of tasks, Longpre
  et al. 2023, arXiv:2301.13688; a number of languages);
- `submodular`: SMART (Renduchintala et al. 2024, arXiv:2403.08370). A group stands
  at the mean of its vectors. Groups are chosen greedily by graph cut, whose marginal
  gain is g(x) = sum of s(i, x) over all groups i - lambda (2 sum of s(j, x) over the
  chosen j + s(x, x)), s being the cosine and lambda 0.4; their weights are the
  second-order Taylor softmax of the gains, 1 + g + g^2 / 2.

No row is repeated. What a group is too small to take goes to the others in
proportion to their weights (in SMART's code one by one in turn).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._selection.budget import (
    Unit,
    check_budget,
    cost_columns,
    costs,
    divide,
    expression_columns,
    fill_groups,
    not_selected,
    ranks_within,
    scores,
    uniform,
)
from stages._selection.groups import Groups, check_shares, group_columns, groups_of
from stages._vectors.arrays import Matrix, as_matrix

TINY: Final = float(np.finfo(np.float64).tiny)

Method = Literal["fixed", "proportional", "temperature", "balanced", "submodular"]


def _reads(options: SimpleNamespace) -> list[str]:
    columns = [*group_columns(options.group), *expression_columns(options.by)]
    columns += [options.vector] if options.method == "submodular" else []
    return list(dict.fromkeys([*columns, *cost_columns(options.unit, options.tokens)]))


def _check(options: SimpleNamespace) -> None:
    group_columns(options.group)
    expression_columns(options.by)
    check_budget(options)
    if (options.method == "fixed") != (options.shares is not None):
        raise UserError("`shares` and method: fixed go together", hint="shares: {math: 2, code: 1}")
    if options.shares is not None:
        check_shares(options.shares)
        if options.budget is None and any(share % 1 for share in options.shares.values()):
            raise UserError(
                f"shares: {dict(options.shares)} are no counts of rows or tokens",
                hint="give a budget that they are shares of, or whole numbers",
            )
    if options.budget is None and options.method != "fixed":
        raise UserError(
            f"method: {options.method} needs a budget", hint="give it in rows or tokens"
        )
    for name, least in (("cap", 1), ("limit", 0), ("groups", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"{name}: {value}", hint=f"give {least} or more, or null")
    if options.temperature <= 0:
        raise UserError(f"temperature: {options.temperature}", hint="give more than 0")
    method = options.method
    refuse_idle(
        *(weights, options),
        (method in ("proportional", "temperature"), "the methods by size", "cap"),
        (method == "temperature", "method: temperature", "temperature"),
        (method == "submodular", "method: submodular", "redundancy groups vector"),
        (options.by is not None, "a score: by", "descending"),
        (options.by is None, "rows that are drawn, without by", "seed"),
        (options.unit == "tokens", "unit: tokens", "tokens"),
    )


@stage(
    version=3,
    scope="set",
    reads=_reads,
    adds={"mix_group": pl.String, "mix_weight": pl.Float64, "mix_rank": pl.Int32},
    files=True,
    check=_check,
)
def weights(
    ctx: Context,
    rows: Records,
    *,
    method: Method,
    budget: int | None = None,
    unit: Unit = "rows",
    group: str = "source",
    shares: Mapping[str, float] | None = None,
    cap: int | None = None,
    temperature: float = 2.0,
    redundancy: float = 0.4,
    groups: int | None = None,
    limit: int | None = None,
    by: str | None = None,
    descending: bool = True,
    seed: int = 0,
    vector: str = "vector",
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Split the budget among groups by weights, and keep rows of each, at random or the best.

    budget: how much to keep in all, in rows or tokens; never exceeded, and in rows
        met exactly where the groups with a weight have enough. In tokens, a row that
        no longer fits its group's quota is passed over. null, for `fixed`: the
        shares are themselves the rows or tokens to keep of each group.
    group: `source`, a column or an SQL expression; of lists such as tags, a row
        stands under the rarest, among those that `shares` names (see `_strata.py`).
    shares: for `fixed`; a group that is not named gets nothing. Raises UserError
        for a name that no row has.
    cap: the rows beyond which a group gains no weight (K). temperature: T.
    redundancy: lambda. groups: how many SMART chooses; null for all.
    limit: the most that is kept of one group, in the budget's unit.
    by, descending, seed: which rows of a group: the best by a column or an SQL
        expression (missing scores last, equal ones by id), or random ones.
    vector, tokens: the columns of vectors, and of token counts.

    Adds `mix_group`, `mix_weight` (all groups' sum to 1) and `mix_rank`, the row's place in
    its group. Dropped: `not_selected`, or `missing_score` where it has none, with all that
    and the group's quota. Writes `budgets.json`: each group's rows, size (in the budget's
    unit), weight and quota, and what was kept of it.
    """
    found = groups_of(rows, group, shares or ())
    prices = costs(rows, unit, tokens)
    sizes = np.bincount(found.codes, prices, len(found.names)).astype(np.int64)
    if shares is not None:
        raw = found.weights(shares)
    elif method == "submodular":
        raw = _submodular(_means(as_matrix(rows[vector]), found), redundancy, groups)
    else:
        raw = _by_size(found, method, cap, temperature)
    capacities = sizes if limit is None else np.minimum(sizes, limit)
    if budget is None:
        quotas = np.minimum(raw, capacities).astype(np.int64)
    else:
        quotas = divide(budget, capacities, raw)
    keys = uniform(rows["id"], f"mix.weights:{seed}")
    if by is not None:
        keys = -scores(rows, by) if descending else scores(rows, by)
    ranks = ranks_within(found.codes, keys)
    order = np.argsort(ranks, kind="stable")
    order = order[quotas[found.codes[order]] > 0]
    chosen = fill_groups(prices, found.codes, order, quotas)
    facts = {"size": sizes, "weight": raw / max(raw.sum(), TINY), "quota": quotas}
    _write(ctx, found, prices, chosen, facts)
    told = {
        "group": found.labels(),
        "weight": facts["weight"][found.codes],
        "rank": pl.Series(ranks, dtype=pl.Int32),
    }
    verdict = not_selected(chosen, {**told, "quota": quotas[found.codes]}, by, keys)
    return verdict.with_columns(pl.Series(f"mix_{name}", column) for name, column in told.items())


def _by_size(
    groups: Groups, method: Method, cap: int | None, temperature: float
) -> NDArray[np.float64]:
    """Weights that follow from the groups' numbers of rows alone."""
    rows = np.bincount(groups.codes, minlength=len(groups.names)).astype(np.float64)
    if method == "balanced":
        return np.ones(len(rows))
    examples = rows if cap is None else np.minimum(rows, cap)
    if method == "proportional":
        return examples
    largest = examples.max(initial=1.0)  # a ratio cannot overflow, however low T is
    heated: NDArray[np.float64] = (examples / largest) ** (1 / temperature)
    return heated


def _means(vectors: Matrix, groups: Groups) -> NDArray[np.float64]:
    """The mean vector of each group, shape (groups, dimensions)."""
    order = np.argsort(groups.codes, kind="stable")
    sizes = np.bincount(groups.codes, minlength=len(groups.names))
    parts = np.split(order, np.cumsum(sizes))[: len(sizes)]
    means = [vectors[part].mean(axis=0, dtype=np.float64) for part in parts]
    return np.array(means).reshape(len(means), vectors.shape[1])


def _submodular(
    means: NDArray[np.float64], redundancy: float, wanted: int | None
) -> NDArray[np.float64]:
    """SMART's weights: the Taylor softmax of the gains of a greedy graph cut, 0 for the rest.

    A group whose mean is zero resembles none, not even itself. Of equal gains (to 12
    decimals) the first group in alphabetical order is taken.
    """
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    units = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0)
    similar = np.einsum("ik,jk->ij", units, units)
    gains = similar.sum(axis=0) - redundancy * np.diag(similar)
    weights = np.zeros(len(means))
    open_groups = np.ones(len(means), np.bool_)
    for _ in range(len(means) if wanted is None else min(wanted, len(means))):
        best = int(np.argmax(np.where(open_groups, np.round(gains, 12), -np.inf)))
        weights[best] = 1 + gains[best] + gains[best] ** 2 / 2
        open_groups[best] = False
        gains -= 2 * redundancy * similar[best]
    return weights


def _write(
    ctx: Context,
    groups: Groups,
    prices: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    facts: Mapping[str, NDArray[Any]],
) -> None:
    count = len(groups.names)
    table = {
        "group": groups.names,
        "rows": np.bincount(groups.codes, minlength=count),
        **facts,
        "kept": np.bincount(groups.codes, prices * chosen, count).astype(np.int64),
        "kept_rows": np.bincount(groups.codes, chosen, count).astype(np.int64),
    }
    lines = pl.DataFrame(table).to_dicts()
    text = json.dumps(lines, indent=2, ensure_ascii=False)
    (ctx.files / "budgets.json").write_text(text + "\n", "utf-8")
