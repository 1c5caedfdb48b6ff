"""One pool out of several: the rows of a recipe's branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import ALL, Columns, Edges, Records, stage
from schemas.records import RECORD_COLUMNS
from stages._common.verdicts import evidence_of, verdict

_VERDICT: Final = {"drop_reason": pl.String(), "evidence": pl.String()}


def added(options: SimpleNamespace, edges: Edges) -> Columns:
    """The columns that any input has beyond the record's.

    Raises:
        UserError: A column has different types in two inputs.
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
                    hint=f"rename one of them at its stage: as: {{{name}: {name}_2}}",
                )
    return {name: kind for name, kind in types.items() if name not in RECORD_COLUMNS}


@stage(version=1, scope="set", reads=ALL, adds=added)
def concat(ctx: Context, rows: list[Records]) -> Records:
    """All rows of all inputs, in the order of the inputs.

    Of equal records the first in the order of the inputs is kept, with the
    `origins` and `parents` of all (sorted, each once); the others are dropped as
    `duplicate`, with the source and index of both as evidence. A column that
    an input lacks is null there.

    Args:
        rows: The pools.

    Example:
        ```yaml
        pool:
          uses: load.concat
          needs: [human, invented]
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> pool = pl.DataFrame([{"id": "a"}, {"id": "b"}], schema=RECORD_COLUMNS)
        >>> concat(Context.scratch(Path(mkdtemp())), [pool, pool[1:]])["drop_reason"].to_list()
        [None, None, 'duplicate']
    """
    columns = {**RECORD_COLUMNS, **_union([dict(frame.schema) for frame in rows])}
    pool = pl.concat([frame.select(_with_all(frame, columns)) for frame in rows])
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
    is_duplicate = (pl.col("_first") < pl.col("_at")).fill_null(False)
    return pool.select(
        *(name for name in columns if name not in ("origins", "parents")),
        *(
            pl.when(keeps).then(f"_{name}").otherwise(name).alias(name)
            for name in ("origins", "parents")
        ),
        *verdict(is_duplicate, "duplicate", _evidence()),
    ).select(*columns, *_VERDICT)


def _with_all(frame: pl.DataFrame, columns: Columns) -> list[pl.Expr]:
    """The frame's columns with nulls for those that it lacks."""
    return [
        pl.col(name) if name in frame.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in columns.items()
    ]


def _evidence() -> pl.Expr:
    """The kept record's id and the origins of both, which are null for generated rows."""
    dropped = pl.col("origins").list.sort().list.first()

    def position(origin: pl.Expr) -> pl.Expr:
        source_and_index = pl.struct(origin.struct.field("source"), origin.struct.field("index"))
        return pl.when(origin.is_not_null()).then(source_and_index)

    kept = pl.col("_kept")
    return evidence_of("id", position(kept).alias("kept"), position(dropped).alias("dropped"))
