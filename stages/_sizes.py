"""How long texts are, for what a stage expects of its requests before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

SAMPLE: Final = 1000
"""Rows that are looked at where each costs time: ids are digests, so the first are any."""


def characters(rows: pl.DataFrame, text: pl.Expr) -> float:
    """Mean characters of a text of each row, such as `first_user_turn()`; none is empty."""
    return mean(rows.select(text.str.len_chars().fill_null(0)).to_series().to_list())


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
