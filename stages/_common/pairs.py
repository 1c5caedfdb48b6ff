"""Preference pairs in stages that compare turns, whatever kind of row they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from schemas.records import RECORD_COLUMNS

PARTS: Final = ("prompt", "chosen", "rejected")
"""The columns of a pair that hold turns."""


def are_pairs(rows: pl.DataFrame) -> bool:
    """Whether the rows are pairs, not records."""
    return "messages" not in rows.columns and {*PARTS} <= {*rows.columns}


def as_conversations(rows: pl.DataFrame, parts: Sequence[str] = PARTS) -> pl.DataFrame:
    """The rows with `messages`: of records their own, of pairs the turns of some parts.

    Before each part of a pair stands an empty turn with its name as the role, so that pairs
    differ where the same turns stand on other sides.

    Args:
        rows: Records or pairs.
        parts: The columns of turns that count, of pairs.

    Example:
        >>> turns = {"prompt": [[{"role": "user", "content": "Why?"}]], "chosen": [None],
        ...          "rejected": [[{"role": "assistant", "content": "No."}]]}
        >>> messages = as_conversations(pl.DataFrame(turns))["messages"]
        >>> [turn["role"] for turn in messages[0]]
        ['prompt', 'user', 'rejected', 'assistant']
    """
    if not are_pairs(rows):
        return rows
    turn = RECORD_COLUMNS["messages"]
    kept = []
    for name in parts:
        head = pl.lit([{"role": name, "content": ""}], dtype=turn)
        own = pl.col(name).cast(turn)
        whole = pl.concat_list(head, own)
        kept.append(pl.when(own.list.len() > 0).then(whole).otherwise(pl.lit([], turn)))
    return rows.with_columns(pl.concat_list(kept).alias("messages"))


def place_in_pair(pair: dict[str, Any], turn: int) -> dict[str, Any]:
    """Where the turn of a conversation of `as_conversations` stands in its pair.

    Args:
        pair: The row.
        turn: The position of the turn; behind the last are the definitions of the tools.

    Returns:
        `part` and, within it, `turn`.

    >>> sides = {name: [{"role": "assistant", "content": name}] for name in PARTS}
    >>> place_in_pair(sides, 3)
    {'part': 'chosen', 'turn': 0}
    """
    for name in PARTS:
        length = len(pair[name] or ())
        if 0 < turn <= length:
            return {"part": name, "turn": turn - 1}
        turn -= length + bool(length)
    return {"part": "tools", "turn": 0}
