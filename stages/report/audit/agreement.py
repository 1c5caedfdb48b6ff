"""How far annotators agree, beyond what chance would give: Cohen's and Fleiss's kappa."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl

Weights = Literal["none", "linear", "quadratic"]


def agreement(rows: pl.DataFrame, annotators: Sequence[str], weights: Weights) -> dict[str, Any]:
    """The agreement of each pair of annotators, and of all.

    Args:
        rows: One column for each annotator. Numbers are rounded to whole ones; rows without a
            label of one of a pair do not count for it.
        annotators: The columns.
        weights: How far two labels in order are from each other.

    Returns:
        `pairs`: by "a, b" `rows`, `agree` and `kappa` (Cohen's; None where there is one label
        alone); `fleiss`: `rows` and `kappa`, over the rows that all have labelled.

    Example:
        >>> rows = pl.DataFrame({"human": ["y", "y", "n", "n"], "judge": ["y", "n", "n", "n"]})
        >>> agreement(rows, ["human", "judge"], "none")["pairs"]["human, judge"]
        {'rows': 4, 'agree': 0.75, 'kappa': 0.5}
    """
    labels = rows.select(_labels(rows, name) for name in annotators)
    pairs = {
        f"{a}, {b}": _pair(labels.select(a, b).drop_nulls(), weights)
        for a, b in combinations(annotators, 2)
    }
    complete = labels.drop_nulls()
    return {"pairs": pairs, "fleiss": {"rows": len(complete), "kappa": fleiss_kappa(complete)}}


def _labels(rows: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name)
    if rows.schema[name].is_float():
        column = column.fill_nan(None).round().cast(pl.Int64)
    return column.cast(pl.String)


def _pair(labels: pl.DataFrame, weights: Weights) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score

    if labels.is_empty():
        return {"rows": 0, "agree": None, "kappa": None}
    a, b = (column.to_list() for column in labels.iter_columns())
    names = sorted({*a, *b}, key=_in_order)
    kappa = None
    if len(names) > 1:
        weighting = None if weights == "none" else weights
        kappa = float(cohen_kappa_score(a, b, labels=names, weights=weighting))
    agree = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    return {"rows": len(a), "agree": agree, "kappa": kappa}


def _in_order(label: str) -> tuple[int, float, str]:
    """Numbers by their value, so that weights mean distances, then texts."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def fleiss_kappa(labels: pl.DataFrame) -> float | None:
    """Fleiss's kappa (1971); None without rows or with one label alone.

    Args:
        labels: One column for each annotator, without nulls.

    >>> labels = pl.DataFrame({"a": ["y", "y", "n"], "b": ["y", "n", "n"], "c": ["y", "y", "n"]})
    >>> round(fleiss_kappa(labels), 4)
    0.55
    """
    names = sorted({label for column in labels.iter_columns() for label in column})
    if len(names) < 2 or labels.width < 2:
        return None
    cells = labels.to_numpy()
    counts = np.stack([(cells == name).sum(axis=1) for name in names], axis=1).astype(float)
    n = labels.width
    by_row = ((counts**2).sum(axis=1) - n) / (n * (n - 1))
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return float((by_row.mean() - chance) / (1 - chance))
