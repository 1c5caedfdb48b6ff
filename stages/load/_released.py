"""The published rows of a release, and the options of the stages that load them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import AfterValidator

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.hints import suggest
from pipeline.stage import Columns, DataKind, Edges
from pipeline.store.releases import LATEST, check_name, read_release, version_key
from pipeline.store.store import Store
from schemas.pairs import PAIR_COLUMNS
from schemas.records import RECORD_COLUMNS

ColumnType = Literal["text", "integer", "number", "boolean", "texts"]

TYPES: Final[dict[ColumnType, Any]] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "texts": pl.List(pl.String()),
}
BASE: Final[dict[DataKind, Mapping[str, Any]]] = {
    DataKind.RECORDS: RECORD_COLUMNS, DataKind.PAIRS: PAIR_COLUMNS,
}  # fmt: skip
LOADED_BY: Final = {
    DataKind.RECORDS.value: "load.release", DataKind.PAIRS.value: "load.release_pairs",
}  # fmt: skip
"""The stage that loads releases of such rows."""


def further_columns(options: SimpleNamespace, edges: Edges) -> Columns:
    """The columns that the option `columns` names.

    Args:
        options: The options.
        edges: Not used: such a stage has no inputs.
    """
    return {name: TYPES[kind] for name, kind in (options.columns or {}).items()}


def _valid_name(name: str) -> str:
    try:
        return check_name(name)
    except UserError as error:
        raise ValueError(f"must be that of a release ({error.why}), got {name!r}") from None


def _valid_version(version: str) -> str:
    try:
        return version if version == LATEST else "{}.{}".format(*version_key(version))
    except UserError:
        raise ValueError(f"must be latest or MAJOR.MINOR, such as '1.0', got {version!r}") from None


def _beside(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    if wrong := sorted(set(columns) & {*RECORD_COLUMNS, *PAIR_COLUMNS}):
        raise ValueError(f"must be beside those of the rows, got {', '.join(wrong)}")
    return columns


Name = Annotated[str, AfterValidator(_valid_name)]
Version = Annotated[str, AfterValidator(_valid_version)]
FurtherColumns = Annotated[Mapping[str, ColumnType], AfterValidator(_beside)]


def released_rows(
    ctx: Context,
    kind: DataKind,
    reference: tuple[str, str | None],
    store: str | None,
    columns: Mapping[str, ColumnType] | None,
) -> pl.DataFrame:
    """The published rows of a release.

    Args:
        ctx: The context of the stage.
        kind: What they must be.
        reference: The release's name and version; no rows where the version is None.
        store: The folder of its store; None for the recipe's own.
        columns: Further columns with their types.

    Raises:
        UserError: There is no such release, its rows are of another kind or not in the store, or
            it has no such column.
    """
    name, version = reference
    schema = {**BASE[kind], **{column: TYPES[type_] for column, type_ in (columns or {}).items()}}
    if version is None:
        return pl.DataFrame(schema=schema)
    opened = Store(Path(store) if store else ctx.store)
    snapshot = Snapshot.of_release(opened, read_release(opened, f"{name}@{version}"))
    assert snapshot.release is not None
    frames = [_rows(snapshot, stage, kind, schema) for stage in snapshot.release["published"]]
    return pl.concat(frames).unique("id", keep="first", maintain_order=True)


def _rows(snapshot: Snapshot, name: str, kind: DataKind, schema: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of one published stage, in the columns of the schema."""
    entry = snapshot.stage(name)
    if entry.kind is not kind:
        actual = entry.kind.value if entry.kind else "files alone"
        other = LOADED_BY.get(actual)
        raise UserError(
            f"{snapshot.title} must hold {kind.value}, got {actual}",
            hint=f"uses: {other} loads them" if other else None,
        )
    known = entry.view.columns if entry.view else list(schema)
    if missing := [column for column in schema if column not in known]:
        what = f"the rows of {snapshot.title} have no column {missing[0]!r}"
        raise UserError(what, hint=suggest(missing[0], known))
    rows = snapshot.rows(name, "kept", list(schema))
    try:
        return rows.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        what = f"a column of {snapshot.title} is of another type than `columns` says"
        raise UserError(what, why=str(error).splitlines()[0]) from None
