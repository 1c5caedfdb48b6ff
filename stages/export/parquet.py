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
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.store.parquet import write_table
from pipeline.types import Count
from schemas.turns import View
from stages._common.option_types import Distinct
from stages._selection.columns import shown_columns
from stages.export._files import (
    SPLIT,
    FileForm,
    added_split,
    lost_reasoning,
    provenance,
    split_rows,
    words,
    write_files,
)
from stages.export._turns import Reasoning, place_reasoning, shard_table, shard_tools, shard_turns

_log = logging.getLogger(__name__)

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
    rows: Records,
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
    # Counting words takes as long as all else before the writing, and runs beside it.
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(rows.select, lengths.alias("_length"))
        splits = split_rows(rows, validation_fraction)
        is_kept = splits["split"].is_not_null()
        placed = place_reasoning(rows["messages"].filter(is_kept), reasoning)
        kept = rows.filter(is_kept).with_columns(shard_turns(placed.messages))
        has_tools = kept["tools"].null_count() < len(kept)
        table = kept.select(
            "messages",
            *([shard_tools(kept["tools"])] if has_tools else []),
            "id",
            *provenance(),
            *columns,
            splits["split"].filter(is_kept),
        )
    table = table.with_columns(counted.result().filter(is_kept))
    if order_by is not None:
        table = table[_in_order(kept["id"], kept[order_by])]
    described, notes = lost_reasoning(placed.lost, reasoning)
    form = FileForm(
        ".parquet", lambda path, part: write_table(path, shard_table(part), compression)
    )
    write_files(ctx.files, table, rows_per_shard, form, token_column, described, notes)
    return splits.drop(SPLIT) if SPLIT in rows.columns else splits


def _in_order(ids: pl.Series, keys: pl.Series) -> pl.Series:
    """The numbers of rows by ascending key, of lists by the smallest; missing keys come last."""
    if isinstance(keys.dtype, pl.List):
        keys = keys.list.min()
    return (
        pl.DataFrame({"id": ids, "key": keys})
        .with_row_index()
        .sort("key", "id", nulls_last=True)["index"]
    )
