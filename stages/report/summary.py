"""What a person reads at the end: where the chosen rows come from, what they are, did it help.

Every table sets the chosen rows beside the pool that they were chosen from. Plain
Markdown, narrow enough for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Files, Records, stage
from stages._common.charts import table

MOST: Final = 12
"""Values of a column that get a line of their own; the others share one."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    both = ["origins", *options.columns]
    return {"pool": both, "chosen": [*both, *options.chosen_columns]}


def _check(options: SimpleNamespace) -> None:
    named = [*options.columns, *options.chosen_columns]
    twice = sorted({name for name in named if named.count(name) > 1} | {"origins"} & set(named))
    if twice:
        raise UserError(f"named twice: {', '.join(twice)}", hint="each column gets one table")


@stage(version=1, scope="set", reads=_reads, check=_check)
def summary(
    ctx: Context,
    pool: Records,
    chosen: Records,
    verdict: Files | None = None,
    *,
    columns: tuple[str, ...] = (),
    chosen_columns: tuple[str, ...] = (),
) -> None:
    """Write `summary.md`: the chosen rows beside the pool, by source and by column.

    columns: columns of both edges. A text or a whole number is counted by value, flags
        by how many are true; of other numbers the 10th, 50th and 90th percentile is told.
    chosen_columns: columns that only the chosen rows have, such as `cluster`.
    verdict: what `report.ablation` made; its page is the end of this one.
    """
    edges = {"pool": pool, "chosen": chosen}
    rows = {edge: frame.height for edge, frame in edges.items()}
    share = f" ({chosen.height / pool.height:.1%})" if pool.height else ""
    parts = [f"# What was chosen\n\n{chosen.height:,} of {pool.height:,} rows{share}."]
    parts.append(_counts("source", {e: _sources(frame) for e, frame in edges.items()}, rows))
    kinds = {name: chosen.schema[name] for name in columns}
    flags = [name for name in columns if kinds[name] == pl.Boolean]
    scores = [name for name in columns if kinds[name].is_float()]
    parts += [
        _counts(name, {edge: frame[name] for edge, frame in edges.items()}, rows)
        for name in columns
        if name not in (*flags, *scores)
    ]
    if flags:
        parts.append(_flags(edges, flags, rows))
    if scores:
        parts.append(_percentiles(edges, scores))
    parts += [_counts(name, {"chosen": chosen[name]}, rows) for name in chosen_columns]
    if verdict is not None:
        parts.append(_page(verdict))
    (ctx.files / "summary.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _sources(rows: pl.DataFrame) -> pl.Series:
    """The sources of every row, each once per row: a row found in two places counts in both."""
    source = pl.element().struct.field("source")
    return rows.select(pl.col("origins").list.eval(source).list.unique()).to_series().explode()


def _counts(name: str, series: Mapping[str, pl.Series], rows: Mapping[str, int]) -> str:
    """How many rows have each value, most frequent first among the chosen rows.

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
    lines = list(counts.head(MOST).iter_rows())
    if counts.height > MOST:
        others = counts[MOST:].drop("value").sum().row(0)
        lines.append((f"{counts.height - MOST} others", *others))
    header = [name, *(text for edge in series for text in (edge, "share"))]
    return table(header, [_line(value, numbers, rows, series) for value, *numbers in lines])


def _line(
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
    return table(header, [_line(n, t, rows, edges) for n, t in zip(names, true, strict=True)])


def _percentiles(edges: Mapping[str, pl.DataFrame], names: list[str]) -> str:
    levels = (0.1, 0.5, 0.9)
    header = ["score", *(f"{edge} {level:.0%}" for edge in edges for level in levels)]
    lines = []
    for name in names:
        values = [f[name].drop_nans().quantile(level) for f in edges.values() for level in levels]
        lines.append([name, *("" if value is None else f"{value:.3g}" for value in values)])
    return table(header, lines)


def _page(verdict: Path) -> str:
    """The ablation's page, one heading lower."""
    page = verdict / "ablation.md"
    if not page.exists():
        raise UserError("`verdict` holds no ablation.md", hint="connect it to a report.ablation")
    return page.read_text("utf-8").replace("# ", "## ", 1).strip()
