"""From a file to source positions: (line, value, error), one for each row that the file holds.

Whatever a file contains, reading it yields values or errors and never raises: one broken
row must not cost the others. Rows are read one after the other, and at most one is held.
"""

from __future__ import annotations

from collections.abc import Iterator

from stages.load._files.arrow import arrow
from stages.load._files.container import Container
from stages.load._files.json_array import json_array
from stages.load._files.json_lines import Position, json_lines
from stages.load._files.json_objects import json_objects
from stages.load._files.parquet import parquet
from stages.load._files.stream import ROW_LIMIT, TOO_LONG, Stream, lines, whole
from stages.load._files.tables import delimited


def positions(
    stream: Stream, container: Container, nested: frozenset[str], delimiter: str | None = None
) -> Iterator[Position]:
    """The source positions of a file.

    Args:
        stream: The file.
        container: How it holds its rows.
        nested: The columns of a table whose cells may be JSON.
        delimiter: Between the cells of a table; None for what the container has.
    """
    if container == "parquet":
        return parquet(stream, nested)
    if container == "arrow":
        return arrow(stream, nested)
    if container == "json":
        return json_array(stream)
    if container == "objects":
        return json_objects(stream)
    if container == "jsonl":
        return json_lines(stream)
    if container == "lines":
        return _lines(stream)
    if container == "text":
        return _text(stream)
    return delimited(stream, "\t" if container == "tsv" else ",", delimiter, nested)


def _lines(stream: Stream) -> Iterator[Position]:
    """Lines of text: each that is not blank is a position, a prompt without an answer."""
    number = 1
    for number, line in lines(stream):
        if line is None:
            yield number, None, TOO_LONG
        elif stripped := line.strip():
            text, error = _decoded(stripped)
            yield number, None if error else {"prompt": text}, error
    if stream.cut:
        yield number, None, stream.cut


def _text(stream: Stream) -> Iterator[Position]:
    """A plain text file: one position that holds all of it, titled by the file's name."""
    data = whole(stream, ROW_LIMIT)
    text, error = ("", TOO_LONG) if data is None else _decoded(data)
    error = stream.cut or error
    yield 1, None if error else {"text": text, "title": stream.path.name}, error


def _decoded(data: bytes) -> tuple[str, str | None]:
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as bad:
        return "", f"invalid UTF-8 ({bad.reason} at byte {bad.start})"
