"""From rows with vectors to `stages._vectors.greedy_dedup`, and from what it found to evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import Matrix, as_matrix
from stages._vectors.greedy_dedup import DedupResult


def lined_up(
    rows: pl.DataFrame, before: pl.DataFrame | None, order: NDArray[Any], vector: str
) -> tuple[list[str], Matrix]:
    """Ids and vectors of the rows that come before and of the rows in their order.

    vector: the column. Raises UserError where the vectors cannot be compared.
    """
    mine = as_matrix(rows[vector])[order]
    ids = rows["id"].gather(order).to_list()
    if before is None or not len(before):
        return ids, mine
    theirs = as_matrix(before[vector])
    if len(rows) and theirs.shape[1] != mine.shape[1]:
        raise UserError(
            f"the vectors in {vector!r} have {mine.shape[1]} dimensions, "
            f"those of the rows to compare with {theirs.shape[1]}",
            hint="use the same embed stage for both",
        )
    return before["id"].to_list() + ids, np.concatenate([theirs, mine]) if len(rows) else theirs


def twins(
    found: DedupResult, ids: list[str], order: NDArray[Any]
) -> dict[int, dict[str, str | float]]:
    """Why each row that is not kept is dropped: its twin and the cosine, by its place in the table.

    ids, order: as `lined_up` gave and took them.
    """
    given = len(ids) - len(order)
    return {
        int(order[i - given]): {
            "twin": ids[found.nearest[i]],
            "cosine": float(found.similarity[i]),
        }
        for i in np.flatnonzero(~found.kept)
    }
