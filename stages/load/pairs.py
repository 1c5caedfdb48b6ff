"""Preference pairs from files or a data set hub, in any of the usual formats.

The formats are described in `_formats/pair_formats.py`; files are read as by `load.records`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

import polars as pl

from pipeline.context import Context
from pipeline.stage import DataSetName, InputFiles, Pairs, stage
from schemas.pairs import PAIR_COLUMNS, pair_id
from stages._common.verdicts import evidence_json
from stages.load._chat.source import Fields, Reasoning, Source, kept_fields, source_of
from stages.load._chat.turns import Unusable
from stages.load._files.json_lines import Position
from stages.load._files.tables import Delimiter
from stages.load._formats.pair_formats import NESTED, PairFormat, checked, pairs_of, recognize
from stages.load._formats.pair_lists import NoPair, ParsedPair, Ranked, flat_pairs
from stages.load._formats.row_formats import named
from stages.load._formats.trees import is_flat, read_flat
from stages.load._rows.accepted import accept, read_accepted
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

Format = Literal["auto", PairFormat, "csv", "tsv", "parquet"]

_SCHEMA: Final[dict[Any, Any]] = {**PAIR_COLUMNS, **VERDICT}
_READ: Final[dict[Any, Any]] = {k: v for k, v in _SCHEMA.items() if k != "origins"}


def _pair_format(format: Format) -> PairFormat | None:
    return next((name for name in get_args(PairFormat) if name == format), None)


def _nested(source: Source) -> frozenset[str]:
    return frozenset(source.names.get(name, name) for name in NESTED)


def _check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a row of the format."""
    pair_format, rows_of = _pair_format(options.format), source_of(options.fields)
    check_rows(
        options,
        lambda row: _is_usable(row, pair_format, rows_of),
        "of any known format of pairs" if pair_format is None else f"of {pair_format!r}",
        "name the fields (`fields: {chosen: better, rejected: worse}`); rows without two "
        "sides, scores or a label are for load.records",
        _nested(rows_of),
    )


def _is_usable(row: Any, format: PairFormat | None, source: Source) -> bool:
    if not isinstance(row, dict):
        return False
    is_message = format in (None, "oasst") and is_flat(row, source)
    return is_message or recognize(named(dict(row), source)[0], format) is not None


