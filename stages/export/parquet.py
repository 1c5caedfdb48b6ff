"""Parquet shards that `datasets.load_dataset` and TRL read without a hint.

    data/train-00000-of-00002.parquet   messages, tools, id, sources, licenses, further columns
    data/validation-00000-of-00001.parquet
    README.md                           a data set card that names the splits
    shards.json                         rows, bytes, sha256 and lengths of each shard

The bytes are a function of the rows and the options: rows are in id order, or in that of a
column; a row's index in its source file is left out, and Parquet is written with fixed settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.parts import RowParts, in_parts
from pipeline.stage import RecordParts, stage
from pipeline.store.parquet import write_table
from pipeline.store.sorting import SortedRows
from pipeline.types import Count
from schemas.turns import View
from stages._common.option_types import Distinct
from stages._selection.columns import shown_columns
from stages.export._files import (
    SPLIT,
    FileForm,
    FilesWriter,
    added_split,
    lost_reasoning,
    provenance,
    split_rows,
    words,
)
from stages.export._turns import (
    PresentFields,
    Reasoning,
    place_reasoning,
    present_in,
    shard_table,
    shard_tools,
    shard_turns,
)

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 16_384
"""Rows of a part."""

FIXED: Final = ("messages", "id", "sources", "licenses")
"""The columns of every shard; `messages` comes first, as trainers look for it."""


def _reads(options: SimpleNamespace) -> list[str]:
    counts = [name for name in (options.token_column, options.order_by) if name]
    return list(
        dict.fromkeys(
            ["messages", "tools", "origins", *shown_columns([*options.columns, SPLIT]), *counts]
        )
    )


def _further(columns: tuple[str, ...]) -> tuple[str, ...]:
    if reserved := sorted({*FIXED, "tools", "origins", SPLIT} & set(columns)):
        raise ValueError(
            f"must be columns other than {', '.join(FIXED)} (always written), tools (where rows "
            f"have some), origins and {SPLIT} (never written), got {', '.join(reserved)}"
        )
    return columns


@stage(
    version=6,
    scope="set",
    reads=_reads,
    adds=added_split,
    files=True,
)
def parquet(
    ctx: Context,
    rows: RecordParts,
    *,
    columns: Annotated[tuple[str, ...], Distinct, AfterValidator(_further)] = (),
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    rows_per_shard: Count = 50_000,
    compression: Literal["zstd", "snappy", "none"] = "zstd",
    token_column: str | None = None,
    reasoning: Reasoning = "field",
    order_by: str | None = None,
) -> pl.DataFrame:
    """Write the rows as Parquet shards with checksums and a data set card.

    TRL and chat templates take the rows as they are: calls as OpenAI nests them, their arguments
    and the column `tools` as objects (the feature `Json` of `datasets`), `tool_call_id`, `name`,
    `train`, and reasoning as `reasoning_content`; each where any row has it. Arguments that are
    no JSON, or hold integers beyond 64 bits, which `datasets` cannot read, are texts there; a
    call without arguments has `{}`.

    Dropped as `no_answer` are conversations that do not end with an answer, or with a blank
    one: nothing could be learnt from them. Rows that have a `split` (of `select.split`) are
    written as these splits.

    Args:
        rows: The rows to write.
        columns: Columns to write beside messages, id, sources and licenses. One that only
            another selector adds is left out, with a warning.
        validation_fraction: The fraction of rows that go to the split `validation`, chosen
            by a hash of the id, so that a row stays in its split when others come or go.
        rows_per_shard: The rows of each shard; the last shard of a split may have fewer.
        compression: Of the Parquet files.
        token_column: A column of token counts for the length histograms, such as `tokens`
            of `score.loss`; null to count words between white space, those of calls and
            reasoning too.
        reasoning: Where the reasoning of an assistant's turn is written: `field`, as
            `reasoning_content`; `inline`, before the content, between `<think>` and `</think>`;
            `last`, as a field of the last assistant turn alone, as templates of reasoning models
            show it; `drop`, nowhere. The card, `shards.json` and a warning say how many rows
            lost some, and how much.
        order_by: A column that the rows of a split are written in the order of, for trainers
            that read shards as they lie: numbers or texts, or the `positions` of
            `mix.curriculum`, of which the first counts; equal ones by id. null: id order.

    Returns:
        `split`, if the rows have none, and the verdicts.

    Example:
        ```yaml
        shards:
          uses: export.parquet
          needs: best
          with: {validation_fraction: 0.02}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from schemas.records import RECORD_COLUMNS
        >>> messages = [[{"role": role, "content": "Hi"} for role in ("user", "assistant")]]
        >>> row = {"id": "a", "messages": messages[0], "origins": []}
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> parquet(ctx, pl.DataFrame([row], schema=RECORD_COLUMNS))["split"].item()
        'train'
        >>> [path.name for path in (ctx.files / "data").iterdir()]
        ['train-00000-of-00001.parquet']
    """
    if absent := [name for name in columns if name not in rows.columns]:
        _log.warning("export.parquet: the rows have no %s to write", ", ".join(absent))
    columns = tuple(name for name in columns if name not in absent)
    view: View = "calls" if reasoning == "drop" else "all"
    lengths = words(view) if token_column is None else pl.col(token_column).cast(pl.Int64)
    splits, present, has_tools = _first_pass(rows, validation_fraction, reasoning)
    form = FileForm(
        ".parquet", lambda path, part: write_table(path, shard_table(part), compression)
    )
    files, lost = FilesWriter(ctx.files, rows_per_shard, form), [pl.Series([], dtype=pl.Int64)]
    for part in _in_order(rows, splits["split"], order_by, ctx.work):
        placed = place_reasoning(part["messages"], reasoning)
        lost.append(placed.lost)
        part = part.with_columns(lengths.alias("_length"))
        turns = shard_turns(placed.messages, present)
        tools = [shard_tools(part["tools"])] if has_tools else []
        files.add(part.select(turns, *tools, "id", *provenance(), *columns, "split", "_length"))
    files.finish(token_column, *lost_reasoning(pl.concat(lost), reasoning))
    return splits.drop(SPLIT) if SPLIT in rows.columns else splits


def _first_pass(
    rows: RowParts, validation_fraction: float, reasoning: Reasoning
) -> tuple[pl.DataFrame, PresentFields, bool]:
    """The splits and verdicts of all rows, and what those that are written have.

    Args:
        rows: The rows.
        validation_fraction: The fraction of rows that go to the split `validation`.
        reasoning: Where it is written.

    Returns:
        A row for each row; the fields of turns; whether there are tools.
    """
    verdicts, present, has_tools = [], PresentFields(), False
    for part in in_parts(rows, _AT_ONCE):
        verdicts.append(split_rows(part, validation_fraction))
        kept = part.filter(verdicts[-1]["split"].is_not_null())
        placed = place_reasoning(kept["messages"], reasoning)
        present = present.united(present_in(placed.messages))
        has_tools |= kept["tools"].null_count() < len(kept)
    return pl.concat(verdicts), present, has_tools


def _in_order(
    rows: RowParts, splits: pl.Series, order_by: str | None, folder: Path
) -> Iterator[pl.DataFrame]:
    """The rows that are written, in parts, by id or by ascending key.

    Of lists the smallest value is the key; missing keys come last, equal ones are by id.

    Args:
        rows: The rows.
        splits: The split of each; null where it is not written.
        order_by: The column of the keys; None for id order.
        folder: Where rows may be sorted.
    """
    parts = _kept_parts(rows, splits)
    if order_by is None:
        yield from parts
        return
    keys = rows[order_by]
    if isinstance(keys.dtype, pl.List):
        keys = keys.list.min()
    table = pl.DataFrame({"id": rows["id"], "key": keys}).filter(splits.is_not_null())
    order = table.with_row_index().sort("key", "id", nulls_last=True)["index"]
    places = order.arg_sort().cast(pl.String).str.zfill(12)
    by_key, start = SortedRows(folder, by="_place"), 0
    for part in parts:
        by_key.add(part.with_columns(places.slice(start, len(part)).alias("_place")))
        start += len(part)
    for part in by_key.parts():
        yield part.drop("_place")


def _kept_parts(rows: RowParts, splits: pl.Series) -> Iterator[pl.DataFrame]:
    start = 0
    for part in in_parts(rows, _AT_ONCE):
        own = splits.slice(start, len(part)).alias("split")
        start += len(part)
        yield part.with_columns(own).filter(pl.col("split").is_not_null())
