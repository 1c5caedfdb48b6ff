"""One pool out of several: the rows of a recipe's branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import ALL, Columns, Documents, Edges, Items, Pairs, Records, stage
from schemas.pairs import PAIR_COLUMNS
from schemas.records import DOCUMENT_COLUMNS, ITEM_COLUMNS, RECORD_COLUMNS
from stages._common.verdicts import evidence_of, verdict

AnyRows = Records | Documents | Items | Pairs

KINDS: Final[tuple[Columns, ...]] = (
    RECORD_COLUMNS, DOCUMENT_COLUMNS, ITEM_COLUMNS, PAIR_COLUMNS,
)  # fmt: skip
"""The columns of each kind of `AnyRows`."""

_VERDICT: Final = {"drop_reason": pl.String(), "evidence": pl.String()}


def added(options: SimpleNamespace, edges: Edges) -> Columns:
    """The columns that any input has beyond those of its kind.

    Raises:
        UserError: A column has different types in two inputs.
    """
    types = _union(edges["rows"])
    return {name: kind for name, kind in types.items() if name not in _base(types)}


def _base(columns: Columns) -> Columns:
    """The columns of the kind that rows with these columns are of."""
    return next((kind for kind in KINDS if kind.keys() <= columns.keys()), {})


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
    return types


@stage(version=1, scope="set", reads=ALL, adds=added)
def concat(ctx: Context, rows: list[AnyRows]) -> AnyRows:
    """All rows of all inputs, in the order of the inputs: records, documents, items or pairs.

    Of equal rows the first in the order of the inputs is kept, with the `origins` and
    `parents` of all (sorted, each once) where the kind has them; the others are dropped as
    `duplicate`, with the source and index of both (of items, benchmark and item) as
    evidence. A column that an input lacks is null there.

    Args:
        rows: The pools, all of one kind.

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
    columns = _union([dict(frame.schema) for frame in rows])
    base = _base(columns)
    columns = {**base, **columns}
    pool = pl.concat([frame.select(_with_all(frame, columns)) for frame in rows])
    pool = pool.with_row_index("_at")
    merged = [name for name in ("origins", "parents") if name in base]
    firsts = [pl.col("_at").first().alias("_first")]
    if "origins" in base:
        firsts.append(pl.col("origins").first().list.sort().list.first().alias("_kept"))
    groups = (
        pool.lazy()
        .filter(pl.col("id").is_duplicated())
        .sort("_at")
        .group_by("id", maintain_order=True)
        .agg(
            *firsts,
            *(pl.col(c).explode().drop_nulls().unique().sort().alias(f"_{c}") for c in merged),
        )
        .collect()
    )
    pool = pool.join(groups, on="id", how="left", maintain_order="left")
    keeps = pl.col("_first") == pl.col("_at")
    is_duplicate = (pl.col("_first") < pl.col("_at")).fill_null(False)
    evidence = _evidence() if "origins" in base else evidence_of("id", "benchmark", "item")
    return pool.select(
        *(name for name in columns if name not in merged),
        *(pl.when(keeps).then(f"_{name}").otherwise(name).alias(name) for name in merged),
        *verdict(is_duplicate, "duplicate", evidence),
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
