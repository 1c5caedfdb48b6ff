"""The columns of `select.diverse`: what was picked, and why the other rows were not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._common.verdicts import evidence_of
from stages._selection.amounts import Amount
from stages.select.diverse.lazy_greedy import Picks
from stages.select.diverse.mixed_precision import Floats, Positions


class Selection(NamedTuple):
    """What a method picks.

    Attributes:
        picks: The rows picked.
        nearest: For each of the others the most similar row that is picked or held, as a
            position in the vector set; -1 where it is not known. Shape (rows,).
        similarity: The similarity with it, minus the distance where the metric is Euclidean.
        too_similar: Whether that is why the row was not picked.
    """

    picks: Picks
    nearest: Positions
    similarity: Floats
    too_similar: NDArray[np.bool_]


class Facts(NamedTuple):
    """What the verdicts say beside the selection.

    Attributes:
        ids: The ids of the rows and of the rows that are held.
        quality: Each row's score, NaN where it is missing.
        is_held: The rows that are held as well.
        score: The score's expression.
        amount: The budget; None for no limit.
        threshold: The threshold, for the method that has one.
    """

    ids: pl.Series
    quality: Floats
    is_held: NDArray[np.bool_]
    score: str | None
    amount: Amount | None
    threshold: float | None


class Place(NamedTuple):
    """What is decided before a method picks.

    Attributes:
        first: The rows that were chosen before and keep their place.
        eligible: The rows that may be picked, a mask.
        amount: What is left of the budget; None for no limit.
    """

    first: Positions
    eligible: NDArray[np.bool_]
    amount: Amount | None

    def before(self, selection: Selection) -> Selection:
        """The selection with the rows that keep their place picked first, without a gain."""
        rows, gains = selection.picks
        gains = np.concatenate([np.full(len(self.first), np.nan), gains])
        return selection._replace(picks=Picks(np.concatenate([self.first, rows]), gains))


def verdicts(selection: Selection, facts: Facts, measure: str) -> pl.DataFrame:
    """The columns of the stage.

    Args:
        selection: What was picked.
        facts: What the verdicts say beside it.
        measure: What a similarity is called in the evidence: `similarity` or `distance`.
    """
    table = _table(selection, facts.ids, measure).with_columns(
        by=pl.lit(facts.score),
        budget=_budget(facts.amount),
        threshold=pl.lit(facts.threshold, pl.Float64),
    )
    picked, has_nearest = table["gain_rank"].is_not_null(), table["nearest"].is_not_null()
    reasons = [
        (pl.Series(facts.is_held), "held", ["budget"]),
        (pl.Series(np.isnan(facts.quality)), "missing_score", ["by"]),
        (pl.Series(selection.too_similar), "too_similar", ["nearest", measure, "threshold"]),
        (has_nearest, "not_selected", ["budget", "nearest", measure]),
        (~has_nearest, "not_selected", ["budget"]),
    ]
    reason: Any = pl.when(picked).then(None)
    evidence: Any = reason
    for applies, name, names in reasons:
        reason = reason.when(applies).then(pl.lit(name))
        evidence = evidence.when(applies).then(evidence_of(*names))
    return table.select(
        "gain",
        "gain_rank",
        reason.otherwise(None).alias("drop_reason"),
        evidence.otherwise(None).alias("evidence"),
    )


def _budget(amount: Amount | None) -> pl.Expr:
    """The budget as evidence: a number, or one of rows and one of tokens."""
    if amount is None or amount.rows is None:
        return pl.lit(None if amount is None else amount.total, pl.Int64)
    return pl.struct(rows=pl.lit(amount.rows), tokens=pl.lit(amount.total))


def _table(selection: Selection, ids: pl.Series, measure: str) -> pl.DataFrame:
    """The added columns, and `nearest` and its similarity where they are known."""
    count = len(selection.nearest)
    gain, rank = np.full(count, np.nan), np.zeros(count, np.int32)
    gain[selection.picks.rows] = selection.picks.gains
    rank[selection.picks.rows] = np.arange(1, len(selection.picks.rows) + 1)
    positions = pl.Series(selection.nearest).replace(-1, None).cast(pl.UInt32)
    values = selection.similarity
    return pl.DataFrame(
        {
            "gain": np.where(np.isfinite(gain), gain, np.nan),
            "gain_rank": rank,
            "nearest": ids.gather(positions),
            measure: np.abs(values) if measure == "distance" else values,
        }
    ).with_columns(pl.col("gain", measure).fill_nan(None), pl.col("gain_rank").replace(0, None))
