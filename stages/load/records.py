"""Conversations from files or a data set hub, in any of the usual formats, as records.

The formats (`_formats/row_formats.py`) are Alpaca (the data of Taori et al. 2023), prompt
and completion, ShareGPT, OpenAI messages, LIMA (Zhou et al. 2023,
arXiv:2305.11206), OpenAssistant trees, nested or flat (Köpf et al. 2023,
arXiv:2304.07327), Self-Instruct seeds (Wang et al. 2022, arXiv:2212.10560), prompts with
several completions (UltraFeedback: Cui et al. 2023, arXiv:2310.01377), prompts alone, and tool
calls as Glaive, Hermes and APIGen (Liu et al. 2024, arXiv:2406.18518) write them, as JSON
arrays (the file or the field `data` or `train` of its object), JSON lines, JSON objects one
after the other, CSV, TSV, Parquet, Arrow or lines of text, plain or compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

from pipeline.context import Context
from pipeline.stage import DataSetName, InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS
from stages._common.verdicts import evidence_json
from stages.load._chat.source import Fields, Reasoning, Source, kept_fields, source_of
from stages.load._chat.turns import Unusable, texts_beside
from stages.load._files.json_lines import Position
from stages.load._files.tables import Delimiter
from stages.load._formats.conversations import ParsedConversation
from stages.load._formats.row_formats import (
    LISTS,
    RowFormat,
    conversations,
    named,
    preference_field,
    recognize,
)
from stages.load._formats.trees import flat_conversation, is_flat, read_flat
from stages.load._rows.accepted import accept, read_accepted
from stages.load._rows.frame import conversations_frame
from stages.load._rows.merging import merge_duplicates
from stages.load._rows.options import DEFAULT_SPLIT, check_rows, source_positions
from stages.load._rows.options import input_files as input_files
from stages.load._rows.output import (
    SURROGATE,
    TOO_DEEP,
    VERDICT,
    OutputRow,
    extra_json,
    to_frames,
)

Format = Literal["auto", RowFormat, "csv", "tsv", "parquet", "lines"]

_SCHEMA: Final[dict[Any, Any]] = {**RECORD_COLUMNS, **VERDICT}


def _row_format(format: Format) -> RowFormat | None:
    return next((name for name in get_args(RowFormat) if name == format), None)


def _nested(source: Source) -> frozenset[str]:
    return frozenset(source.names.get(name, name) for name in LISTS)


def _check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row of the format."""
    row_format, rows_of = _row_format(options.format), source_of(options.fields)
    known = "any known format" if options.format == "auto" else f"the format {options.format!r}"
    check_rows(
        options,
        lambda row: _is_usable(row, row_format, rows_of),
        f"of {known}",
        "name the format (`format:`), or the fields (`fields: {instruction: q, output: a}`, of "
        "prompts without answers `{prompt: q}`); preferences (rejected, or a label of true and "
        "false) are for load.pairs",
        _nested(rows_of),
    )


def _is_usable(row: Any, format: RowFormat | None, source: Source) -> bool:
    if isinstance(row, list):  # of turns
        return not isinstance(next(conversations(row, format, source)), Unusable)
    if recognize(named(row, source)[0], format) is not None:
        return True
    return format in (None, "oasst") and is_flat(row, source) and not preference_field(row)


