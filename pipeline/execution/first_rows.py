"""The first rows, in the order in which a person reads the sources: for previews."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl


def first_ids(
    read: Callable[[Sequence[str]], pl.DataFrame], columns: Sequence[str], number: int
) -> pl.Series:
    """The ids of the first rows: of each source the first one, then the second ones, and so on.

    Rows without an origin, such as generated ones, come last, by their ids.

    Args:
        read: Reads `id` and named columns of all rows.
        columns: The columns that there are.
        number: How many rows.

    Example:
        >>> origins = [[{"source": s, "index": i}] for s, i in (("b", 0), ("a", 7), ("b", 3))]
        >>> rows = pl.DataFrame({"id": ["x", "y", "z"], "origins": origins})
        >>> first_ids(lambda names: rows.select("id", *names), ["id", "origins"], 2).to_list()
        ['x', 'z']
    """
    if "origins" not in columns:
        return read([])["id"].sort().head(number)
    first = pl.col("origins").list.first().struct
    rank = (first.field("index"), first.field("source"), pl.col("id"))
    rows = read(["origins"]).select("id", *(e.alias(f"_{i}") for i, e in enumerate(rank)))
    return rows.sort("_0", "_1", "_2", nulls_last=True)["id"].head(number)
