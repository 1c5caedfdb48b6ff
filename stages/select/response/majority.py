"""The answer that most rows of a group give.

Self-consistency (Wang et al. 2022, arXiv:2203.11171) and LMSI (Huang et al. 2022,
arXiv:2210.11610).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import Count, option_group
from schemas.records import response as last_answer
from stages._common.verdicts import evidence_of
from stages.select.response.consensus import normalized


@option_group
class Majority:
    """The most frequent answer of a group.

    Attributes:
        answer_column: The column of final answers; null compares the last turns in lower
            case without punctuation.
        min_votes: A group is dropped as `no_majority` where the winner has fewer.
    """

    name: Literal["majority"] = "majority"
    answer_column: str | None = None
    min_votes: Count = 1


def majority(
    rows: pl.DataFrame,
    groups: NDArray[np.int64],
    keys: NDArray[np.float64],
    is_held: NDArray[np.bool_],
    max_per_group: int,
    method: Majority,
) -> pl.DataFrame:
    """Keep the best rows of each group's most frequent answer.

    Args:
        rows: The rows.
        groups: The number of each row's group, shape (rows,).
        keys: Scores with their sign such that the smallest is the best, shape (rows,).
        is_held: Whether a row goes before the others of its answer, shape (rows,).
        max_per_group: How many rows of the winning answer are kept.
        method: Which answers are compared, and how many votes they need.

    Returns:
        The columns of the stage.
    """
    answer, min_votes = method.answer_column, method.min_votes
    table = pl.DataFrame(
        {
            "id": rows["id"],
            "position": np.arange(len(rows)),
            "group": groups,
            "answer": _answers(rows, answer),
            "place": (~is_held).astype(np.int8),
            "key": pl.Series(keys, dtype=pl.Float64).fill_nan(None),
            "weight": rows["origins"].list.len().fill_null(0).clip(1).cast(pl.Int32),
        }
    )
    voted = table.join(_votes(table), on="position", how="left", maintain_order="left")
    evidence = {
        "no_answer": evidence_of(pl.lit(answer or "messages").alias("answer")),
        "no_majority": evidence_of("winner_votes", pl.lit(min_votes).alias("min_votes")),
        "not_selected": evidence_of("winner", "winner_votes", "votes"),
    }
    return voted.with_columns(_reason(max_per_group, min_votes)).select(
        pl.col("rank").alias("response_rank"),
        pl.col("votes").alias("response_votes"),
        "drop_reason",
        pl.coalesce(
            pl.when(pl.col("drop_reason") == name).then(text) for name, text in evidence.items()
        ).alias("evidence"),
    )


def _reason(max_per_group: int, min_votes: int) -> pl.Expr:
    """Why a row is dropped."""
    return (
        pl.when(pl.col("answer").is_null())
        .then(pl.lit("no_answer"))
        .when(pl.col("winner_votes") < min_votes)
        .then(pl.lit("no_majority"))
        .when(~pl.col("wins") | (pl.col("rank") > max_per_group))
        .then(pl.lit("not_selected"))
        .alias("drop_reason")
    )


def _votes(table: pl.DataFrame) -> pl.DataFrame:
    """For each row with an answer its votes and rank, and whether its answer wins.

    Ranked by the answer's votes, then by the best row of the answer, then held rows before
    others, then by the row.
    """
    same = ["group", "answer"]
    order = ["group", "votes", "best", "first", "place", "key", "position"]
    return (
        table.drop_nulls("answer")
        .sort("key", "position", nulls_last=True)
        .with_columns(
            pl.col("weight").sum().over(same).cast(pl.Int32).alias("votes"),
            pl.col("key").first().over(same).alias("best"),
            pl.col("position").first().over(same).alias("first"),
        )
        .sort(order, descending=[name == "votes" for name in order], nulls_last=True)
        .select(
            "position",
            "votes",
            pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("group").alias("rank"),
            pl.col("id").first().over("group").alias("winner"),
            pl.col("votes").first().over("group").alias("winner_votes"),
            (pl.col("first") == pl.col("first").first().over("group")).alias("wins"),
        )
    )


def _answers(rows: pl.DataFrame, column: str | None) -> pl.Series:
    """The answers to compare: a column, or the last turns, normalized."""
    if column:
        return rows[column].cast(pl.String)
    texts = rows.select(last_answer()).to_series().to_list()
    return pl.Series([text and normalized(text) for text in texts], dtype=pl.String)
