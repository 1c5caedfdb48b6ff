"""Joins branches over the same rows, such as two scorers beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import ALL, Columns, Edges, Records, stage
from schemas.records import RECORD_COLUMNS


def added(options: SimpleNamespace, edges: Edges) -> Columns:
    """The columns of the other branches that the first does not have."""
    return _others(edges["rows"])


def _others(branches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = branches
    columns: dict[str, Any] = {}
    for branch in others:
        for name, kind in branch.items():
            if name not in first and name not in RECORD_COLUMNS:
                columns.setdefault(name, kind)
    return columns


@stage(version=1, scope="set", reads=ALL, adds=added)
def join(ctx: Context, rows: list[Records]) -> pl.DataFrame:
    """`id` and the columns that the other branches add, for the rows of the first, in its order.

    Args:
        rows: The branches.

    Raises:
        UserError: The branches are not over the same rows, or two of them have different
            values in a column of the same name.

    Example:
        ```yaml
        measured:
          uses: load.join
          needs: [scored, judged]
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> one = pl.DataFrame({"id": ["a", "b"], "ifd": [0.5, 0.9]})
        >>> two = pl.DataFrame({"id": ["b", "a"], "ppl": [3.0, 8.0]})
        >>> join(Context.scratch(Path(mkdtemp())), [one, two]).rows()
        [('a', 8.0), ('b', 3.0)]
    """
    first, *others = rows
    columns = _others([dict(frame.schema) for frame in rows])
    aligned = [_aligned(first, other, number) for number, other in enumerate(others, 2)]
    for number, branch in enumerate(aligned, 2):
        for earlier, previous in enumerate([first, *aligned[: number - 2]], 1):
            _compare(previous, branch, earlier, number)
    owner = {name: next(b for b in aligned if name in b.columns) for name in columns}
    return first.select("id").with_columns(owner[name][name] for name in columns)


def _aligned(first: pl.DataFrame, other: pl.DataFrame, number: int) -> pl.DataFrame:
    """The rows of another branch in the order of the first."""
    missing = first.select("id").join(other.select("id"), on="id", how="anti")["id"].sort()
    surplus = other.select("id").join(first.select("id"), on="id", how="anti")["id"].sort()
    if len(missing) or len(surplus):
        raise UserError(
            f"load.join: branch {number} is not over the rows of the first",
            why=f"it lacks {_named(missing)}, and has {_named(surplus)} that the first has not",
            hint="join before the stage that drops rows, or drop the same rows on both branches",
        )
    return first.select("id").join(other, on="id", how="left", maintain_order="left")


def _named(ids: pl.Series) -> str:
    if ids.is_empty():
        return "none"
    return f"{len(ids):,} ({', '.join(ids.head(3).to_list())}{', ...' if len(ids) > 3 else ''})"


def _compare(previous: pl.DataFrame, branch: pl.DataFrame, earlier: int, number: int) -> None:
    for name in branch.columns:
        if name in RECORD_COLUMNS or name not in previous.columns:
            continue
        if not previous[name].equals(branch[name], null_equal=True):
            raise UserError(
                f"load.join: branches {earlier} and {number} differ in the column {name!r}",
                hint=f"rename one of them at its stage: as: {{{name}: {name}_2}}",
            )
