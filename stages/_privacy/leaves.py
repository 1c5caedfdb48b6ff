"""Every text of a row: contents, reasoning, names, calls with their arguments, tools, all else.

The texts are found by their type, not by their names, so that no field is forgotten.
Of JSON text with escapes the decoded words are a text as well: in it a key is not glued to
the `n` of the escaped line end before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import polars as pl

from schemas.turns import json_words

SKIPPED: Final = frozenset({"id", "role", "parents", "origins", "journal"})
"""Columns and fields that hold no text of a person's: ids, roles, sources and licenses."""

LEAVES: Final = {"row": pl.Int64, "turn": pl.Int32, "place": pl.String, "text": pl.String}
"""`row` is the position in the frame, `turn` the first list's (of a message, from 0; null
outside of lists), `place` the names that lead to the text: `messages.tool_calls.arguments`."""


def string_leaves(rows: pl.DataFrame) -> pl.DataFrame:
    r"""All texts of all rows, with the columns `LEAVES`; empty texts are left out.

    Args:
        rows: Rows of any kind; texts in lists and structs count.

    >>> call = {"id": "1", "name": "add", "arguments": '{"note": "a\\nb"}'}
    >>> messages = [{"role": "assistant", "content": "Hi", "tool_calls": [call]}]
    >>> string_leaves(pl.DataFrame({"messages": [messages]}))["text"].to_list()
    ['Hi', '1', 'add', '{"note": "a\\nb"}', 'note: a\nb']
    """
    numbered = rows.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), pl.all())
    parts = [pl.DataFrame(schema=LEAVES)]
    for name in rows.columns:
        if name not in SKIPPED:
            value = numbered.select(
                "row", pl.lit(None, pl.Int32).alias("turn"), pl.col(name).alias("value")
            )
            parts += _leaves(value, name)
    leaves = pl.concat(parts)
    return pl.concat([leaves, _decoded(leaves)])


def _leaves(values: pl.DataFrame, place: str) -> Iterator[pl.DataFrame]:
    """The texts in a column `value`, which may be nested."""
    dtype = values.schema["value"]
    values = values.drop_nulls("value")
    if dtype == pl.String:
        texts = values.filter(pl.col("value") != "")
        yield texts.select("row", "turn", pl.lit(place).alias("place"), text="value")
    elif isinstance(dtype, pl.List):
        position = pl.int_ranges(pl.col("value").list.len(), dtype=pl.Int32)
        many = values.with_columns(position=position).filter(pl.col("value").list.len() > 0)
        many = many.explode("value", "position", empty_as_null=False)
        turn = pl.coalesce("turn", "position").alias("turn")
        yield from _leaves(many.select("row", turn, "value"), place)
    elif isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            if field.name not in SKIPPED or "." in place:
                inner = pl.col("value").struct.field(field.name).alias("value")
                yield from _leaves(values.select("row", "turn", inner), f"{place}.{field.name}")


def _decoded(leaves: pl.DataFrame) -> pl.DataFrame:
    """The words of JSON texts with escapes. A loop, over these alone."""
    is_json = pl.col("text").str.contains(r'^\s*[\[{"]') & pl.col("text").str.contains(r"\\")
    escaped = leaves.filter(is_json)
    words = [json_words(text) for text in escaped["text"]]
    decoded = escaped.with_columns(text=pl.Series(words, dtype=pl.String))
    return decoded.filter(pl.col("text") != escaped["text"])
