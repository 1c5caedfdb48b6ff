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


class TableWriter:
    """Writes one Parquet file in parts, whose bytes do not depend on where the parts end.

    Used as a context: the file is on the disk when it ends.

    Args:
        path: The file.
        schema: Of the tables that come; its metadata is left out.
        compression: "zstd" or another codec of Parquet.

    Attributes:
        rows: How many rows came.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.parquet"
        >>> with TableWriter(path, pa.schema([("x", pa.int64())])) as writer:
        ...     writer.add(pa.table({"x": [1, 2]}))
        ...     writer.add(pa.table({"x": [3]}))
        >>> read_frame(path)["x"].to_list()
        [1, 2, 3]
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: str = "zstd") -> None:
        self.rows = 0
        self._waiting = pa.Table.from_batches([], schema.remove_metadata())
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(
            self._file,
            self._waiting.schema,
            compression=compression,
            version="2.6",
            data_page_version="1.0",
            use_dictionary=True,
            write_statistics=True,
            store_schema=True,
        )

    def add(self, table: pa.Table) -> None:
        """Write the next rows; those that fill no row group wait for more."""
        self.rows += len(table)
        table = pa.concat_tables([self._waiting, table.replace_schema_metadata(None)])
        whole = len(table) - len(table) % ROW_GROUP
        for start in range(0, whole, ROW_GROUP):
            self._write(table.slice(start, ROW_GROUP))
        # Copied, since a slice would hold the whole table.
        self._waiting = table.slice(whole).combine_chunks()

    def _write(self, group: pa.Table) -> None:
        self._writer.write_table(group.combine_chunks(), row_group_size=ROW_GROUP)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None and (len(self._waiting) or not self.rows):
                self._write(self._waiting)
            self._writer.close()
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())


def write_table(path: Path, table: pa.Table, compression: str = "zstd") -> None:
    """Write one Parquet file, durably: it is on the disk when this returns.

    Args:
        path: The file.
        table: What to write; its metadata is left out.
        compression: "zstd" or another codec of Parquet.
    """
    with TableWriter(path, table.schema, compression) as writer:
        writer.add(table)


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a polars frame as one Parquet file, durably."""
    write_table(path, to_arrow(frame))


def read_parts(
    path: Path, columns: Sequence[str] | None = None, rows: int = ROW_GROUP
) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file in parts, of which one is in memory at a time.

    Args:
        path: The file.
        columns: The columns to read; all without it.
        rows: The rows of a part; the last one may have fewer.

    Yields:
        The parts in order; none of a file without rows.

    Raises:
        DamagedFile: It is no Parquet file, or its pages cannot be decoded.
    """
    for start in range(0, row_count(path), rows):
        yield read_slice(path, columns, start, rows)


def read_slice(path: Path, columns: Sequence[str] | None, start: int, rows: int) -> pl.DataFrame:
    """Some rows of a Parquet file; only the row groups that hold them are read.

    Args:
        path: The file.
        columns: The columns to read; all with None.
        start: The first row.
        rows: How many.

    Raises:
        DamagedFile: It is no Parquet file, or its pages cannot be decoded.
    """
    with _damage_reported(path):
        scanned = pl.scan_parquet(path, glob=False).slice(start, rows)
        return (scanned if columns is None else scanned.select(columns)).collect()


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
