"""Conversations from files or a data set hub, in any of the usual formats, as records.

The formats (`_formats.py`) are Alpaca (the data of Taori et al. 2023), prompt
and completion, ShareGPT, OpenAI messages, LIMA (Zhou et al. 2023,
arXiv:2305.11206), OpenAssistant trees, nested or flat (Köpf et al. 2023,
arXiv:2304.07327), Self-Instruct seeds (Wang et al. 2022, arXiv:2212.10560), prompts with
several completions (UltraFeedback: Cui et al. 2023, arXiv:2310.01377) and prompts alone, as
JSON arrays (the file or the field `data` of its object), JSON lines, CSV, TSV, Parquet or
lines of text, plain or compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS
from stages._common.verdicts import evidence_json
from stages.load._accepted import accept, read_accepted
from stages.load._container import Container, container
from stages.load._conversations import ParsedConversation
from stages.load._formats import (
    LISTS,
    RowFormat,
    conversations,
    named,
    preference_field,
    recognize,
    rename_fields,
)
from stages.load._frame import conversations_frame
from stages.load._hub import hub_rows
from stages.load._json import Position
from stages.load._rows import (
    SURROGATE,
    TOO_DEEP,
    VERDICT,
    ContainerOf,
    OutputRow,
    check_file,
    existing_files,
    extra_json,
    merge_duplicates,
    read_files,
    to_frame,
)
from stages.load._source import Fields, Reasoning, Source, kept_fields, source_of
from stages.load._tables import Delimiter
from stages.load._trees import flat_trees, is_flat
from stages.load._turns import Unusable

Format = Literal["auto", RowFormat, "csv", "tsv", "parquet", "lines"]

_DEFAULT_SPLIT: Final = "train"
_SCHEMA: Final[dict[Any, Any]] = {**RECORD_COLUMNS, **VERDICT}


def _row_format(format: Format) -> RowFormat | None:
    return next((name for name in get_args(RowFormat) if name == format), None)


def _container_of(format: Format) -> ContainerOf:
    """How files hold their rows: as the format says, or as each file shows."""
    named = next((name for name in get_args(Container) if name == format), None)
    return (lambda *_: named) if named else container


def _nested(source: Source) -> frozenset[str]:
    return frozenset(source.names.get(name, name) for name in LISTS)


def _check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row of the format."""
    if bool(options.path) == bool(options.dataset):
        raise OptionError(
            "path",
            "and dataset: exactly one must be given, got "
            + ("both" if options.path else "neither"),
            hint="write path: FILE (or a list, or a pattern), or dataset: OWNER/NAME",
        )
    for option, default in (("split", _DEFAULT_SPLIT), ("revision", None)):
        value = getattr(options, option)
        if options.dataset is None and value != default:
            raise OptionError(
                option, f"must be left out without `dataset`, got {value!r}",
                hint=f"it has no effect on files: leave {option} out",
            )  # fmt: skip
    row_format, rows_of = _row_format(options.format), source_of(options.fields)
    known = "any known format" if options.format == "auto" else f"the format {options.format!r}"
    for path in existing_files(options.path):
        check_file(
            path,
            _container_of(options.format),
            lambda row: _is_usable(row, row_format, rows_of),
            f"of {known}",
            "name the format (`format:`), or the fields (`fields: {instruction: q, output: a}`); "
            "preferences (rejected, or a label of true and false) are for load.pairs",
            _nested(rows_of),
            options.delimiter,
        )
    read_accepted(options.accepted)


def _is_usable(row: Any, format: RowFormat | None, source: Source) -> bool:
    if isinstance(row, list):  # of turns
        return not isinstance(next(conversations(row, format, source)), Unusable)
    row = named(row, source)[0]
    if recognize(row, format) is not None:
        return True
    return format in (None, "oasst") and is_flat(row) and not preference_field(row)


