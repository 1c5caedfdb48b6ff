"""Tables (CSV, TSV, Parquet) as source positions.

A position is a line, a row as a dict, and why it cannot be used. CSV is read
with the standard library: it alone says on which line a record begins and lets
a broken one cost only itself.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from stages.load._stream import Stream, lines

Position = tuple[int, Any, str | None]
"""Line (from 1), the value there, and why it cannot be used (the value is then None)."""

UNDECODED: Final = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` leaves where bytes were no UTF-8."""

_NOT_UTF8: Final = "invalid UTF-8"


def delimited(stream: Stream, delimiter: str, nested: frozenset[str]) -> Iterator[Position]:
    """The rows of a CSV or TSV file with a header, quoted as in RFC 4180.

    Args:
        stream: The file.
        delimiter: Between cells.
        nested: Columns whose cells may be JSON lists.
    """
    header: list[str] | None = None
    for line, cells, error in _records(stream, delimiter):
        if error:
            yield line, None, error
            if header is None:
                return  # without a header nothing behind it can be understood
        elif header is None:
            header = cells
        elif len(cells) != len(header):
            yield line, None, f"{len(cells)} cells where the header has {len(header)}"
        else:
            yield line, _unpacked(dict(zip(header, cells, strict=True)), nested), None


def _records(stream: Stream, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """The cells of each record and the line on which it begins.

    After a record that cannot be read, reading resumes at the line behind its
    first one, so that a stray quote does not swallow the rest of the file.
    """
    source = _Rewindable(stream)
    limit = csv.field_size_limit(sys.maxsize)  # a cell may be as long as it likes
    try:
        while True:
            try:
                cells = next(csv.reader(source, delimiter=delimiter, strict=True), None)
            except csv.Error as bad:
                if source.ended and stream.cut:
                    break  # the torn last record and the early end are one failure
                yield source.first, [], f"invalid CSV: {bad}"
                source.rewind()
            else:
                if cells is None:
                    break
                undecoded = any(UNDECODED.search(cell) for cell in cells)
                if cells:  # a blank line has none
                    yield source.first, cells, _NOT_UTF8 if undecoded else None
            source.forget()
    finally:
        csv.field_size_limit(limit)
    if stream.cut:
        yield source.first, [], stream.cut


class _Rewindable:
    """Lines of a table; those behind the first one of the current record can be read again."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._source = stream, lines(stream)
        self._waiting: list[str] = []
        self._current: list[str] = []
        self.first, self.ended = 1, False

    def __iter__(self) -> _Rewindable:
        return self

    def __next__(self) -> str:
        if not self._waiting:
            raw = next(self._source, None)
            self.ended = raw is None or self._stream.cut is not None
            if raw is None or self.ended:
                raise StopIteration
            self._waiting.append(raw.decode("utf-8", "surrogateescape") + "\n")
        self._current.append(self._waiting.pop())
        return self._current[-1]

    def rewind(self) -> None:
        self._waiting += reversed(self._current[1:])
        self._current = self._current[:1]

    def forget(self) -> None:
        self.first += len(self._current)
        self._current, self.ended = [], False


def _unpacked(row: dict[str, Any], nested: frozenset[str]) -> dict[str, Any]:
    """A table's row in which a cell that holds a JSON list is that list."""
    for name in nested & row.keys():
        if isinstance(row[name], str) and row[name].lstrip().startswith("["):
            try:
                row[name] = json.loads(row[name])
            except (ValueError, RecursionError):
                continue  # a text after all, which the format may accept or refuse
    return row


def parquet(stream: Stream, nested: frozenset[str]) -> Iterator[Position]:
    """The rows of a Parquet file; `line` is the number of the row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(b"".join(stream)))
        for batch in file.iter_batches(4096):
            for row in _rows(batch):
                number += 1
                if isinstance(row, dict):
                    yield number, _unpacked(row, nested), None
                else:
                    yield number, None, row
    except (pa.ArrowException, OSError) as error:
        yield number + 1, None, f"unreadable Parquet: {str(error).splitlines()[0]}"


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Rows as dicts; for a row that has no Python values the reason."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # invalid UTF-8, a date beyond Python's
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield _NOT_UTF8
            except (ValueError, OverflowError) as error:
                yield str(error)
