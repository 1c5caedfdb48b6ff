"""The turns of rows as Python objects, read out of their columns all at once."""

from __future__ import annotations

from typing import Any

import polars as pl

_ALWAYS = ("role", "content")


def row_turns(messages: pl.Series) -> list[list[dict[str, Any]]]:
    """The turns of each row: role and content, and what else a turn has.

    Most turns have nothing else, and reading all fields of all turns takes five times as long.

    Args:
        messages: The column of a table of records.

    Returns:
        A list for each row, empty where there are no turns. What a turn lacks is not in it.

    Example:
        >>> from schemas.records import RECORD_COLUMNS
        >>> turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "reasoning": "Hm."}]
        >>> row_turns(pl.Series([turns, None], dtype=RECORD_COLUMNS["messages"]))[0][1]
        {'role': 'assistant', 'content': None, 'reasoning': 'Hm.'}
    """
    lengths = messages.list.len().fill_null(0).to_list()
    fields = messages.filter(messages.list.len() > 0).explode().struct.unnest()
    roles, contents = (fields[name].to_list() for name in _ALWAYS)
    flat: list[dict[str, Any]] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    for name in fields.columns:
        if name not in _ALWAYS and fields[name].null_count() < len(flat):
            for turn, value in zip(flat, fields[name].to_list(), strict=True):
                if value is not None:
                    turn[name] = value
    turns, start = [], 0
    for length in lengths:
        turns.append(flat[start : start + length])
        start += length
    return turns


def licenses_of(origins: pl.Series) -> list[str | None]:
    """The license of each row: that of its first origin (`rows.license_of`).

    Args:
        origins: The column of a table of records.

    Example:
        >>> licenses_of(pl.Series([[{"license": "MIT"}, {"license": "CC0-1.0"}], [], None]))
        ['MIT', None, None]
    """
    return origins.list.first().struct.field("license").to_list()
