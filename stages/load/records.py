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
from hashlib import blake2b
from itertools import chain
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS, TURN_COLUMNS, record_id
from schemas.turns import have_more, lists_of
from stages._common.verdicts import evidence_json
from stages.load._accepted import accept, read_accepted
from stages.load._container import Container, container
from stages.load._formats import LISTS, RowFormat, conversations, recognize, rename_fields
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
from stages.load._tables import Delimiter
from stages.load._trees import flat_trees, is_flat
from stages.load._turns import ParsedConversation, Unusable

Format = Literal["auto", RowFormat, "csv", "tsv", "parquet", "lines"]

_DEFAULT_SPLIT: Final = "train"
_SCHEMA: Final[dict[Any, Any]] = {**RECORD_COLUMNS, **VERDICT}
_TURN: Final = {"role": pl.String, "content": pl.String}
_FURTHER: Final = {name: kind for name, kind in TURN_COLUMNS.items() if name not in _TURN}


def _row_format(format: Format) -> RowFormat | None:
    return next((name for name in get_args(RowFormat) if name == format), None)


def _container_of(format: Format) -> ContainerOf:
    """How files hold their rows: as the format says, or as each file shows."""
    named = next((name for name in get_args(Container) if name == format), None)
    return (lambda *_: named) if named else container


def _nested(fields: dict[str, str]) -> frozenset[str]:
    return frozenset(fields.get(name, name) for name in LISTS)


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
    row_format, fields = _row_format(options.format), options.fields or {}
    known = "any known format" if options.format == "auto" else f"the format {options.format!r}"
    for path in existing_files(options.path):
        check_file(
            path,
            _container_of(options.format),
            lambda row: _is_usable(row, row_format, fields),
            f"of {known}",
            "name the format (`format:`), or the fields (`fields: {instruction: q, output: a}`); "
            "preferences (rejected, or a label of true and false) are for load.pairs",
            _nested(fields),
            options.delimiter,
        )
    read_accepted(options.accepted)


def _is_usable(row: Any, format: RowFormat | None, fields: dict[str, str]) -> bool:
    if isinstance(row, list):  # of turns
        return not isinstance(next(conversations(row, format, {})), Unusable)
    row = rename_fields(row, fields)[0]
    return recognize(row, format) is not None or (format in (None, "oasst") and is_flat(row))


