"""Rows that were chosen before: they keep their place, so that a new release does not churn.

The rows of the last release come in on the edge `held` (see `load.release`). Those of them that
are still in the input are selected first, as far as the budget goes; what is left of it is
spent on the others. A held row that a stage before has dropped is gone, and one that a selector
would convict whatever the budget (a score outside the limits, or none) is dropped for that.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError

KEEP_CHOSEN: Final = "keep_chosen"
"""The option of selectors whose edge `held` had another meaning first."""


def held_rows(rows: pl.DataFrame, held: pl.DataFrame | None) -> NDArray[np.bool_]:
    """The rows that are held as well; a mask of shape (rows,).

    Args:
        rows: The rows to choose from.
        held: Rows that were chosen before; None without.
    """
    if held is None:
        return np.zeros(len(rows), np.bool_)
    return rows["id"].is_in(held["id"].implode()).to_numpy()


def held_first(order: NDArray[np.int64], is_held: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of row numbers with the held rows before all others, both in their order.

    Example:
        >>> held_first(np.array([2, 0, 1]), np.array([True, True, False])).tolist()
        [0, 1, 2]
    """
    return order[np.argsort(~is_held[order], kind="stable")]


def still_held(rows: pl.DataFrame, held: pl.DataFrame | None) -> pl.DataFrame:
    """The held rows that are in the input, with the columns that they have there.

    Args:
        rows: The rows to choose from.
        held: What is connected to the edge.

    Raises:
        UserError: Nothing is connected to it.
    """
    if held is None:
        hint = "needs: {..., held: STAGE}, such as one of load.release"
        raise UserError(f"{KEEP_CHOSEN} must have an input for 'held', got none", hint=hint)
    return rows.filter(held_rows(rows, held))
