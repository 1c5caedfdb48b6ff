"""Turns as TRL and chat templates take them from a shard.

Calls have OpenAI's nesting, reasoning the name that most chat templates read, and what no row
of a shard has is left out. Arguments and the definitions of tools are of Arrow's JSON type,
which `datasets` reads as objects; their texts stay as they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
import pyarrow as pa

from pipeline.store.parquet import to_arrow
from schemas.turns import lists_of

_JSON: Final = ("arguments", "tools")
"""The fields that hold JSON."""


def shard_turns(messages: pl.Series) -> pl.Series:
    """The turns of each row in the form of a shard.

    Args:
        messages: list[struct], the messages of records or of a side of pairs.

    >>> messages = [[{"role": "user", "content": "Why?", "name": None}]]
    >>> shard_turns(pl.Series(messages)).to_list()
    [[{'role': 'user', 'content': 'Why?'}]]
    """
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    plain = ["role", "content"]
    present = [n for n in turns.columns if n not in plain and turns[n].null_count() < len(turns)]
    values = turns.select(*plain, *present)
    if "tool_calls" in present:
        values = values.with_columns(pl.col("tool_calls").list.eval(_call()))
    values = values.rename({"reasoning": "reasoning_content"}, strict=False)
    return lists_of(values, messages.list.len()).alias(messages.name)


def _call() -> pl.Expr:
    call = pl.element().struct
    kind = pl.when(call.field("name").is_not_null()).then(pl.lit("function"))
    return pl.struct(
        call.field("id"),
        kind.alias("type"),
        pl.struct(call.field("name"), call.field("arguments")).alias("function"),
    )


def shard_table(rows: pl.DataFrame) -> pa.Table:
    """The rows of a shard as an Arrow table.

    Args:
        rows: With turns as `shard_turns` gives them.
    """
    table = to_arrow(rows)
    fields = [pa.field(field.name, _json_type(field)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _json_type(field: pa.Field) -> pa.DataType:
    if field.name in _JSON and pa.types.is_string(field.type):
        return pa.json_()
    if pa.types.is_list(field.type):
        return pa.list_(_json_type(field.type.value_field))
    if pa.types.is_struct(field.type):
        return pa.struct([pa.field(part.name, _json_type(part)) for part in field.type])
    return field.type


def not_json(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """The arguments of the first call that are no JSON object, which a shard cannot hold.

    Args:
        turns: The messages.

    >>> not_json([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "a = 1"}]}])
    'a = 1'
    """
    calls = (call for turn in turns for call in turn.get("tool_calls") or ())
    texts = (call.get("arguments") for call in calls)
    return next((t for t in texts if t is not None and not isinstance(parsed(t), dict)), None)


def parsed(text: str) -> Any:
    """What JSON says; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
