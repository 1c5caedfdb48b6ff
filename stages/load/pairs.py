"""Preference pairs from files or a data set hub, in any of the usual formats.

The formats are described in `_pair_formats.py`; files are read as by `load.records`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Final, Literal, get_args

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import InputFiles, Pairs, stage
from schemas.pairs import PAIR_COLUMNS, pair_id
from stages._common.verdicts import evidence_json
from stages.load._accepted import accept, read_accepted
from stages.load._container import Container, container
from stages.load._formats import rename_fields
from stages.load._hub import hub_rows
from stages.load._json import Position
from stages.load._pair_formats import NESTED, PairFormat, pairs_of, recognize
from stages.load._pair_lists import NoPair, ParsedPair, Ranked
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
from stages.load._turns import Unusable

Format = Literal["auto", PairFormat, "csv", "tsv", "parquet"]

_DEFAULT_SPLIT: Final = "train"
_SCHEMA: Final[dict[Any, Any]] = {**PAIR_COLUMNS, **VERDICT}
_READ: Final[dict[Any, Any]] = {k: v for k, v in _SCHEMA.items() if k != "origins"}


def _pair_format(format: Format) -> PairFormat | None:
    return next((name for name in get_args(PairFormat) if name == format), None)


def _container_of(format: Format) -> ContainerOf:
    named = next((name for name in get_args(Container) if name == format), None)
    return (lambda *_: named) if named else container


def _nested(fields: dict[str, str]) -> frozenset[str]:
    return frozenset(fields.get(name, name) for name in NESTED)


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
    pair_format, fields = _pair_format(options.format), options.fields or {}
    for path in existing_files(options.path):
        check_file(
            path,
            _container_of(options.format),
            lambda row: (
                isinstance(row, dict)
                and recognize(rename_fields(row, fields)[0], pair_format) is not None
            ),
            "of any known format of pairs" if pair_format is None else f"of {pair_format!r}",
            "name the fields (`fields: {chosen: better, rejected: worse}`); rows without two "
            "sides, scores or a label are for load.records",
            _nested(fields),
            options.delimiter,
        )
    read_accepted(options.accepted)


@stage(version=1, scope="set", check=_check)
def pairs(
    ctx: Context,
    *,
    path: InputFiles = (),
    dataset: str | None = None,
    split: str = _DEFAULT_SPLIT,
    revision: str | None = None,
    format: Format = "auto",
    fields: dict[str, str] | None = None,
    ranked: Ranked = "best_worst",
    delimiter: Delimiter | None = None,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Pairs:
    """Load preference pairs: one row for every source position.

    A position is a pair, or one answer with a label, whose other side is then null. Of several
    answers to one prompt, `ranked` says which of them make pairs. The prompt ends where the
    assistant speaks on both sides; `extra` keeps the fields that the format does not use.

    Dropped: `identical` sides; `tie`, two sides of one score; `no_pair`, where fewer than two
    answers have a score or a rank; `duplicate`, of which the first is kept with the origins
    of all. A position that cannot be read, or has an empty answer, has failed, with `error`,
    `file` and `line`; failed rows that are `accepted` are dropped as such.

    Args:
        path: Files, one after the other. gzip and zstandard are recognized by content.
        dataset: Instead of `path`, the name of a data set on the Hugging Face hub, or a
            local folder that `datasets` can load.
        split: Of the data set.
        revision: Of the data set.
        format: Of the rows (each row's own fields decide by default), or the kind of table
            (`csv`, `tsv`, `parquet`), whose columns are then such fields. `preference`: chosen
            and rejected; `label`: one answer with true or false; `ranked_outputs`: a list
            `output`, the best first; `ratings`: a list of answers with scores or ranks;
            `oasst`: trees of messages with ranks.
        fields: The source's names for a format's fields, as {format's: source's}.
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
    renames = fields or {}
    positions: Iterable[tuple[str, Position]]
    if dataset:
        positions = hub_rows(dataset, split, revision, _nested(renames))
    else:
        files = existing_files(path)
        positions = read_files(ctx, files, _container_of(format), _nested(renames), delimiter)
    rows = _output_rows(positions, _pair_format(format), renames, ranked)
    frame = merge_duplicates(to_frame(rows, _build), source, license)
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _output_rows(
    positions: Iterable[tuple[str, Position]],
    format: PairFormat | None,
    fields: dict[str, str],
    ranked: Ranked,
) -> Iterator[OutputRow]:
    for file, (line, row, error) in positions:
        if error:
            yield _failed(error, file, line)
            continue
        for pair in pairs_of(row, format, fields, ranked):
            yield _output_row(pair, file, line)


def _output_row(pair: ParsedPair | NoPair | Unusable, file: str, line: int) -> OutputRow:
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
        id_, others = pair_id(prompt, better, worse, tools), extra_json(extra)
    except UnicodeEncodeError:
        return _failed(SURROGATE, file, line)
    except RecursionError:
        return _failed(TOO_DEEP, file, line)
    return (id_, prompt, better, worse, *scores, tools, [], others, *[None] * 5)


def _failed(error: str, file: str, line: int) -> OutputRow:
    return (*[None] * 11, error, file, line)


def _build(batch: list[OutputRow]) -> pl.DataFrame:
    return pl.DataFrame(batch, schema=_READ, orient="row")
