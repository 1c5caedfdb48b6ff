"""The only module that reads or writes Parquet.

Everything is written by pyarrow with pinned options and one chunk per column:
polars writes other bytes for other chunk layouts, and exports are promised to be the
same bytes. Types are the basic Arrow ones (string, list), which every reader of Parquet
understands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.files import DamagedFile

ROW_GROUP: Final = 16_384


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """The frame as an Arrow table with basic types and without metadata.

    Converted slice by slice: one chunk of a string column holds 2 GiB at most.

    Example:
        >>> to_arrow(pl.DataFrame({"text": ["a"]})).schema.field("text").type
        DataType(string)
    """
    polars_schema = frame.clear().to_arrow().schema
    schema = pa.schema([(field.name, _basic_type(field.type)) for field in polars_schema])
    slices = frame.iter_slices(ROW_GROUP) if len(frame) else [frame]
    return pa.concat_tables([part.to_arrow().cast(schema) for part in slices])


def _basic_type(dtype: pa.DataType) -> pa.DataType:
    """string and list in place of polars' large_string, string_view and large_list."""
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_list(dtype) or pa.types.is_list(dtype):
        return pa.list_(_basic_type(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([(field.name, _basic_type(field.type)) for field in dtype])
    return dtype


def write_table(path: Path, table: pa.Table, compression: str = "zstd") -> None:
    """Write one Parquet file, durably: it is on the disk when this returns.

    Args:
        path: The file.
        table: What to write; its metadata is left out.
        compression: "zstd" or another codec of Parquet.
    """
    table = table.replace_schema_metadata(None)
    with path.open("wb") as file:
        with pq.ParquetWriter(
            file,
            table.schema,
            compression=compression,
            version="2.6",
            data_page_version="1.0",
            use_dictionary=True,
            write_statistics=True,
            store_schema=True,
        ) as writer:
            for start in range(0, max(len(table), 1), ROW_GROUP):
                group = table.slice(start, ROW_GROUP).combine_chunks()
                writer.write_table(group, row_group_size=ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a polars frame as one Parquet file, durably."""
    write_table(path, to_arrow(frame))


def read_frame(
    source: Path | Sequence[Path] | bytes, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """The rows of one or several Parquet files, in the order of the files.

    Args:
        source: The files, or the bytes of one.
        columns: The columns to read; all without it.

    Raises:
        DamagedFile: A file is no Parquet file, or its pages cannot be decoded.
    """
    if isinstance(source, Path | bytes):
        return _read(source, columns)
    return pl.concat([_read(file, columns) for file in source])


def _read(source: Path | bytes, columns: Sequence[str] | None) -> pl.DataFrame:
    selected = None if columns is None else list(columns)
    path = Path("(bytes)") if isinstance(source, bytes) else source
    with _damage_reported(path):
        return pl.read_parquet(source, columns=selected, glob=False)


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file, from its footer.

    Raises:
        DamagedFile: It has no readable footer.
    """
    with _damage_reported(path):
        return list(pq.read_schema(path).names)


def row_count(path: Path) -> int:
    """The rows of a Parquet file, from its footer.

    Raises:
        DamagedFile: It has no readable footer.
    """
    with _damage_reported(path):
        return int(pq.read_metadata(path).num_rows)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turns what readers raise for a damaged file, Rust panics among it, into one error."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        raise DamagedFile(
            path, f"it is no Parquet that can be read ({_first_line(error)})"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(
            path, f"it is no Parquet that can be read ({_first_line(error)})"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
