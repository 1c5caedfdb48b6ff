"""What each filter removes of rows that were planted, and what of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.records import response
from schemas.refusals import REFUSAL


def recall_of_filters(
    rows: pl.DataFrame, planted: pl.DataFrame, filtered: Mapping[str, pl.DataFrame]
) -> dict[str, Any]:
    """For each filter how many of the planted rows it removed, and how many others.

    Args:
        rows: The rows before any filter.
        planted: The planted ones; those that are not among the rows do not count.
        filtered: What each filter kept.

    Returns:
        `rows`, `planted`; `filters`: by name `removed`, `removed_planted`, `precision` (None where
        nothing was removed), `recall` and `false_alarms`, the share of the other rows.

    Example:
        >>> rows, planted = pl.DataFrame({"id": ["a", "b", "c", "d"]}), pl.DataFrame({"id": ["a"]})
        >>> kept = {"phrases": pl.DataFrame({"id": ["c", "d"]})}
        >>> recall_of_filters(rows, planted, kept)["filters"]["phrases"]["precision"]
        0.5
    """
    ids = {*rows["id"]}
    bad = ids & {*planted["id"]}
    filters = {}
    for name, kept in filtered.items():
        removed = ids - {*kept["id"]}
        hits = len(removed & bad)
        filters[name] = {
            "removed": len(removed),
            "removed_planted": hits,
            "precision": hits / len(removed) if removed else None,
            "recall": hits / len(bad) if bad else None,
            "false_alarms": (len(removed) - hits) / len(ids - bad) if ids - bad else None,
        }
    return {"rows": len(ids), "planted": len(bad), "filters": filters}


def behaviour(rows: pl.DataFrame, phrases: Sequence[str]) -> dict[str, Any]:
    """How many answers refuse, and how many hold a phrase, each answer once.

    Args:
        rows: Records.
        phrases: The phrases; case does not count.
    """
    answers = rows.select(text=response().fill_null(""))["text"]
    n = len(answers)
    lower = answers.str.to_lowercase()
    return {
        "answers": n,
        "refusals": int(answers.str.contains(REFUSAL).sum()),
        "phrases": {
            phrase: int(lower.str.contains(phrase.lower(), literal=True).sum())
            for phrase in phrases
        },
    }
