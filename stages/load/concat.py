"""One pool out of several: what the branches of a recipe made, brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import ALL, Columns, Edges, Records, stage
from schemas.records import RECORD_COLUMNS

_VERDICT: Final = {"drop_reason": pl.String(), "evidence": pl.String()}


def added(options: SimpleNamespace, edges: Edges) -> Columns:
    """The columns that any input has beyond the record's.

    Raises UserError for a column that has different types in two inputs.
    """
    return _union(edges["rows"])


def _union(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for each in inputs:
        for name, kind in each.items():
            if types.setdefault(name, kind) != kind:
                raise UserError(
                    f"load.concat: column {name!r} is {types[name]} in one input and {kind} "
                    "in another",
                    hint=f"rename one of them where it is made: as: {{{name}: {name}_2}}",
                )
    return {name: kind for name, kind in types.items() if name not in RECORD_COLUMNS}


@stage(version=1, scope="set", reads=ALL, adds=added)
def concat(ctx: Context, rows: list[Records]) -> Records:
    """All rows of all inputs, one line each, in the order of the inputs.

    Of equal records the first in the order of the inputs is kept, with the
    `origins` and `parents` of all (sorted, each once); the others are dropped as
    `duplicate`, with their own place and the kept one's as evidence. A column that
    an input lacks is null there.
    """
    columns = {**RECORD_COLUMNS, **_union([dict(frame.schema) for frame in rows])}
    pool = pl.concat([frame.select(_whole(frame, columns)) for frame in rows])
    pool = pool.with_row_index("_at")
    groups = (
        pool.lazy()
        .filter(pl.col("id").is_duplicated())
        .sort("_at")
        .group_by("id", maintain_order=True)
        .agg(
            pl.col("_at").first().alias("_first"),
            pl.col("origins").explode().drop_nulls().unique().sort().alias("_origins"),
            pl.col("parents").explode().drop_nulls().unique().sort().alias("_parents"),
            pl.col("origins").first().list.sort().list.first().alias("_kept"),
        )
        .collect()
    )
    pool = pool.join(groups, on="id", how="left", maintain_order="left")
    keeps = pl.col("_first") == pl.col("_at")
    later = (pl.col("_first") < pl.col("_at")).fill_null(False)
    return pool.select(
        *(name for name in columns if name not in ("origins", "parents")),
        *(
            pl.when(keeps).then(f"_{name}").otherwise(name).alias(name)
            for name in ("origins", "parents")
        ),
        pl.when(later).then(pl.lit("duplicate")).alias("drop_reason"),
        pl.when(later).then(_evidence()).alias("evidence"),
    ).select(*columns, *_VERDICT)


def _whole(frame: pl.DataFrame, columns: Columns) -> list[pl.Expr]:
    """The frame's columns with nulls for those that it lacks."""
    return [
        pl.col(name) if name in frame.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in columns.items()
    ]


def _evidence() -> pl.Expr:
    """The kept record's id and the places of both, which are null for generated rows."""
    own = pl.col("origins").list.sort().list.first()

    def place(origin: pl.Expr) -> pl.Expr:
        known = pl.struct(origin.struct.field("source"), origin.struct.field("index"))
        return pl.when(origin.is_not_null()).then(known)

    return pl.struct(
        "id", place(pl.col("_kept")).alias("kept"), place(own).alias("dropped")
    ).struct.json_encode()
