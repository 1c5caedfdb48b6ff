"""A summary for people: where the selected rows come from, what they are, did it help.

Every table sets the selected rows beside the pool that they were selected from. Markdown,
narrow enough for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Edges, Files, Records, stage
from stages._common.charts import table
from stages._common.option_types import Distinct
from stages._selection.columns import shown_columns

MAX_VALUES: Final = 12
"""Values of a column that get a row of their own; the others share one. Integers of more
values are summed up by percentiles."""

SELECTED: Final = "selected"
"""The header of the selected rows' numbers."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    both = ["origins", *options.columns]
    return {"pool": both, "selected": [*both, *shown_columns(options.selected_columns)]}


def _check(options: SimpleNamespace) -> None:
    for option in ("columns", "selected_columns"):
        if "origins" in getattr(options, option):
            raise OptionError(
                option, "must not name origins", hint="leave it out: sources have a table already"
            )
    if both := sorted(set(options.columns) & set(options.selected_columns)):
        raise OptionError(
            "selected_columns",
            f"must not name a column of `columns`, got {', '.join(both)}",
            hint="leave it out of one of them: each column gets one table",
        )


def _check_types(options: SimpleNamespace, edges: Edges) -> Columns:
    """No columns; refuses those that no table can show, as soon as their types are known."""
    for option in ("columns", "selected_columns"):
        for name in getattr(options, option):
            for dtype in (columns[name] for columns in edges["selected"] if name in columns):
                if dtype.base_type() in (pl.Struct, pl.Array, pl.Binary, pl.Object):
                    raise OptionError(
                        option,
                        f"must name columns of texts, numbers, flags or lists, got {name!r}, "
                        f"which is {dtype.base_type()}",
                        hint="leave it out",
                    )
    return {}


@stage(version=2, scope="set", reads=_reads, adds=_check_types, check=_check)
def summary(
    ctx: Context,
    pool: Records,
    selected: Records,
    verdict: Files | None = None,
    *,
    columns: Annotated[tuple[str, ...], Distinct] = (),
    selected_columns: Annotated[tuple[str, ...], Distinct] = (),
) -> None:
    """Write `summary.md`: the selected rows beside the pool, by source and by column.

    Args:
        pool: The rows that were selected from.
        selected: The rows that were selected.
        verdict: The files of `report.ablation`; its page ends this one.
        columns: Columns of both edges. Texts, and integers of at most 12 values, are counted
            by value, flags by how many are true; other numbers are summed up by their 10th,
            50th and 90th percentiles, and so are the lengths of lists.
        selected_columns: Columns that only the selected rows have, such as `cluster`. One
            that another selector adds, and these rows lack, is named as missing.

    Raises:
        UserError: `verdict` is not connected to a `report.ablation`.

    Example:
        ```yaml
        overview:
          uses: report.summary
          needs: {pool: pool, selected: best}
          with: {columns: [ifd, language]}
        ```

        >>> from tempfile import mkdtemp
        >>> origins = [[{"source": "web"}], [{"source": "books"}]]
        >>> rows = pl.DataFrame({"id": ["a", "b"], "origins": origins, "is_code": [True, False]})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> summary(ctx, rows, rows[:1], columns=("is_code",))
        >>> print((ctx.files / "summary.md").read_text().splitlines()[-1])
        | is_code |    1 | 50.0% |        1 | 100.0% |
    """
    edges = {"pool": pool, SELECTED: selected}
    rows = {edge: frame.height for edge, frame in edges.items()}
    share = f" ({selected.height / pool.height:.1%})" if pool.height else ""
    parts = [f"# What was selected\n\n{selected.height:,} of {pool.height:,} rows{share}."]
    parts.append(_counts("source", {e: _sources(frame) for e, frame in edges.items()}, rows))
    parts += _tables(columns, edges, rows)
    absent = [name for name in selected_columns if name not in selected.columns]
    added = [name for name in selected_columns if name not in absent]
    parts += _tables(added, {SELECTED: selected}, rows)
    if absent:
        parts.append(f"The selected rows have no {', '.join(f'`{name}`' for name in absent)}.")
    if verdict is not None:
        parts.append(_page(verdict))
    (ctx.files / "summary.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _tables(
    names: Sequence[str], edges: Mapping[str, pl.DataFrame], rows: Mapping[str, int]
) -> list[str]:
    """The tables of these columns: one for each that is counted by value, then the others'."""
    columns = {name: {e: frame[name] for e, frame in edges.items()} for name in names}
    flags = [n for n, on in columns.items() if all(c.dtype == pl.Boolean for c in on.values())]
    measured = {name: _measured(on) for name, on in columns.items()}
    counted = [name for name in names if name not in flags and not measured[name]]
    parts = [_counts(name, columns[name], rows) for name in counted]
    if flags:
        parts.append(_flags(edges, flags, rows))
    if any(measured.values()):
        parts.append(_percentiles({_label(n, columns[n]): on for n, on in measured.items() if on}))
    return parts


