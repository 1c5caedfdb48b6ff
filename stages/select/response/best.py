"""The answers with the best scores of each group."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import option_group
from stages._common.verdicts import evidence_of
from stages._selection.scores import ranks_within


@option_group
class Best:
    """The best by the option `score`."""

    name: Literal["best"] = "best"


def best(
    rows: pl.DataFrame,
    groups: NDArray[np.int64],
    values: NDArray[np.float64],
    keys: NDArray[np.float64],
    max_per_group: int,
) -> pl.DataFrame:
    """Rank the rows of each group by their scores.

    Args:
        rows: The rows.
        groups: The number of each row's group, shape (rows,).
        values: The scores, NaN where missing, shape (rows,).
        keys: The scores with their sign such that the smallest is the best, shape (rows,).
        max_per_group: How many of each group are kept.

    Returns:
        The columns of the stage.

    Example:
        >>> rows, values = pl.DataFrame({"id": ["a", "b", "c"]}), np.array([0.5, 0.9, np.nan])
        >>> best(rows, np.zeros(3, int), values, -values, 1)["drop_reason"].to_list()
        ['not_selected', None, 'missing_score']
    """
    table = pl.DataFrame(
        {
            "id": rows["id"],
            "group": groups,
            "rank": ranks_within(groups, keys) if len(groups) else groups,
            "score": pl.Series(values, dtype=pl.Float64).fill_nan(None),
        }
    )
    first = (pl.col("rank") == 1) & pl.col("score").is_not_null()
    table = table.with_columns(
        pl.col("id").filter(first).first().over("group").alias("winner"),
        pl.col("score").filter(first).first().over("group").alias("winner_score"),
    )
    missing = pl.col("score").is_null()
    lost = missing | (pl.col("rank") > max_per_group)
    evidence = evidence_of("winner", "winner_score", "score", "rank")
    evidence_missing = evidence_of("winner", "winner_score")
    return table.select(
        pl.when(~missing).then("rank").cast(pl.Int32).alias("response_rank"),
        pl.when(missing)
        .then(pl.lit("missing_score"))
        .when(lost)
        .then(pl.lit("not_selected"))
        .alias("drop_reason"),
        pl.when(missing).then(evidence_missing).when(lost).then(evidence).alias("evidence"),
    )
