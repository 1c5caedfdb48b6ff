"""Conversations from the outside world: files in any of the usual formats become records.

The formats (`_formats.py`) are Alpaca (the data of Taori et al. 2023), prompt
and completion, ShareGPT, OpenAI messages, LIMA (Zhou et al. 2023,
arXiv:2305.11206), OpenAssistant trees (Köpf et al. 2023, arXiv:2304.07327) and
Self-Instruct seeds (Wang et al. 2022, arXiv:2212.10560), as JSON arrays (whole
files or the field `data` of one), JSON lines, CSV, TSV or Parquet, plain or compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

import polars as pl
import pyarrow as pa

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS
from stages._common.unused_options import refuse_idle
from stages.load._account import (
    VERDICT,
    Line,
    columns,
    digest_of,
    existing,
    extra_json,
    located,
    peek,
    settled,
)
from stages.load._formats import (
    LISTS,
    RowFormat,
    Unusable,
    conversations,
    recognise,
    renamed,
)
from stages.load._stream import Container, container
from stages.load._tables import Position

Format = Literal["auto", RowFormat, "csv", "tsv", "parquet"]

_SCHEMA: Final[dict[Any, Any]] = {**RECORD_COLUMNS, **VERDICT}
_TURN: Final = {"role": pl.String, "content": pl.String}


def _row_format(format: Format) -> RowFormat | None:
    return next((name for name in get_args(RowFormat) if name == format), None)


def _holder(format: Format) -> Callable[[Path, bytes], Container]:
    """What says how a file holds its rows: the format where it is a kind of table, or the file."""
    named = next((name for name in get_args(Container) if name == format), None)
    return (lambda *_: named) if named else container


def _nested(fields: dict[str, str]) -> frozenset[str]:
    return frozenset(fields.get(name, name) for name in LISTS)


def check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row of the format.

    A first row that is longer than that says nothing either way.
    """
    if bool(options.path) == bool(options.dataset):
        raise UserError(
            "load.records needs either `path` or `dataset`",
            hint="path: FILE (or a list, or a pattern), or dataset: OWNER/NAME",
        )
    for path in existing(options.path):
        _check_file(path, options.format, options.fields or {})
    refuse_idle(
        *(records, options),
        (options.dataset is not None, "a dataset", "split revision"),
    )


def _check_file(path: Path, format: Format, fields: dict[str, str]) -> None:
    wanted = _row_format(format)
    found, whole = peek(path, _holder(format), _nested(fields))
    rows = [row for _, row, _ in found if isinstance(row, dict)]
    if not whole or any(recognise(renamed(row, fields)[0], wanted) for row in rows):
        return
    what = "any known format" if format == "auto" else f"the format {format!r}"
    named = f"its rows have the fields {', '.join(map(str, rows[0]))}" if rows else None
    broken = next((error for _, _, error in found if error), "its rows are no objects")
    raise UserError(
        f"{path.name!r} holds no row of {what}",
        why=named or (broken if found else "it is empty"),
        hint="name the format (`format:`), or the fields (`fields: {instruction: q, output: a}`)",
    )


@stage(version=2, scope="set", check=check)
def records(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    format: Format = "auto",
    fields: dict[str, str] | None = None,
    source: str,
    license: str,
) -> Records:
    """Every source position as one line: a record, a duplicate of an earlier one, or a failure.

    path: files, one after the other. gzip and zstandard are told by content.
    dataset: instead, the name of a data set on a model hub (or a local folder
        that `datasets` can load), with `split` and `revision`.
    format: of the rows (each row's own fields decide by default), or the kind of
        table (`csv`, `tsv`, `parquet`), whose columns are then such fields.
    fields: the source's names for a format's fields, as {ours: theirs}.
    source, license: where the rows come from and on what terms; they stand in `origins`.

    A position is a conversation: a seed task has one per instance, a message tree
    one per path from the root to a leaf. Alpaca's input is appended after a blank
    line, and `input_start` says where; with a `history` the input is not in the
    first user turn and `input_start` is null. An empty answer leaves a conversation
    that ends with the user. Content in parts is one text, if all parts are texts.
    `extra` keeps the fields that the format does not use, and such parts.

    A position that is no conversation has `error`, `file` (its name) and `line`
    (where it begins, from 1; in Parquet the row). Of equal conversations the first
    is kept with all their `origins`, and the others are dropped as `duplicate`.

    Raises UserError for a file or data set that cannot be read at all.
    """
    renames = fields or {}
    found: Iterable[tuple[str, Position]]
    if dataset:
        found = _hub_rows(dataset, split, revision)
    else:
        found = located(ctx, existing(path), _holder(format), _nested(renames))
    frame = columns(_lines(found, _row_format(format), renames), _frame)
    return settled(frame, source, license).select(list(_SCHEMA)).cast(_SCHEMA)


