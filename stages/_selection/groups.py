"""Groups of rows: what quotas, mixtures and rankings per group are taken over.

A group is named by `source`, by a column, or by an SQL expression over columns:

- `source`: where the row comes from, from its `origins`; a row that was found in
  several sources counts for the first in alphabetical order. (A column of this
  name is reached in SQL's quotes: `'"source"'`.)
- texts, whole numbers, booleans, decimals: each value is a group, named by its
  text (`true`, `3`). Scores are cut into groups by an expression: `floor(ppl / 10)`.
- lists of texts, such as tags: the row stands under the rarest of its tags, the
  first in alphabetical order among equally rare ones, so that small groups are
  seen. Where some groups are asked for by name, only these tags count.
- a missing value (null or NaN), or an empty list: the group `null`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.recipe.problems import suggest
from stages._selection.budget import expression, expression_columns

SOURCE: Final = "source"

MISSING: Final = "null"
"""The group of rows without a value."""


class Groups(NamedTuple):
    """names: of the groups, in alphabetical order. codes: each row's place among them."""

    names: list[str]
    codes: NDArray[np.int64]

    def labels(self) -> pl.Series:
        """Each row's group by name."""
        return pl.Series(self.names, dtype=pl.String).gather(self.codes)

    def weights(self, shares: Mapping[str, float]) -> NDArray[np.float64]:
        """The share of each group, 0 where it has none.

        Raises UserError for the share of a group that no row is in.
        """
        unknown = sorted(set(shares) - set(self.names))
        if unknown and self.names:
            raise UserError(
                f"shares: there is no group {', '.join(map(repr, unknown))}",
                hint=suggest(unknown[0], self.names),
            )
        return np.array([shares.get(name, 0.0) for name in self.names])


def group_columns(group: str | None) -> list[str]:
    """The columns that `groups_of` reads; none for None."""
    return ["origins"] if group == SOURCE else expression_columns(group)


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise UserError for shares below zero and for shares that are all zero."""
    if any(share < 0 for share in shares.values()) or not any(shares.values()):
        raise UserError(
            f"shares: {dict(shares)} shares nothing out",
            hint="give each group 0 or more, and one of them more than 0",
        )


def groups_of(rows: pl.DataFrame, group: str | None, named: Iterable[str] = ()) -> Groups:
    """The groups of the rows; one group of all for None.

    named: the groups that are asked for by name; see above for lists.
    Raises UserError for what has no value to group by.
    """
    if group is None:
        return Groups(["all"] if len(rows) else [], np.zeros(len(rows), np.int64))
    values = _sources(rows) if group == SOURCE else _values(rows, group)
    if isinstance(values.dtype, pl.List):
        values = _rarest(values, list(named))
    labels = values.cast(pl.String).fill_null(MISSING)
    names = labels.unique().sort()
    codes = labels.cast(pl.Enum(names)).to_physical().cast(pl.Int64)
    return Groups(names.to_list(), codes.to_numpy())


def _sources(rows: pl.DataFrame) -> pl.Series:
    source = pl.element().struct.field("source")
    return rows.select(pl.col("origins").list.eval(source).list.min()).to_series()


def _values(rows: pl.DataFrame, group: str) -> pl.Series:
    try:
        values = rows.select(expression(group).alias("group")).to_series()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{group!r} gives no groups", why=str(error).partition("\n")[0]) from None
    kind = values.dtype
    values = values.fill_nan(None) if kind.is_float() else values
    plain = kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum)
    if not plain and kind != pl.List(pl.String):
        raise UserError(
            f"{group!r} gives {kind}, which has no groups",
            hint="name texts, numbers, booleans or lists of texts",
        )
    return values


def _rarest(tags: pl.Series, named: list[str]) -> pl.Series:
    """The rarest tag of each row among the rows, null for a row without one."""
    listed = pl.DataFrame({"row": np.arange(len(tags)), "tag": tags}).explode("tag").drop_nulls()
    if named:
        listed = listed.filter(pl.col("tag").is_in(named))
    rarest = (
        listed.unique()
        .with_columns(pl.len().over("tag").alias("rows"))
        .sort("row", "rows", "tag")
        .unique("row", keep="first", maintain_order=True)
    )
    found: list[str | None] = [None] * len(tags)
    for row, tag in rarest.select("row", "tag").iter_rows():
        found[row] = tag
    return pl.Series(found, dtype=pl.String)
