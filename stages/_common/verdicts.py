"""Verdict columns of a stage that drops rows: a reason, and the evidence as a JSON object.

Evidence is written here and nowhere else: `evidence_json` writes that of one row, `evidence_of`
that of a frame over columns, which is much faster where many rows are dropped. The two differ
in white space alone (`{"a": 1}` and `{"a":1}`); which of them a stage uses is part of its
output and stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl


def evidence_json(cause: Mapping[str, Any]) -> str:
    """One row's evidence as a JSON object, characters beyond ASCII as they are.

    >>> evidence_json({"duplicate_of": "0f3a", "score": 0.75})
    '{"duplicate_of": "0f3a", "score": 0.75}'
    """
    return json.dumps(cause, ensure_ascii=False)


def evidence_of(*columns: str | pl.Expr) -> pl.Expr:
    """Each row's evidence as a JSON object of columns.

    Args:
        columns: Columns or expressions; their names are the keys.

    Returns:
        A String expression. A null is written as `null`.

    >>> rows = pl.DataFrame({"score": [0.5, 0.25], "rank": [2, 3]})
    >>> rows.select(text=evidence_of("score", "rank"))["text"].to_list()
    ['{"score":0.5,"rank":2}', '{"score":0.25,"rank":3}']
    """
    return pl.struct(*columns).struct.json_encode()


def verdict(
    is_dropped: pl.Expr, reason: str | pl.Expr, evidence: pl.Expr
) -> tuple[pl.Expr, pl.Expr]:
    """The columns `drop_reason` and `evidence`, null where a row is kept.

    Args:
        is_dropped: A Boolean expression; where it is null the row is kept.
        reason: The reason of all dropped rows, or an expression that gives each one's.
        evidence: A String expression, such as `evidence_of` gives.

    >>> rows = pl.DataFrame({"score": [0.5, 0.25]})
    >>> rows.select(verdict(pl.col("score") < 0.3, "low", evidence_of("score"))).rows()
    [(None, None), ('low', '{"score":0.25}')]
    """
    named = pl.lit(reason) if isinstance(reason, str) else reason
    return (
        pl.when(is_dropped).then(named).alias("drop_reason"),
        pl.when(is_dropped).then(evidence).alias("evidence"),
    )


def dropped(height: int, reason: str, evidence: Mapping[int, Mapping[str, Any]]) -> pl.DataFrame:
    """`drop_reason` and `evidence` for a frame in which few rows are dropped.

    Args:
        height: Rows of the frame.
        reason: The reason of all dropped rows.
        evidence: For each dropped row, by its position in the frame, what caused it.

    >>> dropped(2, "duplicate", {1: {"duplicate_of": "0f3a"}}).rows()
    [(None, None), ('duplicate', '{"duplicate_of": "0f3a"}')]
    """
    texts: list[str | None] = [None] * height
    for position, cause in evidence.items():
        texts[position] = evidence_json(cause)
    column = pl.Series("evidence", texts, dtype=pl.String)
    is_dropped = column.is_not_null()
    return pl.DataFrame([column]).select(verdict(pl.lit(is_dropped), reason, pl.col("evidence")))
