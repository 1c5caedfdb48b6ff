"""The rows of a release: data sets that build on data sets, and rows that were chosen before.

A release is read from the artifacts that it names, with the ids, origins and parents that its
rows have; no file is parsed again.
"""

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
from pipeline.stage import Columns, DataKind, Edges, Records, stage
from pipeline.store.releases import LATEST, check_name, read_release, version_key
from pipeline.store.store import Store
from schemas.records import RECORD_COLUMNS

ColumnType = Literal["text", "integer", "number", "boolean", "texts"]

TYPES: Final[dict[ColumnType, Any]] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "texts": pl.List(pl.String()),
}

READS_RELEASE: Final = True
"""The engine resolves the option `version`, and its rows enter the fingerprint by content."""


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
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


def _beside_records(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    if wrong := sorted(set(columns) & set(RECORD_COLUMNS)):
        raise ValueError(f"must be beside those of records, got {', '.join(wrong)}")
    return columns


Name = Annotated[str, AfterValidator(_valid_name)]
Version = Annotated[str, AfterValidator(_valid_version)]
FurtherColumns = Annotated[Mapping[str, ColumnType], AfterValidator(_beside_records)]


@stage(version=1, scope="set", adds=_adds)
def release(
    ctx: Context,
    *,
    name: Name,
    version: Version | None = LATEST,
    store: str | None = None,
    optional: bool = False,
    columns: FurtherColumns | None = None,
) -> Records:
    """Load the published rows of a release.

    Args:
        name: The release's name.
        version: `"1.2"`, or `latest`: the newest release of that name. Of the recipe's own
            releases it is the newest that the recipe would not make again as it is: the last
            one from other sources or by another recipe. So a release does not make the recipe
            that made it stale.
        store: The folder of another store in which the release lies, beside the recipe or in
            the repository; null for the recipe's own. It enters the fingerprint by the rows.
        optional: Whether a release that is not there has no rows, as before the first release
            of a recipe that reads its own; else it is an error.
        columns: Further columns of the released rows (scores, tags), with their types.

    Raises:
        UserError: There is no such release, it has no records, its artifacts are not in the
            store, or it has no such column.

    Example:
        ```yaml
        before: {uses: load.release, with: {name: chat, optional: true}}
        chosen: {uses: select.random, needs: {rows: scored, held: before}, with: {budget: 1000}}
        ```

        >>> from tempfile import mkdtemp
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> len(release(ctx, name="chat", version=None, optional=True))
        0
    """
    schema = {**RECORD_COLUMNS, **{column: TYPES[kind] for column, kind in (columns or {}).items()}}
    if version is None:
        return pl.DataFrame(schema=schema)
    opened = Store(Path(store) if store else ctx.store)
    snapshot = Snapshot.of_release(opened, read_release(opened, f"{name}@{version}"))
    assert snapshot.release is not None
    frames = [_rows(snapshot, stage_name, schema) for stage_name in snapshot.release["published"]]
    return pl.concat(frames).unique("id", keep="first", maintain_order=True)


def _rows(snapshot: Snapshot, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of one published stage, in the columns of the schema."""
    entry = snapshot.stage(name)
    if entry.kind is not DataKind.RECORDS:
        raise UserError(f"{snapshot.title} must hold records, got {entry.kind or 'files alone'}")
    known = entry.view.columns if entry.view else list(schema)
    if missing := [column for column in schema if column not in known]:
        what = f"the rows of {snapshot.title} have no column {missing[0]!r}"
        raise UserError(what, hint=suggest(missing[0], known))
    rows = snapshot.rows(name, "kept", list(schema))
    try:
        return rows.select(pl.col(column).cast(kind) for column, kind in schema.items())
    except pl.exceptions.PolarsError as error:
        what = f"a column of {snapshot.title} is of another type than `columns` says"
        raise UserError(what, why=str(error).splitlines()[0]) from None
