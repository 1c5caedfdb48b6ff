"""The order of the rows, where it matters (greedy methods, `keep: first`).

`order_by` is `id` (the default), `origin` (source, then index: the order of the
files) or a column; ` desc` after it reverses the order. Ties are broken by id, so
the order in which files or rows were read never matters.
"""

from __future__ import annotations

import polars as pl
from polars import selectors


def order_columns(order_by: str) -> list[str]:
    """The columns that an `order_by` reads beside `id`."""
    name = order_by.removesuffix(" desc").strip()
    return {"id": [], "origin": ["origins"]}.get(name, [name])


def ordering(rows: pl.DataFrame, order_by: str) -> pl.Series:
    """Positions of the rows of a frame in the requested order: u32 of length len(rows).

    Nulls and NaN of a column come last in either direction.

    Example:
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "score": [1.0, 3.0, None]})
        >>> ordering(rows, "score desc").to_list()
        [1, 0, 2]
    """
    name, descending = order_by.removesuffix(" desc").strip(), order_by.endswith(" desc")
    frame = rows.select(
        pl.col("id"),
        *_keys(name),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("_position"),
    )
    keys = [c for c in frame.columns if c.startswith("_key")]
    ordered = frame.with_columns(selectors.float().fill_nan(None)).sort(
        [*keys, "id"],
        descending=[descending] * len(keys) + [descending and not keys],
        nulls_last=True,
    )
    return ordered["_position"]


def _keys(name: str) -> list[pl.Expr]:
    if name == "id":
        return []
    if name == "origin":
        first = pl.col("origins").list.sort().list.first()
        return [
            first.struct.field("source").alias("_key_source"),
            first.struct.field("index").alias("_key_index"),
        ]
    return [pl.col(name).alias("_key")]
