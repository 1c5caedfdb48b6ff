"""What the rows of each source are like, by indicators that any row has and by columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from schemas.records import first_user_turn, response
from schemas.refusals import REFUSAL

FACETS: Final = ("quality", "diversity", "importance")
"""What surveys of data selection part methods by (Qin et al. 2024, arXiv:2408.02085)."""

ALL: Final = "all"
MAX_VALUES: Final = 12
"""Values of a column of texts that are counted; the others count as one."""


def by_source(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """The indicators of all rows and of each source; a row of two sources counts in both.

    Args:
        rows: Records.
        columns: Further columns: of numbers the mean, of flags the share, of texts the number of
            each value.

    Returns:
        By source `rows`, `request_characters`, `answer_characters` (means), `refusals`, `empty`
        (shares), and by column what it holds.
    """
    answer = response().fill_null("")
    described = rows.select(
        pl.col("origins").list.eval(pl.element().struct.field("source")).list.unique().alias("_of"),
        first_user_turn().fill_null("").str.len_chars().alias("request_characters"),
        answer.str.len_chars().alias("answer_characters"),
        answer.str.contains(REFUSAL).alias("refusals"),
        (answer.str.strip_chars() == "").alias("empty"),
        *columns,
    )
    sources = described.explode("_of").with_columns(pl.col("_of").fill_null("(none)"))
    groups = {ALL: described.drop("_of")} | {
        str(key[0]): group.drop("_of")
        for key, group in sources.group_by("_of", maintain_order=True)
    }
    names = [ALL, *sorted(groups.keys() - {ALL})]
    return {name: {"rows": len(groups[name]), **_summary(groups[name])} for name in names}


def _summary(group: pl.DataFrame) -> dict[str, Any]:
    return {column.name: _value(column) for column in group.iter_columns()}


def _value(column: pl.Series) -> Any:
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        values = column.cast(pl.Float64).fill_nan(None)
        return values.mean()
    counts = column.cast(pl.String).fill_null("(none)").value_counts(name="rows")
    ordered = counts.sort("rows", column.name, descending=[True, False]).rows()
    shown = dict(ordered[:MAX_VALUES])
    if len(ordered) > MAX_VALUES:
        shown["(others)"] = sum(n for _, n in ordered[MAX_VALUES:])
    return shown


def coverage(rows: pl.DataFrame, facets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which facets of a selection the rows have columns for, and how many rows have a value.

    Args:
        rows: Records with these columns.
        facets: Columns by facet.

    Returns:
        By facet, those of the surveys always among them, by column the share of rows with a value.
    """
    names = dict.fromkeys([*FACETS, *facets])
    return {
        facet: {
            column: 1 - _missing(rows[column]) / len(rows) if len(rows) else None
            for column in facets.get(facet, ())
        }
        for facet in names
    }


def _missing(column: pl.Series) -> int:
    """Rows without a value; one that is no number is none."""
    numbers = column.fill_nan(None) if column.dtype.is_float() else column
    return numbers.null_count()
