"""Unlabelled texts from the outside world: the raw material of back-translation.

Rows of JSON, JSON lines, CSV, TSV or Parquet with a text and perhaps a title,
or plain text files of which each is one document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Documents, InputFiles, stage
from schemas.records import DOCUMENT_COLUMNS
from stages.load._account import (
    VERDICT,
    Line,
    columns,
    digest_of,
    existing,
    extra_json,
    located,
    peek,
    quoted,
    settled,
)
from stages.load._formats import renamed
from stages.load._stream import Container, container

Format = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"]

_SCHEMA: Final[dict[Any, Any]] = {**DOCUMENT_COLUMNS, **VERDICT}
_LINE: Final = {
    "id": pl.String(),
    "text": pl.String(),
    "title": pl.String(),
    "extra": pl.String(),
    "error": pl.String(),
    "file": pl.String(),
    "line": pl.Int64(),
}


def _holder(format: Format) -> Callable[[Path, bytes], Container]:
    """What says how a file holds its documents: prose is known by the name, all else by content."""
    if format != "auto":
        return lambda *_: format
    prose = re.compile(r"\.(txt|md|rst)(\.gz|\.zst)?$")
    return lambda path, start: "text" if prose.search(path.name) else container(path, start)


def check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row with a text."""
    if not options.path:
        raise UserError("load.documents needs a `path`", hint="path: FILE, a list, or a pattern")
    fields = options.fields or {}
    for path in existing(options.path):
        found, whole = peek(path, _holder(options.format))
        rows = [row for _, row, _ in found if isinstance(row, dict)]
        if not whole or any("text" in renamed(row, fields)[0] for row in rows):
            continue
        known = f"its rows have the fields {', '.join(map(str, rows[0]))}" if rows else None
        broken = next((error for _, _, error in found if error), "its rows are no objects")
        raise UserError(
            f"{path.name!r} holds no row with a text",
            why=known or (broken if found else "it is empty"),
            hint="name the field: fields: {text: body}",
        )


@stage(version=1, scope="set", check=check)
def documents(
    ctx: Context,
    *,
    path: InputFiles,
    format: Format = "auto",
    fields: dict[str, str] | None = None,
    source: str,
    license: str,
) -> Documents:
    """Every source position as one line: a document, a duplicate of an earlier one, or a failure.

    path: files, one after the other; gzip and zstandard are told by content. A
        file named .txt, .md or .rst is one document, titled by its name.
    format: what holds the documents; found out by default.
    fields: the source's names, as {text: theirs, title: theirs}.
    source, license: where the texts come from and on what terms; they stand in `origins`.

    A position without a text has `error`, `file` and `line`. Of equal texts the
    first is kept with all `origins`, the others are dropped as `duplicate`.
    Raises UserError for a file that cannot be read at all.
    """
    found = located(ctx, existing(path), _holder(format))
    lines = (_line(name, *position, fields or {}) for name, position in found)
    frame = columns(lines, lambda batch: pl.DataFrame(batch, schema=_LINE, orient="row"))
    return settled(frame, source, license).select(list(_SCHEMA)).cast(_SCHEMA)


def _line(file: str, line: int, row: Any, error: str | None, fields: Mapping[str, str]) -> Line:
    if error is None:
        try:
            return (*_document(file, row, fields), None, None, None)
        except UnicodeEncodeError:
            error = "a lone surrogate, which is no text"
        except RecursionError:
            error = "fields nested too deep"
        except ValueError as reason:
            error = str(reason)
    return (None, None, None, None, error, file, line)


def _document(file: str, row: Any, fields: Mapping[str, str]) -> tuple[str, str, str | None, str]:
    """Id, text, title, extra. Raises ValueError with what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("a row must be an object")
    row, hidden = renamed(row, fields)
    text, title = row.pop("text", None), row.pop("title", None)
    if not isinstance(text, str):
        raise ValueError("missing field 'text'" if text is None else "'text' is no text")
    if not text:
        raise ValueError("empty text")
    if not isinstance(title, str | None):
        raise ValueError("'title' is no text")
    (title or "").encode("utf-8")
    return digest_of(quoted(text)), text, title, extra_json(row | hidden)
