"""Data frames that a notebook hands over: files in the store, named by what they hold.

    frames/<digest of the rows>/<stage>.parquet     rows with one type in each column
    frames/<digest of the rows>/<stage>.jsonl       rows of Python objects, as they are

Equal rows are one file, which is never written again: a fingerprint over it holds for as long
as the rows do, whichever libraries come later, and the store stays readable without the notebook.
Objects in a column of pandas (turns as lists of dicts, texts among numbers) are written row by
row as JSON, so that nothing is unified and a bad row is one bad row, with its number.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline import ROOT
from pipeline.errors import UserError
from pipeline.store.hashing import column_digest, digest
from pipeline.store.parquet import write_frame

FOLDER: Final = "frames"
ACCEPTED: Final = "a data frame of pandas or polars, a Dataset, an Arrow table or a list of dicts"


def frame_override(store: Path, stage: str, rows: Any) -> str:
    """Store rows, and say how a recipe names them.

    Args:
        store: The store's folder.
        stage: The name of the stage that loads them.
        rows: A data frame of pandas or polars, a data set of `datasets`, an Arrow table or a
            list of dicts.

    Returns:
        What `--set` takes: the stage's `path` is the file.

    Raises:
        UserError: It is none of these, or holds what is no data.
    """
    path = save_rows(store, stage, rows)
    # A path in the repository is written as a recipe would: it is the same elsewhere.
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"stages.{stage}.with.path={json.dumps(str(name), ensure_ascii=False)}"


def save_rows(store: Path, stage: str, rows: Any) -> Path:
    """The file that holds the rows; written unless it is there already.

    Args:
        store: The store's folder.
        stage: What the file is called.
        rows: See `frame_override`.

    Raises:
        UserError: See `frame_override`.
    """
    table = _table(stage, rows)
    try:
        if isinstance(table, pl.DataFrame):
            try:
                return _save_columns(store, stage, table)
            except TypeError:  # a type without a stable encoding: row by row then
                return _save_lines(store, stage, table.iter_rows(named=True))
        return _save_lines(store, stage, table)
    except OSError as error:
        raise UserError(
            f"the rows of {stage} cannot be stored", where=str(store), why=error.strerror
        ) from None


def _table(stage: str, rows: Any) -> pl.DataFrame | Iterable[Mapping[str, Any]]:
    """The rows as columns of one type each, or as dicts where a column holds objects."""
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    if isinstance(rows, pl.DataFrame):
        names = pl.selectors.by_dtype(pl.Object)
        return rows.iter_rows(named=True) if rows.select(names).width else rows
    if isinstance(rows, pa.Table):
        return _of_arrow(rows)
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        return rows
    if (pandas := sys.modules.get("pandas")) and isinstance(rows, pandas.DataFrame):
        return _of_pandas(rows)
    if (datasets := sys.modules.get("datasets")) and isinstance(rows, datasets.Dataset):
        return _of_arrow(rows.with_format("arrow")[:])
    kind = f"{type(rows).__module__.split('.')[0]}.{type(rows).__qualname__}"
    splits = isinstance(rows, Mapping) and list(rows)
    raise UserError(
        f"the rows of {stage} must be {ACCEPTED}, got {kind}",
        hint=f"choose one of {', '.join(map(str, splits))}" if splits else None,
    )


def _of_arrow(table: pa.Table) -> pl.DataFrame | Iterable[Mapping[str, Any]]:
    try:
        frame = pl.from_arrow(table)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError):
        rows: list[dict[str, Any]] = table.to_pylist()  # a type that polars has not
        return rows
    assert isinstance(frame, pl.DataFrame)
    return frame


def _of_pandas(frame: Any) -> pl.DataFrame | Iterable[Mapping[str, Any]]:
    """Columns, with those that an index names; dicts where a column holds objects."""
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=named) if named else frame
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    if any(isinstance(dtype, np.dtype) and dtype.hasobject for dtype in frame.dtypes):
        return list(frame.to_dict("records"))
    try:
        return _of_arrow(pa.Table.from_pandas(frame, preserve_index=False))
    except pa.ArrowException:  # such as a lone surrogate, which fails by itself in its row
        return list(frame.to_dict("records"))


def _save_columns(store: Path, stage: str, frame: pl.DataFrame) -> Path:
    categories = [n for n, dtype in frame.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    frame = frame.with_columns(pl.col(categories).cast(pl.String))
    identity = digest([[name, column_digest(frame[name])] for name in frame.columns])
    path = store / FOLDER / identity / f"{stage}.parquet"
    if not path.exists():
        aside = _aside(path)
        write_frame(aside, frame)
        os.replace(aside, path)
    return path


def _save_lines(store: Path, stage: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as JSON, a line each, in ASCII: lone surrogates are kept for the loader to refuse."""
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(json.dumps({str(k): v for k, v in row.items()}, default=_plain))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"row {number:,} of {stage} holds what is no data",
                why=str(error),
                hint="make it text, numbers, lists or dicts",
            ) from None
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    identity = blake2b(data, digest_size=16).hexdigest()
    path = store / FOLDER / identity / f"{stage}.jsonl"
    if not path.exists():
        aside = _aside(path)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    return path


def _aside(path: Path) -> Path:
    """Where a file is written before it is renamed: what is half written is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{uuid4().hex}")


def _plain(value: Any) -> Any:
    """A value of numpy, pandas or the standard library as JSON has it.

    Raises:
        TypeError: It is no data.
    """
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")
