"""A few rows of a stage, drawn so that the same seed gives the same rows everywhere.

A row's place in the draw is a hash of the seed and of what the row is: it does not depend on
the other rows, so that a larger sample begins with the smaller one, and rows that come to a
pool leave most of the sample as it was.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import polars as pl

from pipeline.errors import UserError
from pipeline.hints import closest

IDENTITY: Final = ("id", "evidence", "file", "line", "error")
"""Columns that say which row it is; rows that failed or are merged have no id of their own."""


def sampled(rows: pl.DataFrame, number: int, seed: int = 0) -> pl.DataFrame:
    """Some of the rows, in the order in which they are drawn.

    Args:
        rows: Rows as a snapshot gives them.
        number: How many.
        seed: Another seed gives other rows.

    >>> rows = pl.DataFrame({"id": ["a", "b", "c", "d"]})
    >>> sampled(rows, 2)["id"].to_list() == sampled(rows.reverse(), 3)["id"].to_list()[:2]
    True
    """
    columns = [name for name in IDENTITY if name in rows.columns]
    keys = [
        blake2b(repr((seed, values)).encode("utf-8"), digest_size=8).digest()
        for values in rows.select(columns).iter_rows()
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)[:number]
    return rows[order]


def with_reason(rows: pl.DataFrame, reason: str, stage: str) -> pl.DataFrame:
    """The rows that were dropped for a reason.

    Args:
        rows: The dropped rows of a stage.
        reason: The reason.
        stage: The stage's name, for the message.

    Raises:
        UserError: None was dropped for it.
    """
    matches = rows.filter(pl.col("drop_reason") == reason)
    if matches.is_empty():
        counts = rows["drop_reason"].value_counts(sort=True).sort("count", "drop_reason")
        reasons = [f"{name} ({count:,})" for name, count in counts.reverse().iter_rows()]
        raise UserError(
            f"{stage} dropped no row for the reason {reason!r}",
            why=f"its reasons are {', '.join(reasons)}" if reasons else "it dropped none at all",
            hint=closest(reason, rows["drop_reason"].unique().to_list()),
        )
    return matches


def heading(shown: int, total: int, stage: str, part: str, reason: str | None = None) -> str:
    """What stands above a sample.

    Args:
        shown: Its rows.
        total: The rows that it is drawn from.
        stage: The stage's name.
        part: "kept", "dropped" or "failed".
        reason: Why they were dropped, where one reason was asked for.

    >>> heading(5, 2685, "chosen", "dropped", "not_selected")
    '5 of 2,685 rows dropped by chosen: not_selected'
    """
    where = f"dropped by {stage}" if part == "dropped" else f"{part} in {stage}"
    return f"{shown:,} of {total:,} rows {where}" + (f": {reason}" if reason else "")
