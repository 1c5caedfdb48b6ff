"""Parquet as source positions: the number of the row, its values, why it has none.

A row group that cannot be read costs its rows, each of which fails. Parquet may hold in
few bytes what fills any memory: a column that expands without measure is refused before it
is read, and no more is decoded than `EXPANSION` times the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from stages.load._files.json_lines import NOT_UTF8, Position
from stages.load._files.stream import ROW_LIMIT, TOO_LONG, Stream, is_compressed, whole
from stages.load._files.tables import unpacked, without_nulls

_WHOLE: Final = 256 << 20
"""The largest Parquet file that may itself be compressed, since it is read at once."""

_BATCH: Final = 256
BATCH_BYTES: Final = 64 << 20

_RATIO: Final = 200
"""Text is compressed to a twentieth; a large column that expands so often is no data set."""

_LARGE: Final = 16 << 20
EXPANSION: Final = 1000
_ROW_BYTES: Final = 256
"""What a row counts for at least: a column of nulls has no bytes, however long it is."""

_ROWS_BY_NAME: Final = 1_000_000
"""Up to so many unreadable rows each is a failure of its own."""


def parquet(stream: Stream, nested: frozenset[str]) -> Iterator[Position]:
    """The rows of a Parquet file; `line` is the number of the row.

    Args:
        stream: The file.
        nested: Columns whose cells may be JSON lists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = source_of_stream(stream)
        file = pq.ParquetFile(source, buffer_size=1 << 20)
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        yield 1, None, _reason(error)
        return
    first, budget = 0, Budget(stream.path)
    for number, group in enumerate(groups):
        at = first
        try:
            _check_expansion(group, stream.path)
            size = _batch_size(group, stream.path)
            for batch in file.iter_batches(size, row_groups=[number]):
                budget.take(batch)
                for row in rows_of_batch(batch):
                    at += 1
                    if isinstance(row, dict):
                        yield at, unpacked(without_nulls(row, nested), nested), None
                    else:
                        yield at, None, row
        except (pa.ArrowException, OSError, ValueError) as error:
            yield from _unread(at, first + group.num_rows, _reason(error))
        first += max(group.num_rows, 0)
        stream.read = stream.path.stat().st_size * (number + 1) // len(groups)


class Budget:
    """How much more a file may expand to.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._left = max(BATCH_BYTES, EXPANSION * path.stat().st_size)

    def take(self, batch: Any) -> None:
        """Count a batch.

        Args:
            batch: A record batch.

        Raises:
            ValueError: It is more than the file may expand to.
        """
        self._left -= max(batch.nbytes, _ROW_BYTES * batch.num_rows)
        if self._left < 0:
            raise ValueError(f"it expands to more than {EXPANSION:,} times its size")


def source_of_stream(stream: Stream) -> Path | Any:
    """The path of a file, or its data where it is compressed once more.

    Args:
        stream: The file.

    Raises:
        ValueError: It is compressed, and too large to be read at once.
    """
    import pyarrow as pa

    if not is_compressed(stream.path):
        return stream.path
    data = whole(stream, _WHOLE)
    if data is None:
        raise ValueError(f"more than {_WHOLE >> 20} MiB, compressed once more: decompress it first")
    return pa.BufferReader(data)


def _reason(error: BaseException) -> str:
    return f"unreadable Parquet: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _columns(group: Any, path: Path) -> Iterator[tuple[Any, int, int]]:
    """The columns of a row group, with how many bytes each holds per byte and in all."""
    for number in range(group.num_columns):
        column = group.column(number)
        size = column.total_uncompressed_size
        own = min(column.total_compressed_size, path.stat().st_size)
        yield column, size // max(own, 1), size


def _check_expansion(group: Any, path: Path) -> None:
    """Raise ValueError where a column expands without measure."""
    for _, ratio, size in _columns(group, path):
        if size > _LARGE and ratio > _RATIO:
            raise ValueError(f"a column expands to {ratio:,} times its size, {size:,} bytes")


def _batch_size(group: Any, path: Path) -> int:
    """How many rows are decoded at once.

    Each row may be the longest text of a dictionary. Writers end one at a megabyte; a larger
    one, or one that is compressed beyond what several texts would be, may be a single text.
    """
    row: int = group.total_byte_size // max(group.num_rows, 1)
    for column, ratio, size in _columns(group, path):
        if column.has_dictionary_page:
            own = column.data_page_offset - column.dictionary_page_offset
            row = max(row, size if ratio > _RATIO // 10 or own > 1 << 20 else 0)
    return max(1, min(_BATCH, BATCH_BYTES // max(row, 1)))


def _unread(at: int, end: int, reason: str) -> Iterator[Position]:
    """A failure for each row that was not read, the first alone where they are too many."""
    if end - at > _ROWS_BY_NAME:
        yield at + 1, None, f"{reason}; {end - at:,} rows are lost"
        return
    for number in range(at, max(end, at + 1)):
        yield number + 1, None, reason


def rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Rows as dicts; for a row that has no Python values the reason.

    Args:
        batch: A record batch.
    """
    if batch.nbytes > ROW_LIMIT:
        for at in range(batch.num_rows):
            one = batch.slice(at, 1)
            yield TOO_LONG if one.nbytes > ROW_LIMIT else next(_values(one))
    else:
        yield from _values(batch)


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # invalid UTF-8, a date beyond Python's
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield NOT_UTF8
            except (ValueError, OverflowError) as error:
                yield str(error)