@stage(version=3, scope="set", check=_check)
def records(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: str | None = None,
    split: str = _DEFAULT_SPLIT,
    revision: str | None = None,
    format: Format = "auto",
    fields: dict[str, str] | None = None,
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
    renames = fields or {}
    positions: Iterable[tuple[str, Position]]
    if dataset:
        positions = hub_rows(dataset, split, revision)
    else:
        files = existing_files(path)
        positions = read_files(ctx, files, _container_of(format), _nested(renames), delimiter)
    rows = _output_rows(positions, _row_format(format), renames)
    frame = merge_duplicates(to_frame(rows, _build, itemgetter(-1)), source, license)
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _output_rows(
    positions: Iterable[tuple[str, Position]], format: RowFormat | None, fields: dict[str, str]
) -> Iterator[OutputRow]:
    # Rows come one by one from a parser, and each may break in its own manner.
    positions = iter(positions)
    parent = fields.get("parent_id", "parent_id") if format in (None, "oasst") else None
    for file, (line, row, error) in positions:
        if error:
            yield _failed(error, file, line)
            continue
        if type(row) is dict and parent in row and _is_message(row, fields):
            yield from _flat_rows(chain([(file, (line, row, error))], positions), fields)
            return
        for conversation in conversations(row, format, fields):
            yield _output_row(conversation, file, line)
            del conversation  # it may be long: not held while the next one is read


def _is_message(row: Any, fields: dict[str, str]) -> bool:
    """Whether a row is a message of a flat tree."""
    return is_flat(rename_fields(row, fields)[0] if fields and isinstance(row, dict) else row)


def _output_row(conversation: ParsedConversation | Unusable, file: str, line: int) -> OutputRow:
    """Turns, input_start, extra, error, file, line, drop_reason, evidence, characters."""
    if isinstance(conversation, Unusable):
        return _failed(str(conversation), file, line)
    turns, start, extra = conversation
    try:
        size = sum([len(text.encode()) for _, text in turns])
        return (turns, start, extra_json(extra), None, None, None, None, None, size)
    except UnicodeEncodeError:
        return _failed(SURROGATE, file, line)
    except RecursionError:
        return _failed(TOO_DEEP, file, line)


def _failed(error: str, file: str, line: int) -> OutputRow:
    return (None, None, None, error, file, line, None, None, 0)


def _flat_rows(
    positions: Iterable[tuple[str, Position]], fields: dict[str, str]
) -> Iterator[OutputRow]:
    """The messages of flat trees: all are read first, since a parent may come late."""
    rest = list(positions)
    rows = [row for _, (_, row, _) in rest if _is_message(row, fields)]
    messages = flat_trees(rename_fields(row, fields)[0] for row in rows)
    for file, (line, row, error) in rest:
        if not _is_message(row, fields):
            yield _failed(error or "no message of a tree, as the rows before it are", file, line)
            continue
        conversation, reason, message_id = next(messages)
        if conversation is not None:
            yield _output_row(conversation, file, line)
        else:
            evidence = evidence_json({"message_id": message_id, "file": file, "line": line})
            yield (None, None, None, None, None, None, reason, evidence, 0)


def identities(messages: pl.Series, tools: pl.Series | None = None) -> pl.Series:
    """The id of each conversation; null for null.

    The same as `schemas.records.record_id` of each. Where all turns are plain, JSON is written
    over columns, which takes half of the time that it takes text by text: of 52,000
    conversations 0.10 instead of 0.19 s.

    Args:
        messages: list[struct], the turns.
        tools: The definitions of the tools of each, as JSON text; None without any.

    >>> from schemas.records import record_id
    >>> messages = [{"role": "user", "content": "Why?"}]
    >>> identities(pl.Series([messages]))[0] == record_id(messages)
    True
    """
    turn = pl.element().struct
    canonical = pl.struct(turn.field("content"), turn.field("role")).struct.json_encode()
    texts = messages.to_frame("m").select(
        "[" + pl.col("m").list.eval(canonical).list.join(",") + "]"
    )
    # As bytes, which no row needs as a Python text beside them.
    ids = [
        None if text is None else blake2b(text, digest_size=16).hexdigest()
        for text in texts.to_series().cast(pl.Binary)
    ]
    richer = have_more(messages)
    if tools is not None:
        richer |= tools.is_not_null()
    for i in richer.arg_true():
        ids[i] = record_id(messages[i].to_list(), None if tools is None else tools[i])
    return pl.Series(ids, dtype=pl.String)


def _build(batch: list[OutputRow]) -> pl.DataFrame:
    """A batch of rows as columns; built flat, since a dict for every turn would be slow."""
    turns, starts, extras, errors, files, lines, reasons, evidence, _ = (
        zip(*batch, strict=True) if batch else [()] * 9
    )
    flat = [turn for each in turns for turn in each or ()]
    roles, contents = zip(*flat, strict=True) if flat else [()] * 2
    values = pl.DataFrame({"role": roles, "content": contents}, schema=_TURN)
    missing = [pl.lit(None, kind).alias(name) for name, kind in _FURTHER.items()]
    lengths = pl.Series([None if each is None else len(each) for each in turns], dtype=pl.Int64)
    messages = lists_of(values.with_columns(missing), lengths)
    frame = pl.DataFrame(
        {
            "id": identities(messages),
            "messages": messages,
            "tools": pl.repeat(None, len(batch), dtype=pl.String, eager=True),
            "input_start": pl.Series(starts, dtype=pl.Int32),
            "extra": pl.Series(extras, dtype=pl.String),
            "error": pl.Series(errors, dtype=pl.String),
            "file": pl.Series(files, dtype=pl.String),
            "line": pl.Series(lines, dtype=pl.Int64),
            "drop_reason": pl.Series(reasons, dtype=pl.String),
            "evidence": pl.Series(evidence, dtype=pl.String),
        }
    )
    no_parents = pl.when(pl.col("id").is_not_null()).then(pl.lit([], dtype=pl.List(pl.String)))
    return frame.with_columns(no_parents.alias("parents"))


def hub_rows(name: str, split: str, revision: str | None) -> Iterator[tuple[str, Position]]:
    """The rows of a data set by number, from 1.

    Args:
        name: OWNER/NAME on the hub, or a folder.
        split: Of the data set.
        revision: Of the data set.

    Raises:
        UserError: It cannot be loaded.
    """
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
