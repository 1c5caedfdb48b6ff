"""Whether the rows of two releases are distributed alike: sources, licenses, tags, lengths, scores.

Numbers are compared by the two-sample Kolmogorov-Smirnov test (the largest distance of the two
distribution functions), categories by Pearson's chi-squared test of homogeneity, with Cramér's V
as the size of the effect; categories that are expected less than five times count as one. The
p-values are Holm's (1979), over all columns. The tests take the two sets for independent samples:
rows that both hold make them careful, so that a small p is to be believed and a large one says
little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import polars.selectors as cs

from schemas.records import RECORD_COLUMNS, response, turns
from stages.report._page.texts import cut

MAX_CATEGORIES: Final = 60
"""A column of more different texts is no tag."""

MAX_LINES: Final = 3
"""The categories of a column that are listed: those whose shares changed most."""

MIN_EXPECTED: Final = 5.0
"""How often a category must be expected on both sides for the approximation by chi-squared."""

Line = dict[str, Any]


def shifts(before: pl.DataFrame, after: pl.DataFrame) -> list[Line]:
    """How the distributions of two sets of rows differ, the largest effects first.

    Args:
        before: Rows with all columns that describe them.
        after: The same of the other release; columns of one side alone are left out.

    Returns:
        Lines with `column`, `category` (None for numbers), `before` and `after` (medians of
        numbers, shares of rows of categories), `test`, `effect` (0: none, to 1) and `p` (Holm).

    Example:
        >>> before = pl.DataFrame({"id": [str(i) for i in range(40)], "score": range(40)})
        >>> after = before.with_columns(pl.col("score") + 30)
        >>> [(s["column"], s["before"], s["after"], s["p"] < 0.01) for s in shifts(before, after)]
        [('score', 19.5, 49.5, True)]
    """
    if before.is_empty() or after.is_empty():
        return []
    old, new = _described(before), _described(after)
    tested = [
        lines
        for column in old.columns
        if column in new.columns and (lines := _compare(column, old[column], new[column]))
    ]
    adjusted = _holm([lines[0]["p"] for lines in tested])
    for lines, p in zip(tested, adjusted, strict=True):
        for line in lines:
            line["p"] = p
    tested.sort(key=lambda lines: (-lines[0]["effect"], lines[0]["column"]))
    return [line for lines in tested for line in lines]


def _described(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns to compare: what stages added, and what every row has."""
    derived = []
    if "origins" in rows.columns:
        origins = pl.col("origins").list
        derived += [
            origins.eval(pl.element().struct.field("source")).list.unique().alias("source"),
            origins.eval(pl.element().struct.field("license")).list.unique().alias("license"),
        ]
    if "messages" in rows.columns:
        users = turns("user").list.eval(pl.element().str.len_chars()).list.sum()
        derived += [
            pl.col("messages").list.len().alias("turns"),
            users.alias("user_characters"),
            response("all").str.len_chars().alias("response_characters"),
        ]
    kept = rows.select(
        (cs.numeric() | cs.boolean() | cs.string() | cs.by_dtype(pl.List(pl.String)))
        - cs.by_name("id", *RECORD_COLUMNS, require_all=False)
    )
    every = rows.select(derived)
    # Side by side: a frame without columns, as of rows that no stage added one to, has no length.
    return pl.concat([kept.drop(every.columns, strict=False), every], how="horizontal")


def _compare(name: str, before: pl.Series, after: pl.Series) -> list[Line]:
    """The lines of one column; none where there is nothing to compare."""
    if before.dtype.is_numeric() and after.dtype.is_numeric():
        return _numbers(name, before, after)
    old, new = _categories(before), _categories(after)
    values = sorted({*old, *new})
    if len(values) > MAX_CATEGORIES or old == new or not values:
        return []
    return _shares(name, values, (old, new), (len(before), len(after)))


def _numbers(name: str, before: pl.Series, after: pl.Series) -> list[Line]:
    from scipy.stats import ks_2samp

    old, new = (_finite(column) for column in (before, after))
    if not len(old) or not len(new):
        return []
    result = ks_2samp(old, new, method="asymp")
    values = {"before": float(np.median(old)), "after": float(np.median(new))}
    return [_line(name, None, values, "Kolmogorov-Smirnov", result.statistic, result.pvalue)]


def _finite(column: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = column.cast(pl.Float64).drop_nulls()
    return numbers.filter(numbers.is_finite()).to_numpy()


def _categories(column: pl.Series) -> dict[str, int]:
    """How many rows have each category; a row with several counts under each of them."""
    values = column.explode() if column.dtype == pl.List else column
    counts = values.cast(pl.String).drop_nulls().value_counts()
    return dict(counts.iter_rows())


def _shares(
    name: str,
    values: Sequence[str],
    counts: tuple[dict[str, int], dict[str, int]],
    sizes: tuple[int, int],
) -> list[Line]:
    from scipy.stats import chi2_contingency

    table = np.array([[side.get(value, 0) for value in values] for side in counts], float)
    if (table.sum(axis=1) == 0).any():
        return []
    merged = _without_rare(table)
    statistic, p = 0.0, 1.0
    if merged.shape[1] > 1:
        result = chi2_contingency(merged, correction=False)
        statistic, p = float(result.statistic), float(result.pvalue)
    effect = (statistic / table.sum()) ** 0.5  # Cramér's V of a table with two rows
    shares = table / np.array(sizes)[:, None]
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:MAX_LINES]
    return [
        _line(
            name,
            cut(values[i]),
            {"before": float(shares[0, i]), "after": float(shares[1, i])},
            "chi-squared",
            effect,
            p,
        )
        for i in order
        if shares[0, i] != shares[1, i]
    ]


def _without_rare(table: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    """The table with all categories that are rarely expected as one, where that is still rare."""
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    rare = (expected < MIN_EXPECTED).any(axis=0)
    if not rare.any():
        return table
    return np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])


def _line(
    column: str, category: str | None, values: dict[str, float], test: str, effect: float, p: float
) -> Line:
    shown = {key: round(value, 6) for key, value in values.items()}
    result = {"test": test, "effect": round(float(effect), 4), "p": float(p)}
    return {"column": column, "category": category, **shown, **result}


def _holm(values: Sequence[float]) -> Iterator[float]:
    """Holm's adjusted p-values, in the order of the values."""
    order = np.argsort(values, kind="stable")
    adjusted, highest = np.empty(len(values)), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return iter(adjusted.tolist())
