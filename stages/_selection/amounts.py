"""Amounts of rows, of tokens, or of both: budgets, and the sizes and quotas of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import PlainValidator


class RowsAndTokens(NamedTuple):
    """An amount in both units.

    Attributes:
        rows: Number of rows.
        tokens: Number of tokens.
    """

    rows: int
    tokens: int


def _valid_budget(value: Any) -> int | RowsAndTokens:
    both = isinstance(value, Mapping) and set(value) == set(RowsAndTokens._fields)
    numbers = list(value.values()) if both else [value]
    if not all(type(number) is int for number in numbers):
        written = dict(value) if isinstance(value, Mapping) else value
        raise ValueError(f"must be an integer or {{rows: ..., tokens: ...}}, got {written!r}")
    if min(numbers) < 0:
        raise ValueError(f"must be at least 0, got {min(numbers)}")
    return RowsAndTokens(**value) if both else int(value)


Budget = Annotated[int | RowsAndTokens, PlainValidator(_valid_budget)]
"""An option: an amount in the step's `unit`, or in both units."""


class Amount(NamedTuple):
    """What may be spent.

    Attributes:
        total: In the unit of `row_costs`.
        rows: The most rows, where a budget has both units; else None.
    """

    total: int
    rows: int | None = None


class PerGroup(NamedTuple):
    """Sizes, weights or quotas of groups, arrays of shape (groups,).

    Attributes:
        total: In the unit of `row_costs`.
        rows: In rows, where a budget has both units; else None.
    """

    total: NDArray[Any]
    rows: NDArray[Any] | None = None

    def map(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> PerGroup:
        """The results of a function of each of the arrays."""
        return PerGroup(function(self.total), None if self.rows is None else function(self.rows))

    def positive(self) -> NDArray[np.bool_]:
        """The groups whose numbers are all above 0."""
        return (self.total > 0) & (True if self.rows is None else self.rows > 0)

    def column(self, groups: NDArray[np.integer]) -> pl.Series:
        """The numbers of each row's group: one, or those in rows and in tokens."""
        if self.rows is None:
            return pl.Series(self.total[groups])
        both = {"rows": self.rows[groups], "tokens": self.total[groups]}
        return pl.DataFrame(both).to_struct()


def amount_of(budget: Budget) -> Amount:
    """A budget, or another amount, in the units of the costs."""
    if isinstance(budget, RowsAndTokens):
        return Amount(budget.tokens, budget.rows)
    return Amount(budget)
