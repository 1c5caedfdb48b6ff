"""One line for each source position: kept, dropped as equal to an earlier one, or failed.

Loaders make a list of plain tuples, one per position; here they become columns.
Positions are counted from 0 over all files in their order, failed ones too, and
`index` in `origins` is that number.
"""

from __future__ import annotations

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
from pipeline.errors import UserError
from stages.load._read import positions
from stages.load._stream import HEAD, Container, Stream, head
from stages.load._tables import Position

VERDICT: Final[Mapping[str, Any]] = {
    "drop_reason": pl.String(),
    "evidence": pl.String(),
    "error": pl.String(),
    "file": pl.String(),
    "line": pl.Int64(),
}

Line = tuple[Any, ...]
"""What becomes of one position, column by column."""

_BATCH: Final = 8192
"""Lines that are Python objects at one time; the rest are columns."""

_TELL: Final = 64
"""Positions between two reports of progress."""


def located(
    ctx: Context,
    paths: Sequence[Path],
    holds: Callable[[Path, bytes], Container],
    nested: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, Position]]:
    """The positions of all files with the names of these. Reports progress in bytes of the files.

    holds: what a file holds, from its path and the first megabyte.
    Raises UserError for a file that cannot be read at all.
    """
    total, before = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        stream = Stream(path)
        found, name = positions(stream, holds(path, head(path)[0]), nested), path.name
        for number, position in enumerate(found):
            if number % _TELL == 0:
                ctx.progress(before + stream.read, total)
            yield name, position
        before += path.stat().st_size


def peek(
    path: Path, holds: Callable[[Path, bytes], Container], nested: frozenset[str] = frozenset()
) -> tuple[list[Position], bool]:
    """The positions in a file's first megabyte, and whether these are whole.

    They are not where the first row alone is longer than that.
    Raises UserError for a file that cannot be read at all.
    """
    start, complete = head(path)
    kind = holds(path, start)
    stream = Stream(path, None if kind == "parquet" else HEAD)
    found = list(islice(positions(stream, kind, nested), _BATCH)) if start.strip() else []
    return found, complete or len(found) > 1


def existing(path: Sequence[str]) -> list[Path]:
    """The paths as files. Raises UserError for one that is none."""
    for name in path:
        if not Path(name).is_file():
            what = "is a folder" if Path(name).is_dir() else "does not exist"
            raise UserError(f"{name!r} {what}", hint="name files, or a pattern: data/*.jsonl")
    return [Path(name) for name in path]


def quoted(text: str) -> str:
    """A text as canonical JSON has it (`schemas.records.digest`), without an encoder's set-up."""
    return encode_basestring(text)


def digest_of(canonical: str) -> str:
    """32 hex digits of blake2b over canonical JSON. Raises UnicodeEncodeError for no text."""
    return blake2b(canonical.encode("utf-8"), digest_size=16).hexdigest()


def extra_json(extra: Mapping[str, Any]) -> str:
    """The other fields as a JSON object. JSON has no NaN: numbers that are none become null.

    Raises UnicodeEncodeError for what is no text, RecursionError for what nests too deep.
    """
    if not extra:
        return "{}"
    try:
        text = json.dumps(extra, ensure_ascii=False, allow_nan=False, default=str)
    except (ValueError, TypeError):
        text = json.dumps(_plain(extra), ensure_ascii=False, default=str)
    text.encode("utf-8")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def columns(lines: Iterable[Line], build: Callable[[list[Line]], pl.DataFrame]) -> pl.DataFrame:
    """Lines as one frame, built batch by batch so that few of them are Python objects at once."""
    source = iter(lines)
    frames = [build([])]
    while batch := list(islice(source, _BATCH)):
        frames.append(build(batch))
    return pl.concat(frames)


def settled(frame: pl.DataFrame, source: str, license: str) -> pl.DataFrame:
    """The lines with `origins` and with the equal ones merged into the first of them.

    frame: one line per position, in their order, `id` null where it failed.
    Of equal ids the first line is kept with all their origins; the others are
    dropped as `duplicate`, with both positions as evidence.
    """
    frame = frame.with_row_index("_index").with_columns(pl.col("_index").cast(pl.Int64))
    equal = (
        frame.lazy()
        .filter(pl.col("id").is_not_null())
        .group_by("id")
        .agg(pl.col("_index").sort().alias("_all"))
        .filter(pl.col("_all").list.len() > 1)
        .collect()
    )
    frame = frame.join(equal, on="id", how="left", maintain_order="left")
    first = pl.col("_all").list.first()
    later = (first < pl.col("_index")).fill_null(False)
    own = pl.concat_list("_index")
    places = pl.when(first == pl.col("_index")).then(pl.col("_all")).otherwise(own)
    origin = pl.struct(
        pl.lit(source).alias("source"),
        pl.element().alias("index"),
        pl.lit(license).alias("license"),
    )
    kept = pl.col("id").is_not_null()
    return frame.with_columns(
        pl.when(kept).then(places.list.eval(origin)).alias("origins"),
        pl.when(later).then(pl.lit("duplicate")).alias("drop_reason"),
        pl.when(later).then(_evidence(source, first)).alias("evidence"),
    ).drop("_index", "_all")


def _evidence(source: str, first: pl.Expr) -> pl.Expr:
    name = json.dumps(source, ensure_ascii=False)
    position = f'{{"source": {name}, "index": '
    return pl.concat_str(
        pl.lit('{"id": "'),
        pl.col("id"),
        pl.lit(f'", "kept": {position}'),
        first,
        pl.lit(f'}}, "dropped": {position}'),
        pl.col("_index"),
        pl.lit("}}"),
    )
