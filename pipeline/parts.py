"""Rows that a stage reads part by part: how its author sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import polars as pl


class RowParts(Protocol):
    """Rows that need not fit into memory: a frame, or what reads parts of one from the disk."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""

    def __getitem__(self, column: str) -> pl.Series:
        """One column of all rows."""

    def iter_slices(self, n_rows: int = ...) -> Iterator[pl.DataFrame]:
        """The rows in parts, in id order.

        Args:
            n_rows: The most rows of a part.
        """


def in_parts(rows: RowParts, n_rows: int) -> Iterator[pl.DataFrame]:
    """The rows in parts: at least one, which is empty where there are no rows.

    Args:
        rows: The rows.
        n_rows: The most rows of a part.

    Example:
        >>> [len(part) for part in in_parts(pl.DataFrame({"id": ["a", "b", "c"]}), 2)]
        [2, 1]
    """
    if isinstance(rows, pl.DataFrame) and not len(rows):
        yield rows
    yield from rows.iter_slices(n_rows)


def some_columns(rows: RowParts, columns: Sequence[str]) -> pl.DataFrame:
    """`id` and some columns of all rows: numbers and other short values.

    Args:
        rows: The rows.
        columns: The columns beside `id`.
    """
    return pl.DataFrame({name: rows[name] for name in dict.fromkeys(["id", *columns])})
