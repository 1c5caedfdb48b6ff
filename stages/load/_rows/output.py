"""One output row for each source position: kept, dropped as equal to an earlier one, or failed.

Loaders make plain tuples, one per position; here they become columns. Positions are
numbered from 0 over all files in their order, failed ones too, and `index` in `origins` is
that number.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from json.encoder import encode_basestring
from math import isfinite
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from schemas.records import json_bytes
from stages._common.garbage import collected_by_hand
from stages.load._files.container import Container, unreadable
from stages.load._files.json_lines import Position
from stages.load._files.positions import positions
from stages.load._files.stream import HEAD, Stream, head

VERDICT: Final[Mapping[str, Any]] = {
    "drop_reason": pl.String(),
    "evidence": pl.String(),
    "error": pl.String(),
    "file": pl.String(),
    "line": pl.Int64(),
}

OutputRow = tuple[Any, ...]
"""The values of one position, column by column."""

ContainerOf = Callable[[Path, bytes], Container]
"""How a file holds its rows, from its path and the first megabyte."""

SURROGATE: Final = "a lone surrogate, which is no text"
TOO_DEEP: Final = "fields nested too deep"

_BATCH: Final = 8192
_BATCH_SIZE: Final = 32 << 20
"""How many rows, and characters of them, are Python objects at one time; the rest are columns."""

_REPORT_EVERY: Final = 64
"""Positions between two reports of progress."""


def read_files(
    ctx: Context,
    paths: Sequence[Path],
    container_of: ContainerOf,
    nested: frozenset[str] = frozenset(),
    delimiter: str | None = None,
) -> Iterator[tuple[str, Position]]:
    """The positions of all files, each with the name of its file.

    Progress is reported in bytes of the files.

    Args:
        ctx: Reports the progress.
        paths: The files, in order.
        container_of: How a file holds its rows.
        nested: The columns of a table whose cells may be JSON.
        delimiter: Between the cells of a table; None for what the file has.

    Raises:
        UserError: A file cannot be read at all.
    """
    total, before = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        stream, name = Stream(path), path.name
        rows = _positions(stream, head(path)[0], container_of, nested, delimiter)
        for number, position in enumerate(rows):
            if number % _REPORT_EVERY == 0:
                ctx.progress(before + stream.read, total)
            yield name, position
        before += path.stat().st_size


def _positions(
    stream: Stream,
    start: bytes,
    container_of: ContainerOf,
    nested: frozenset[str],
    delimiter: str | None,
) -> Iterator[Position]:
    if reason := unreadable(start):
        return iter([(1, None, reason)])
    return positions(stream, container_of(stream.path, start), nested, delimiter)


def peek(
    path: Path,
    container_of: ContainerOf,
    nested: frozenset[str] = frozenset(),
    delimiter: str | None = None,
) -> tuple[list[Position], bool]:
    """The positions in a file's first megabyte, and whether they are complete.

    They are not where the first row alone is longer than that.

    Args:
        path: The file.
        container_of: How it holds its rows.
        nested: The columns of a table whose cells may be JSON.
        delimiter: Between the cells of a table; None for what the file has.

    Raises:
        UserError: The file cannot be read at all.
    """
    start, complete = head(path)
    first: list[Position] = []
    if start.strip():
        rows = _positions(Stream(path, HEAD), start, container_of, nested, delimiter)
        first = list(islice(rows, _BATCH))
    return first, complete or len(first) > 1


def check_file(
    path: Path,
    container_of: ContainerOf,
    is_usable: Callable[[Any], bool],
    what: str,
    hint: str,
    nested: frozenset[str] = frozenset(),
    delimiter: str | None = None,
) -> None:
    """Refuse a file whose first megabyte holds no usable row.

    A first row that is longer than that passes.

    Args:
        path: The file.
        container_of: How it holds its rows.
        is_usable: Whether a row, an object or a list, has the fields that are needed.
        what: What a usable row is, for the message.
        hint: What to do.
        nested: The columns of a table whose cells may be JSON.
        delimiter: Between the cells of a table; None for what the file has.

    Raises:
        UserError: It holds none, or cannot be read at all.
    """
    first, complete = peek(path, container_of, nested, delimiter)
    rows = [row for _, row, _ in first if isinstance(row, dict | list)]
    if not complete or any(is_usable(row) for row in rows):
        return
    why = "it is empty"
    if rows and isinstance(rows[0], dict):
        why = f"its rows have the fields {', '.join(map(str, rows[0]))}"
    elif first:
        why = next((error for _, _, error in first if error), "its rows are no objects")
    raise UserError(f"{path.name!r} holds no row {what}", why=why, hint=hint)


def existing_files(path: Sequence[str], option: str = "path") -> list[Path]:
    """The paths of an option. Links are followed, wherever they lead.

    Args:
        path: Its value.
        option: Its name.

    Raises:
        OptionError: One of them is not a file.
    """
    for name in path:
        if not Path(name).is_file():
            why = "is a device or a pipe" if Path(name).exists() else "does not exist"
            why = "is a folder" if Path(name).is_dir() else why
            raise OptionError(
                option,
                f"must be files, got {name!r}, which {why}",
                hint="name files, or a pattern: data/*.jsonl; data sets in folders: `dataset`",
            )
    return [Path(name) for name in path]


def quoted(text: str) -> str:
    """A text as canonical JSON has it (`schemas.records.digest`), without an encoder's set-up.

    >>> quoted('"so"')
    '"\\\\"so\\\\""'
    """
    return encode_basestring(text)


def digest_of(canonical: str) -> str:
    """32 hex digits of blake2b over canonical JSON.

    Raises:
        UnicodeEncodeError: It holds a lone surrogate.
    """
    return blake2b(canonical.encode("utf-8"), digest_size=16).hexdigest()


def extra_json(extra: Mapping[str, Any]) -> str:
    """The other fields as a JSON object. NaN and infinity, which JSON has not, become null.

    Raises:
        UnicodeEncodeError: It holds a lone surrogate.
        RecursionError: It is nested too deep.

    >>> extra_json({"score": float("nan"), "lang": "de"})
    '{"score": null, "lang": "de"}'
    """
    if not extra:
        return "{}"
    try:
        return json_bytes(extra, _STRICT).decode("utf-8")
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError):
        return json_bytes(_without_nan(extra), _STRICT).decode("utf-8")


_STRICT: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def to_frame(
    rows: Iterable[OutputRow],
    build: Callable[[list[OutputRow]], pl.DataFrame],
    size_of: Callable[[OutputRow], int] = lambda _: 0,
) -> pl.DataFrame:
    """Rows as one frame; see `to_frames`.

    Args:
        rows: The rows.
        build: Makes columns of a batch.
        size_of: How many characters a row holds.
    """
    return pl.concat(to_frames(rows, build, size_of))


def to_frames(
    rows: Iterable[OutputRow],
    build: Callable[[list[OutputRow]], pl.DataFrame],
    size_of: Callable[[OutputRow], int] = lambda _: 0,
) -> Iterator[pl.DataFrame]:
    """Rows as frames, built batch by batch so that few of them are Python objects at once.

    Args:
        rows: The rows.
        build: Makes columns of a batch.
        size_of: How many characters a row holds.

    Yields:
        At least one frame, the first of which is empty.
    """
    yield build([])
    with collected_by_hand():
        for batch in _batches(rows, size_of):
            yield build(batch)
            del batch
            gc.collect(0)


def _batches(
    rows: Iterable[OutputRow], size_of: Callable[[OutputRow], int]
) -> Iterator[list[OutputRow]]:
    batch: list[OutputRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += size_of(row)
        del row  # it may be long, and lies in the batch alone while the next one is read
        if len(batch) == _BATCH or size > _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
