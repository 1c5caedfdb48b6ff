"""Verdict columns for a stage that drops rows: a reason and the evidence, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl


def dropped(height: int, reason: str, evidence: Mapping[int, Mapping[str, Any]]) -> pl.DataFrame:
    """`drop_reason` and `evidence` for a frame of `height` rows.

    evidence: for each dropped row, by its position in the frame, what caused it.
    """
    told: list[str | None] = [None] * height
    for position, cause in evidence.items():
        told[position] = json.dumps(cause, ensure_ascii=False)
    column = pl.Series("evidence", told, dtype=pl.String)
    return pl.DataFrame([column]).select(
        pl.when(column.is_not_null()).then(pl.lit(reason)).alias("drop_reason"), "evidence"
    )
