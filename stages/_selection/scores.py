"""Scores of rows and the order that they give.

A score is a column, or an SQL expression over columns (`ifd * 2 - ppl`). Rows without a
score rank last. Equal scores rank by id, because rows come in the order of their ids.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars import selectors
from pydantic import AfterValidator

from pipeline.errors import UserError
from stages._selection.random_draws import uniform

_LITERAL: Final = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | [^\W\d]\w*  # texts and names, which stay as they are
    | (?P<decimal>\d+\.\d*|\.\d+)(?![\w.])""",
    re.VERBOSE,
)


def _with_floats(text: str) -> str:
    """The expression with an exponent at each decimal, which makes it a float in SQL.

    Without one it is a fixed-point number: a division by it keeps six digits, a division by
    zero is an error, and it cannot be multiplied by a boolean.

    >>> _with_floats('0.5 * "v1.0" - 2e3')
    '0.5e0 * "v1.0" - 2e3'
    """
    return _LITERAL.sub(lambda m: f"{m[0]}e0" if m["decimal"] else m[0], text)


def _parse(text: str) -> pl.Expr:
    """The expression of a text. Raises ValueError, whose message begins with "must be"."""
    if text.isidentifier():
        return pl.col(text)
    required = "must be a column or an SQL expression over columns, such as ifd * 2 - ppl"
    try:
        parsed = pl.sql_expr(_with_floats(text))
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"{required}, got {text!r} ({why})") from None
    if not parsed.meta.root_names():
        raise ValueError(f"{required}, got {text!r}, which names no column")
    return parsed


def _checked(text: str) -> str:
    _parse(text)
    return text


Expression = Annotated[str, AfterValidator(_checked)]
"""An option: a column, or an SQL expression over columns. Within a longer expression, names
that SQL has a use for stand in quotes: `"cluster" + 1`."""


def expression(text: str) -> pl.Expr:
    """A column by its name, or an SQL expression over columns.

    An identifier is always a column, because SQL has a use for some names itself, `cluster`
    and `group` among them.

    Raises:
        UserError: The text is no SQL expression, or names no column.

    Example:
        >>> expression("ifd * 2 - ppl").meta.root_names()
        ['ifd', 'ppl']
    """
    try:
        return _parse(text)
    except ValueError as error:
        hint = 'in an expression, names that SQL has a use for stand in quotes: "cluster"'
        raise UserError(f"an expression {error}", hint=hint) from None


def expression_columns(text: str | None) -> list[str]:
    """The columns that an expression reads, each once; none for None."""
    return [] if text is None else list(dict.fromkeys(expression(text).meta.root_names()))


def scores(rows: pl.DataFrame, score: str) -> NDArray[np.float64]:
    """The score of each row.

    Args:
        rows: The rows, with the columns of the expression.
        score: A column or an SQL expression; booleans count as 0 and 1.

    Returns:
        Numbers of shape (rows,), NaN where the score is missing: null, NaN or infinite, as
        a division by zero is.

    Raises:
        UserError: The expression gives something other than numbers.

    Example:
        >>> scores(pl.DataFrame({"words": [4, 0, None]}), "1.0 / words").tolist()
        [0.25, nan, nan]
    """
    value = expression(score).cast(pl.Float64).alias(score)
    try:
        # In 64 bits: 50,000 squared is beyond 32, and unsigned numbers have no negative ones.
        values = rows.with_columns(selectors.integer().cast(pl.Int64)).with_columns(value)[score]
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]  # the other lines show the expression's insides
        raise UserError(f"a score must be a number, which {score!r} is not", why=why) from None
    numbers = values.to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)


def sort_keys(
    rows: pl.DataFrame, score: str | None, descending: bool, purpose: str
) -> NDArray[np.float64]:
    """What rows are sorted by, the smallest key first: a score, or a random number.

    Args:
        rows: The rows.
        score: A column or an SQL expression; None for a random order.
        descending: Whether large scores are the best ones.
        purpose: What the random order is for: the stage and its seed (see `uniform`).

    Returns:
        Keys of shape (rows,), NaN where the score is missing.
    """
    if score is None:
        return uniform(rows["id"], purpose)
    return -scores(rows, score) if descending else scores(rows, score)


def ranking(values: NDArray[np.float64], descending: bool) -> NDArray[np.int64]:
    """Row numbers from the best score to the worst.

    Missing scores (NaN) come last, equal ones stay in the order of the rows.

    Example:
        >>> ranking(np.array([1.0, np.nan, 3.0, 1.0]), descending=True).tolist()
        [2, 0, 3, 1]
    """
    return np.argsort(-values if descending else values, kind="stable")


def ranks(order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The rank of each of `count` rows, 1 for the first in `order`; 0 for rows outside it."""
    result = np.zeros(count, np.int64)
    result[order] = np.arange(1, len(order) + 1)
    return result


def ranks_within(groups: NDArray[np.integer], keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rank of each row in its group by ascending key, 1 for the first.

    Rows without a key (NaN) come last, equal keys stay in the order of the rows.

    Example:
        >>> ranks_within(np.array([0, 1, 0]), np.array([2.0, 5.0, 1.0])).tolist()
        [2, 1, 1]
    """
    sizes = np.bincount(groups)
    preceding: NDArray[np.int64] = (np.cumsum(sizes) - sizes)[groups]
    return ranks(np.lexsort((keys, groups)), len(groups)) - preceding
