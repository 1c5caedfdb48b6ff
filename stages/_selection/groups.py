"""Groups of rows: what quotas, mixtures and rankings within groups are taken over.

An option `group` names them by `source`, by a column, or by an SQL expression over columns:

- `source`: the source in the row's `origins`; a row with several sources belongs to the
  first in alphabetical order. (A column of this name is reached in SQL's quotes:
  `'"source"'`.)
- texts, whole numbers, booleans, decimals: each value is a group, named by its text
  (`true`, `3`). Scores are cut into groups by an expression: `floor(ppl / 10)`.
- lists of texts, such as tags: the row belongs to the rarest of its tags, of equally rare
  ones to the first in alphabetical order, so that small groups are seen. Where weights
  name some groups, only these tags count.
- a missing value (null, NaN or infinity), or an empty list: the group `null`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.errors import UserError
from pipeline.hints import suggest
from pipeline.types import NonNegativeFloat
from stages._selection.scores import expression, expression_columns

SOURCE: Final = "source"

MISSING: Final = "null"
"""The group of rows without a value."""


def _some_positive(weights: Mapping[str, float]) -> Mapping[str, float]:
    if not any(weights.values()):
        raise ValueError(f"must be above 0 for at least one group, got {dict(weights)}")
    return weights


GroupWeights = Annotated[Mapping[str, NonNegativeFloat], AfterValidator(_some_positive)]
"""An option: the weights of groups by name, at least one of them above 0."""


class Groups(NamedTuple):
    """The groups of some rows.

    Attributes:
        names: The groups in alphabetical order.
        codes: The position of each row's group among the names, shape (rows,).
    """

    names: list[str]
    codes: NDArray[np.int64]

    def labels(self) -> pl.Series:
        """Each row's group by name."""
        return pl.Series(self.names, dtype=pl.String).gather(self.codes)

    def weights(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        """The weight of each group, 0 where it has none; shape (groups,).

        Raises:
            UserError: A weight is for a group that has no rows.
        """
        unknown = sorted(set(weights) - set(self.names))
        if unknown and self.names:
            raise UserError(
                f"weights must be of groups with rows, got {', '.join(map(repr, unknown))}",
                hint=suggest(unknown[0], self.names),
            )
        return np.array([weights.get(name, 0.0) for name in self.names])


def group_columns(group: str | None) -> list[str]:
    """The columns that `groups_of` reads; none for None."""
    return ["origins"] if group == SOURCE else expression_columns(group)


def groups_of(rows: pl.DataFrame, group: str | None, named: Iterable[str] = ()) -> Groups:
    """The groups of the rows.

    Args:
        rows: The rows, with the columns of `group`.
        group: `source`, a column or an SQL expression; None for one group of all rows.
        named: The groups that weights name; of lists, only these values count.

    Raises:
        UserError: The values are of a type that has no groups.

    Example:
        >>> groups_of(pl.DataFrame({"tags": [["a", "b"], ["a"], None]}), "tags").labels().to_list()
        ['b', 'a', 'null']
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
    required = "texts, numbers, booleans or lists of texts"
    try:
        values = rows.select(expression(group).alias("group")).to_series()
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{group!r} must give {required}", why=why) from None
    dtype = values.dtype
    if dtype.is_float():
        values = values.set(~values.is_finite(), None)
    scalar = dtype.is_numeric() or dtype in (
        pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum,
    )  # fmt: skip
    if not scalar and dtype != pl.List(pl.String):
        raise UserError(
            f"{group!r} must give {required}, got {dtype}",
            hint="name another column, or an expression over columns",
        )
    return values


def _rarest(tags: pl.Series, named: list[str]) -> pl.Series:
    """The rarest tag of each row among the rows, null for a row without one."""
    exploded = pl.DataFrame({"row": np.arange(len(tags)), "tag": tags}).explode("tag").drop_nulls()
    if named:
        exploded = exploded.filter(pl.col("tag").is_in(named))
    rarest = (
        exploded.unique()
        .with_columns(pl.len().over("tag").alias("rows"))
        .sort("row", "rows", "tag")
        .unique("row", keep="first", maintain_order=True)
    )
    result: list[str | None] = [None] * len(tags)
    for row, tag in rarest.select("row", "tag").iter_rows():
        result[row] = tag
    return pl.Series(result, dtype=pl.String)