@stage(version=3, scope="set", check=_check)
def records(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: str | None = None,
    split: str = _DEFAULT_SPLIT,
    revision: str | None = None,
    format: Format = "auto",
    fields: Fields | None = None,
    reasoning: Reasoning = "split",
    delimiter: Delimiter | None = None,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Records:
    """Load conversations: one row for every source position.

    A position is a conversation: a seed task has one per instance, a prompt one per
    completion, a nested message tree one per path from the root to a leaf. Of a flat tree
    (`message_id`, `parent_id`, `role`, `text`) every message is a position: a leaf gives the
    conversation that leads to it, others are dropped as `continued` or `deleted`.

    Alpaca's input is appended after a blank line, and `input_start` says where; with a
    `history` the input is not in the first user turn and `input_start` is null. An empty
    answer leaves a conversation that ends with the user, and so does a prompt without one.
    Content in parts is one text, if all parts are texts. `extra` keeps the fields that the
    format does not use, and such parts. NaN is a missing value.

    A position that holds no conversation has failed, with `error`, `file` (its name) and
    `line` (where it begins, from 1; in Parquet the row); so has a row of more than 64 MiB. Of
    equal conversations the first is kept with all their `origins`, and the others are dropped
    as `duplicate`. Failed rows that are `accepted` are dropped as such.

    Args:
        path: Files, one after the other. gzip and zstandard are recognized by content.
        dataset: Instead of `path`, the name of a data set on the Hugging Face hub, or a
            local folder that `datasets` can load.
        split: Of the data set.
        revision: Of the data set.
        format: Of the rows (each row's own fields decide by default), or the kind of
            table (`csv`, `tsv`, `parquet`), whose columns are then such fields, or `lines`:
            each line is a prompt. By default a row with a `prompt` or `instruction` is a
            prompt alone if no other field is named as an answer; with `prompt` always.
        fields: The source's names for a format's fields, as {format's: source's}; a column of
            questions is one of prompts by {prompt: question}.
        delimiter: Between the cells of CSV, such as ';'; a comma by default, a tab in TSV.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the rows come from; it stands in `origins`.
        license: On what terms they come; it stands in `origins`.

    Raises:
        UserError: A file or data set cannot be read at all.

    Example:
        ```yaml
        human:
          uses: load.records
          with:
            path: data/samples/self_instruct.jsonl.gz
            source: self-instruct
            license: Apache-2.0
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "pool.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\\n{}\\n')
        43
        >>> path = (str(folder / "pool.jsonl"),)
        >>> rows = records(Context.scratch(folder), path=path, source="here", license="MIT")
        >>> [turn["content"] for turn in rows["messages"][0]]
        ['Why?', 'So.']
        >>> rows.select("line", "error").row(1)
        (2, 'no known format has these fields: (none)')
    """
    rows_of = source_of(fields, reasoning)
    positions: Iterable[tuple[str, Position]]
    if dataset:
        positions = hub_rows(dataset, split, revision, _nested(rows_of))
    else:
        files = existing_files(path)
        positions = read_files(ctx, files, _container_of(format), _nested(rows_of), delimiter)
    rows = _output_rows(positions, _row_format(format), rows_of)
    frame = to_frame(rows, conversations_frame, itemgetter(-1))
    frame = merge_duplicates(frame, source, license)
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _output_rows(
    positions: Iterable[tuple[str, Position]], format: RowFormat | None, source: Source
) -> Iterator[OutputRow]:
    # Rows come one by one from a parser, and each may break in its own manner.
    positions = iter(positions)
    parent = source.names.get("parent_id", "parent_id") if format in (None, "oasst") else None
    for file, (line, row, error) in positions:
        if error:
            yield _failed(error, file, line)
            continue
        if type(row) is dict and parent in row and _is_message(row, source):
            yield from _flat_rows(chain([(file, (line, row, error))], positions), source)
            return
        for conversation in conversations(row, format, source):
            yield _output_row(conversation, source, file, line)
            del conversation  # it may be long: not held while the next one is read


def _is_message(row: Any, source: Source) -> bool:
    """Whether a row is a message of a flat tree."""
    is_renamed = source.names and isinstance(row, dict)
    return is_flat(rename_fields(row, source.names)[0] if is_renamed else row)


def _output_row(
    conversation: ParsedConversation | Unusable, source: Source, file: str, line: int
) -> OutputRow:
    """The values of `conversations_frame`."""
    if isinstance(conversation, Unusable):
        return _failed(str(conversation), file, line)
    turns, start, extra, tools = conversation
    try:
        size = len(tools.encode()) if tools else 0
        for turn in turns:
            if turn[1]:
                size += len(turn[1].encode())
            if len(turn) == 3:
                size += len(extra_json(turn[2]))
        kept = kept_fields(extra, source) if source.keep else None
        kept_json = extra_json(kept) if kept else None
        return (
            turns, tools, start, extra_json(extra), kept_json, None, None, None, None, None, size
        )  # fmt: skip
    except UnicodeEncodeError:
        return _failed(SURROGATE, file, line)
    except RecursionError:
        return _failed(TOO_DEEP, file, line)


def _failed(error: str, file: str, line: int) -> OutputRow:
    return (None, None, None, None, None, error, file, line, None, None, 0)


def _flat_rows(positions: Iterable[tuple[str, Position]], source: Source) -> Iterator[OutputRow]:
    """The messages of flat trees: all are read first, since a parent may come late."""
    rest = list(positions)
    rows = [row for _, (_, row, _) in rest if _is_message(row, source)]
    messages = flat_trees((rename_fields(row, source.names)[0] for row in rows), source)
    for file, (line, row, error) in rest:
        if not _is_message(row, source):
            yield _failed(error or "no message of a tree, as the rows before it are", file, line)
            continue
        conversation, reason, message_id = next(messages)
        if conversation is not None:
            yield _output_row(conversation, source, file, line)
        else:
            evidence = evidence_json({"message_id": message_id, "file": file, "line": line})
            yield (None, None, None, None, None, None, None, None, reason, evidence, 0)