def _lines(
    found: Iterable[tuple[str, Position]], wanted: RowFormat | None, fields: dict[str, str]
) -> Iterator[Line]:
    # Rows come one by one from a parser, and each may break in its own way.
    for file, (line, row, error) in found:
        if error:
            yield (None, None, None, error, file, line)
            continue
        for conversation in conversations(row, wanted, fields):
            if isinstance(conversation, Unusable):
                yield (None, None, None, str(conversation), file, line)
                continue
            turns, start, extra = conversation
            try:
                "".join(text for _, text in turns).encode()
                yield (turns, start, extra_json(extra), None, None, None)
            except UnicodeEncodeError:
                yield (None, None, None, "a lone surrogate, which is no text", file, line)
            except RecursionError:
                yield (None, None, None, "fields nested too deep", file, line)


def identities(messages: pl.Series) -> pl.Series:
    """`schemas.records.record_id` of each conversation, null for none: String.

    messages: list[struct[role, content]]. JSON is written over columns, which takes half of
    the time that it takes text by text: of 52,000 conversations 0.10 instead of 0.19 s.
    """
    turn = pl.element().struct
    canonical = pl.struct(turn.field("content"), turn.field("role")).struct.json_encode()
    told = messages.to_frame("m").select(
        "[" + pl.col("m").list.eval(canonical).list.join(",") + "]"
    )
    ids = [None if text is None else digest_of(text) for text in told.to_series()]
    return pl.Series(ids, dtype=pl.String)


def _frame(batch: list[Line]) -> pl.DataFrame:
    """A batch of lines as columns; built flat, since a dict for every turn would be slow."""
    turns, starts, extras, errors, files, lines = zip(*batch, strict=True) if batch else [()] * 6
    flat = [turn for each in turns for turn in each or ()]
    roles, contents = zip(*flat, strict=True) if flat else [()] * 2
    values = pl.DataFrame({"role": roles, "content": contents}, schema=_TURN).to_struct()
    ends = list(accumulate((len(each or ()) for each in turns), initial=0))
    # Not by pyarrow's `array`, which imports pandas first.
    lists = pa.LargeListArray.from_arrays(
        pl.Series(ends, dtype=pl.Int64).to_arrow(),
        values.to_arrow(),
        mask=pl.Series([each is None for each in turns], dtype=pl.Boolean).to_arrow(),
    )
    messages = pl.Series(pl.from_arrow(lists))
    frame = pl.DataFrame(
        {
            "id": identities(messages),
            "messages": messages,
            "input_start": pl.Series(starts, dtype=pl.Int32),
            "extra": pl.Series(extras, dtype=pl.String),
            "error": pl.Series(errors, dtype=pl.String),
            "file": pl.Series(files, dtype=pl.String),
            "line": pl.Series(lines, dtype=pl.Int64),
        }
    )
    none = pl.when(pl.col("id").is_not_null()).then(pl.lit([], dtype=pl.List(pl.String)))
    return frame.with_columns(none.alias("parents"))


def _hub_rows(name: str, split: str, revision: str | None) -> Iterator[tuple[str, Position]]:
    """The rows of a data set by number, from 1."""
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the client's errors have no common base, and all mean the same
        raise UserError(
            f"cannot load the data set {name!r} (split {split!r})",
            why=(str(error).splitlines() or [type(error).__name__])[0],
            hint="check the name and the network, or download it and give its files as `path`",
        ) from None
    for number, row in enumerate(rows, 1):
        yield name, (number, row, None)