def _sources(rows: pl.DataFrame) -> pl.Series:
    """The sources of every row, each once per row: a row of two sources counts in both."""
    source = pl.element().struct.field("source")
    return rows.select(pl.col("origins").list.eval(source).list.unique()).to_series().explode()


def _counts(name: str, series: Mapping[str, pl.Series], rows: Mapping[str, int]) -> str:
    """How many rows have each value, most frequent first among the selected rows.

    series: the values on each edge; rows: the numbers of rows, which shares are of.
    """
    values = [
        column.cast(pl.String)
        .fill_null("(none)")
        .alias("value")
        .to_frame()
        .with_columns(edge=pl.lit(edge))
        for edge, column in series.items()
    ]
    counts = (
        pl.concat(values)
        .group_by("value")
        .agg((pl.col("edge") == edge).sum().alias(edge) for edge in series)
        .sort(*reversed(list(series)), "value", descending=[*(True for _ in series), False])
    )
    shown = list(counts.head(MAX_VALUES).iter_rows())
    if counts.height > MAX_VALUES:
        others = counts[MAX_VALUES:].drop("value").sum().row(0)
        shown.append((f"{counts.height - MAX_VALUES} others", *others))
    header = [name, *(text for edge in series for text in (edge, "share"))]
    return table(header, [_cells(value, numbers, rows, series) for value, *numbers in shown])


def _cells(
    name: str, numbers: Iterable[int], rows: Mapping[str, int], edges: Iterable[str]
) -> list[str]:
    """A name, and on each edge a number of rows with its share."""
    cells = [name]
    for edge, number in zip(edges, numbers, strict=True):
        share = f"{number / rows[edge]:.1%}" if rows[edge] else ""
        cells += [f"{number:,}", share]
    return cells


def _flags(edges: Mapping[str, pl.DataFrame], names: list[str], rows: Mapping[str, int]) -> str:
    header = ["flag", *(text for edge in edges for text in (edge, "share"))]
    true = [[int(frame[name].sum() or 0) for frame in edges.values()] for name in names]
    return table(header, [_cells(n, t, rows, edges) for n, t in zip(names, true, strict=True)])


def _label(name: str, series: Mapping[str, pl.Series]) -> str:
    is_list = any(isinstance(column.dtype, pl.List) for column in series.values())
    return f"{name} (length)" if is_list else name


def _measured(series: Mapping[str, pl.Series]) -> dict[str, pl.Series]:
    """The numbers of a column that are summed up by percentiles; none where values are counted.

    series: the column on each edge. Of a list its length is measured.
    """
    if all(isinstance(column.dtype, pl.List) for column in series.values()):
        return {edge: column.list.len() for edge, column in series.items()}
    few = pl.concat([c.cast(pl.String) for c in series.values()]).n_unique() <= MAX_VALUES
    kinds = [column.dtype for column in series.values()]
    if all(kind.is_numeric() and not (few and kind.is_integer()) for kind in kinds):
        return dict(series)
    return {}


def _percentiles(columns: Mapping[str, Mapping[str, pl.Series]]) -> str:
    """Three percentiles of each column on each edge."""
    levels = (0.1, 0.5, 0.9)
    edges = next(iter(columns.values()))
    header = ["score", *(f"{edge} {level:.0%}" for edge in edges for level in levels)]
    cells = []
    for name, series in columns.items():
        values = [c.drop_nans().quantile(level) for c in series.values() for level in levels]
        whole = all(column.dtype.is_integer() for column in series.values())
        style = ",.0f" if whole else ".3g"
        cells.append([name, *("" if value is None else f"{value:{style}}" for value in values)])
    return table(header, cells)


def _page(verdict: Path) -> str:
    """The ablation's page, one heading lower."""
    page = verdict / "ablation.md"
    if not page.exists():
        raise UserError(
            "`verdict` must be a report.ablation, got files without ablation.md",
            hint="needs: {..., verdict: STAGE THAT USES report.ablation}",
        )
    return page.read_text("utf-8").replace("# ", "## ", 1).strip()