@stage(version=7, scope="set", check=_check)
def records(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: DataSetName | None = None,
    split: str = DEFAULT_SPLIT,
    revision: str | None = None,
    format: Format = "auto",
    fields: Fields | None = None,
    reasoning: Reasoning = "split",
    delimiter: Delimiter | None = None,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Iterator[Records]:
    """Load conversations: one row for every source position.

    A position is a conversation: a seed task has one per instance, a prompt one per
    completion, a nested message tree one per path from the root to a leaf. Of a flat tree
    (`message_id`, `parent_id`, `role`, `text`) every message is a position: a leaf gives the
    conversation that leads to it, others are dropped as `continued` or `deleted`.

    Alpaca's input is appended after a blank line, and `input_start` says where; with a
    `history` the input is not in the first user turn and `input_start` is null. A blank input
    and the placeholders `<noinput>`, `N/A` and `NaN` are none. An empty answer leaves a
    conversation that ends with the user, and so does a prompt without one. NaN is a missing
    value, and a null text an empty one.

    A `system` or `system_prompt` beside the turns is the first turn, unless they begin with one
    themselves; then it stays in `extra`. `reasoning_content` or `thinking` beside a text that
    answers is the reasoning of that turn.

    Tool calls, their results and the definitions of tools are read from OpenAI's messages of
    every age, Anthropic's `tool_use` and `tool_result`, ShareGPT's `function_call` and
    `observation`, Glaive's dialogues, APIGen's answers and, where they can be read, Hermes'
    marks in the text. What a system prompt says of the
    definitions that it shows goes from it, where they become the row's `tools`, and the prompt
    as it was stays in `extra` as `system`. Arguments that are text stay as they are. `weight`,
    `train`, `training` and `loss` of a turn (true or false, 0 or 1) become `train`.

    Content in parts is one text, if all parts are texts or reasoning. `extra` keeps the fields
    that the format does not use, and such parts. Some make a row fail until `fields` decides:
    images, audio and video, and keys of a turn that are not known to be harmless (as ids,
    times, ratings and languages are) and have a value. Rows of preferences (`rejected`, or a
    `label` of true or false) are for `load.pairs`.

    A position that holds no conversation has failed, with `error`, `file` (its name) and
    `line` (where it begins, from 1; in Parquet the row); so has a row of more than 64 MiB. Of
    equal conversations the first is kept with all their `origins`, and the others are dropped
    as `duplicate`. Failed rows that are `accepted` are dropped as such.

    Args:
        path: Files, one after the other. gzip and zstandard are recognized by content.
        dataset: Instead of `path`, the name of a data set on the Hugging Face hub, or a
            local folder that `datasets` can load, or has saved (`save_to_disk`); a relative
            one is looked for beside the recipe, then in the repository, as files are.
        split: Of the data set.
        revision: Of the data set.
        format: Of the rows (each row's own fields decide by default), or the kind of
            table (`csv`, `tsv`, `parquet`), whose columns are then such fields, or `lines`:
            each line is a prompt. By default a row with a `prompt` or `instruction` is a
            prompt alone if no other field is named as an answer; with `prompt` always.
        fields: The source's names for a format's fields, as {format's: source's}; a column of
            questions is one of prompts by {prompt: question}. Also {roles: {source's role:
            system, user, assistant or tool}} for roles of other names, {keep: [names]} for
            fields of the row or its turns, or types of content parts, that stay in `extra` and
            count for the identity of a row, and {ignore: [names]} for those that stay in
            `extra` alone.
        reasoning: What becomes of reasoning in an assistant's text, in `<think>` marks or those
            of other known models (the first may be missing) or the channels of gpt-oss:
            `split` makes it the turn's `reasoning`, `keep` leaves it in the text, `drop` leaves
            it out, also where it has a field of its own. A text whose marks are not closed
            stays as it is.
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
        >>> ctx = Context.scratch(folder)
        >>> rows = next(records(ctx, path=path, source="here", license="MIT"))
        >>> [turn["content"] for turn in rows["messages"][0]]
        ['Why?', 'So.']
        >>> rows.select("line", "error").row(1)
        (2, 'no known format has these fields: (none)')
    """
    rows_of = source_of(fields, reasoning)
    options = SimpleNamespace(
        path=path, dataset=dataset, split=split, revision=revision, format=format,
        delimiter=delimiter,
    )  # fmt: skip
    positions = source_positions(ctx, options, _nested(rows_of))
    rows = _output_rows(positions, _row_format(format), rows_of)
    frames = to_frames(rows, conversations_frame, itemgetter(-1))
    allowed = read_accepted(accepted)
    for frame in merge_duplicates(frames, source, license, ctx.work):
        yield accept(frame, allowed).select(list(_SCHEMA)).cast(_SCHEMA)


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
        if type(row) is dict and parent in row and is_flat(row, source):
            yield from _flat_rows(chain([(file, (line, row, error))], positions), source)
            return
        # All at once: a suspended reader would hold a long text beside what became of it.
        results = [
            _output_row(each, source, file, line) for each in conversations(row, format, source)
        ]
        del row
        while results:
            yield results.pop(0)


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
            if text := turn[1]:  # encoded, since a lone surrogate is no text
                size += len(text) if text.isascii() else len(text.encode())
            if len(turn) == 3:
                size += sum(len(text.encode()) for text in texts_beside(turn[2]))
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
    """The messages of flat trees."""
    read, trees = read_flat(positions, source)
    for file, line, row, error in read:
        if row is None:
            yield _failed(str(error), file, line)
            continue
        conversation = flat_conversation(row, trees, source)
        if isinstance(conversation, str):
            place = {"message_id": row["message_id"], "file": file, "line": line}
            yield (*[None] * 8, conversation, evidence_json(place), 0)
        else:
            yield _output_row(conversation, source, file, line)