@stage(version=5, scope="set", check=_check)
def pairs(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: DataSetName | None = None,
    split: str = DEFAULT_SPLIT,
    revision: str | None = None,
    format: Format = "auto",
    fields: Fields | None = None,
    reasoning: Reasoning = "split",
    ranked: Ranked = "best_worst",
    delimiter: Delimiter | None = None,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Pairs:
    """Load preference pairs: one row for every source position.

    A position is a pair, or one answer with a label, whose other side is then null. Of several
    answers to one prompt, `ranked` says which of them make pairs. The prompt ends where the
    assistant speaks on both sides; `extra` keeps the fields that the format does not use. Of a
    flat tree (`message_id`, `parent_id`, `role`, `text`, `rank`) every message is a position:
    one that several answers follow gives their pairs. Turns, and a system prompt beside them,
    are read as by `load.records`: tool calls, tools and reasoning become fields, and what a
    record has no place for makes the row fail until `fields` decides; so does reasoning beside
    two answers, which may be either's.

    Dropped: `identical` sides; `tie`, two sides of one score; `no_pair`, where fewer than two
    answers have a score or a rank; `deleted` messages of a flat tree; `duplicate`, of which the
    first is kept with the origins of all. A position that cannot be read, or has an empty
    answer, has failed, with `error`, `file` and `line`; failed rows that are `accepted` are
    dropped as such.

    Args:
        path: Files, one after the other. gzip and zstandard are recognized by content.
        dataset: Instead of `path`, the name of a data set on the Hugging Face hub, or a
            local folder that `datasets` can load; a relative one is looked for beside the
            recipe, then in the repository, as files are.
        split: Of the data set.
        revision: Of the data set.
        format: Of the rows (each row's own fields decide by default), or the kind of table
            (`csv`, `tsv`, `parquet`), whose columns are then such fields. `preference`: chosen
            and rejected; `label`: one answer with true or false; `ranked_outputs`: a list
            `output`, the best first; `ratings`: a list of answers with scores or ranks;
            `oasst`: trees of messages with ranks, nested or flat.
        fields: The source's names for a format's fields, as {format's: source's}; also {roles:
            {…}}, {keep: [names]} and {ignore: [names]}, as in `load.records`.
        reasoning: What becomes of reasoning in an assistant's text, in `<think>` marks or the
            channels of gpt-oss: `split`, `keep` or `drop`, as in `load.records`.
        ranked: Of several answers to a prompt, the best with the worst (`best_worst`), each
            with the next worse one (`adjacent`), or `all`. Ranks and places, negated, are
            scores.
        delimiter: Between the cells of CSV, such as ';'; a comma by default, a tab in TSV.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the rows come from; it stands in `origins`.
        license: On what terms they come; it stands in `origins`.

    Raises:
        UserError: A file or data set cannot be read at all.

    Example:
        ```yaml
        preferences:
          uses: load.pairs
          with:
            path: data/samples/oasst_trees.jsonl.gz
            source: oasst
            license: Apache-2.0
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp()) / "pool.jsonl"
        >>> _ = file.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}')
        >>> rows = pairs(Context.scratch(file.parent), path=(str(file),), source="s", license="MIT")
        >>> rows["chosen"][0].struct.field("content").to_list()
        ['So.']
    """
    rows_of = source_of(fields, reasoning)
    options = SimpleNamespace(
        path=path, dataset=dataset, split=split, revision=revision, format=format,
        delimiter=delimiter,
    )  # fmt: skip
    positions = source_positions(ctx, options, _nested(rows_of))
    rows = _output_rows(positions, _pair_format(format), rows_of, ranked)
    frames = to_frames(rows, _build)
    frame = pl.concat(merge_duplicates(frames, source, license, ctx.work))
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _output_rows(
    positions: Iterable[tuple[str, Position]],
    format: PairFormat | None,
    source: Source,
    ranked: Ranked,
) -> Iterator[OutputRow]:
    # Rows come one by one from a parser, and each may break in its own manner.
    positions = iter(positions)
    may_be_flat = format in (None, "oasst")
    for file, (line, row, error) in positions:
        if error:
            yield _failed(error, file, line)
            continue
        if may_be_flat and is_flat(row, source):
            yield from _flat_rows(chain([(file, (line, row, error))], positions), source, ranked)
            return
        # All at once: a suspended reader would hold a long text beside what became of it.
        results = [
            _output_row(pair, source, file, line) for pair in pairs_of(row, format, source, ranked)
        ]
        del row
        while results:
            yield results.pop(0)


def _flat_rows(
    positions: Iterable[tuple[str, Position]], source: Source, ranked: Ranked
) -> Iterator[OutputRow]:
    """The messages of flat trees."""
    read, trees = read_flat(positions, source)
    for file, line, row, error in read:
        if row is None:
            yield _failed(str(error), file, line)
            continue
        for pair in flat_pairs(row, trees, source, ranked):
            yield _output_row(checked(pair), source, file, line)


def _output_row(
    pair: ParsedPair | NoPair | Unusable, source: Source, file: str, line: int
) -> OutputRow:
    """The values of `_READ`, in its order."""
    if isinstance(pair, Unusable):
        return _failed(str(pair), file, line)
    if isinstance(pair, NoPair):
        evidence = evidence_json({"file": file, "line": line, **pair.evidence})
        return (*[None] * 9, pair.reason, evidence, None, None, None)
    prompt, chosen, rejected, tools, extra = pair
    better, worse = (side.turns if side else None for side in (chosen, rejected))
    scores = [side.score if side else None for side in (chosen, rejected)]
    try:
        kept = kept_fields(extra, source) if source.keep else None
        kept_json = extra_json(kept) if kept else None
        id_ = pair_id(prompt, better, worse, tools, kept_json)
        others = extra_json(extra)
    except UnicodeEncodeError:
        return _failed(SURROGATE, file, line)
    except RecursionError:
        return _failed(TOO_DEEP, file, line)
    return (id_, prompt, better, worse, *scores, tools, [], others, *[None] * 5)


def _failed(error: str, file: str, line: int) -> OutputRow:
    return (*[None] * 11, error, file, line)


def _build(batch: list[OutputRow]) -> pl.DataFrame:
    return pl.DataFrame(batch, schema=_READ, orient="row")
