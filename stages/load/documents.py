"""Unlabelled texts as documents: the raw material of back-translation.

Rows of JSON, JSON lines, CSV, TSV or Parquet with a text and perhaps a title,
or plain text files of which each is one document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Documents, InputFiles, stage
from schemas.records import DOCUMENT_COLUMNS
from stages.load._chat.source import rename_fields
from stages.load._chat.turns import is_missing
from stages.load._files.container import container
from stages.load._files.json_lines import Position
from stages.load._files.tables import Delimiter
from stages.load._rows.accepted import accept, read_accepted
from stages.load._rows.merging import merge_duplicates
from stages.load._rows.output import (
    SURROGATE,
    TOO_DEEP,
    VERDICT,
    ContainerOf,
    OutputRow,
    check_file,
    digest_of,
    existing_files,
    extra_json,
    quoted,
    read_files,
    to_frames,
)

Format = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"]

_SCHEMA: Final[dict[Any, Any]] = {**DOCUMENT_COLUMNS, **VERDICT}
_ROW: Final = {
    "id": pl.String(),
    "text": pl.String(),
    "title": pl.String(),
    "extra": pl.String(),
    "error": pl.String(),
    "file": pl.String(),
    "line": pl.Int64(),
    "drop_reason": pl.String(),
    "evidence": pl.String(),
}


def _container_of(format: Format) -> ContainerOf:
    """How a file holds its documents: prose is recognized by the name, all else by content."""
    if format != "auto":
        return lambda *_: format
    prose = re.compile(r"\.(txt|md|rst)(\.gz|\.zst)?$")
    return lambda path, start: "text" if prose.search(path.name) else container(path, start)


def _check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row with a text."""
    if not options.path:
        raise OptionError(
            "path", "must be at least one file, got none", hint="path: FILE, a list, or a pattern"
        )
    fields = options.fields or {}
    for path in existing_files(options.path):
        check_file(
            path,
            _container_of(options.format),
            lambda row: isinstance(row, dict) and "text" in rename_fields(row, fields)[0],
            "with a text",
            "name the field: fields: {text: body}",
            delimiter=options.delimiter,
        )
    read_accepted(options.accepted)


@stage(version=5, scope="set", check=_check)
def documents(
    ctx: Context,
    *,
    path: InputFiles,
    format: Format = "auto",
    fields: dict[str, str] | None = None,
    delimiter: Delimiter | None = None,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Documents:
    """Load texts: one row for every source position.

    A position without a text has failed, with `error`, `file` and `line`; so has one of more
    than 64 MiB. Of equal texts the first is kept with all `origins`, the others are dropped as
    `duplicate`. Failed rows that are `accepted` are dropped as such.

    Args:
        path: Files, one after the other; gzip and zstandard are recognized by content. A
            file named .txt, .md or .rst is one document, titled by its name.
        format: What holds the documents; the files decide by default.
        fields: The source's names, as {text: source's, title: source's}.
        delimiter: Between the cells of CSV, such as ';'; a comma by default, a tab in TSV.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the texts come from; it stands in `origins`.
        license: On what terms they come; it stands in `origins`.

    Raises:
        UserError: A file cannot be read at all.

    Example:
        ```yaml
        documents:
          uses: load.documents
          with: {path: data/samples/rust_book.jsonl.gz, source: rust-book, license: MIT}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "chapter.md").write_text("It was a dark night.")
        20
        >>> path = (str(folder / "chapter.md"),)
        >>> rows = documents(Context.scratch(folder), path=path, source="here", license="MIT")
        >>> rows.select("title", "text").row(0)
        ('chapter.md', 'It was a dark night.')
    """
    positions = read_files(ctx, existing_files(path), _container_of(format), delimiter=delimiter)
    rows = (_output_row(file, position, fields or {}) for file, position in positions)
    frames = to_frames(rows, _build, _size)
    frame = pl.concat(merge_duplicates(frames, source, license, ctx.work))
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _build(batch: list[OutputRow]) -> pl.DataFrame:
    rows = [(*row, None, None) for row in batch]
    return pl.DataFrame(rows, schema=_ROW, orient="row")


def _size(row: OutputRow) -> int:
    """Characters of the text; see `_ROW`."""
    return len(row[1] or "")


def _output_row(file: str, position: Position, fields: Mapping[str, str]) -> OutputRow:
    line, row, error = position
    if error is None:
        try:
            return (*_document(row, fields), None, None, None)
        except UnicodeEncodeError:
            error = SURROGATE
        except RecursionError:
            error = TOO_DEEP
        except ValueError as reason:
            error = str(reason)
    return (None, None, None, None, error, file, line)


def _document(row: Any, fields: Mapping[str, str]) -> tuple[str, str, str | None, str]:
    """Id, text, title, extra. Raises ValueError with what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("a row must be an object")
    row, hidden = rename_fields(row, fields)
    text, title = row.pop("text", None), row.pop("title", None)
    if not isinstance(text, str):
        raise ValueError("missing field 'text'" if is_missing(text) else "'text' is no text")
    if not text:
        raise ValueError("empty text")
    title = None if is_missing(title) else title
    if not isinstance(title, str | None):
        raise ValueError("'title' is no text")
    (title or "").encode("utf-8")
    return digest_of(quoted(text)), text, title, extra_json(row | hidden)
