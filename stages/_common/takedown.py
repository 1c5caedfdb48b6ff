"""Take-down lists: rows that their owners want out, by id or by origin, and what was made of them.

Three forms of file, one entry a line:

    text   `0f3a...` (32 hex digits) or `SOURCE#INDEX`; `#` at the beginning is a comment
    .csv   the columns `id`, or `source` and `index`; others, such as a reason, are not read
    .jsonl objects with `id`, or with `source` and `index`

A list only grows: an entry that matches nothing today may match a source that comes back.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.errors import UserError

_ID: Final = re.compile("[0-9a-f]{32}")
_ORIGIN: Final = re.compile(r"(.+)#(\d+)")
CAUSES: Final = {"id": pl.String, "cause": pl.String, "by": pl.String}


class Takedown(NamedTuple):
    """What a list names.

    Attributes:
        ids: Rows and documents by their ids.
        origins: Positions of sources, as `source#index`.
    """

    ids: frozenset[str]
    origins: frozenset[str]


def read_takedown(paths: Iterable[str | Path]) -> Takedown:
    """Read take-down lists.

    Args:
        paths: Their files.

    Raises:
        UserError: A file cannot be read, or a line is neither an id nor an origin.
    """
    ids, origins = set[str](), set[str]()
    for path in map(Path, paths):
        for line, entry in _entries(path):
            if _ID.fullmatch(entry):
                ids.add(entry)
            elif match := _ORIGIN.fullmatch(entry):
                origins.add(f"{match[1]}#{int(match[2])}")
            else:
                raise UserError(
                    f"an entry must be an id of 32 hex digits or SOURCE#INDEX, got {entry[:80]!r}",
                    where=f"{path}:{line}",
                    hint="`explain` and `cat` show the id of a row, and its origins",
                )
    return Takedown(frozenset(ids), frozenset(origins))


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """The entries with the numbers of their lines."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the take-down list {path} cannot be read", why=str(error)) from None
    lines = text.splitlines()
    if path.suffix == ".csv":
        reader = csv.DictReader(lines)
        yield from ((reader.line_num, _entry(row)) for row in reader)
        return
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        yield number, _json_entry(entry) if path.suffix == ".jsonl" else entry


def _json_entry(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line
    return _entry(value) if isinstance(value, dict) else line


def _entry(row: Mapping[str, Any]) -> str:
    """An entry of named fields as a line of text has it."""
    if row.get("id"):
        return str(row["id"]).strip()
    if row.get("source") and row.get("index") not in (None, ""):
        return f"{row['source']}#{row['index']}"
    return str(dict(row))


def taken_down(tables: Sequence[pl.DataFrame], takedown: Takedown) -> pl.DataFrame:
    """The rows that a list names, and those that were made from them, however indirectly.

    Args:
        tables: Rows with `id`, and `origins` and `parents` where they have them; parents may
            stand in any of them, or in none.
        takedown: The list.

    Returns:
        `id`, `cause` (`id`, `origin` or `parent`) and `by`: the entry, or the parent.

    >>> rows = pl.DataFrame({"id": ["b", "c", "d"], "parents": [["a"], ["b"], []]})
    >>> taken_down([rows], Takedown(frozenset({"a"}), frozenset())).rows()
    [('b', 'parent', 'a'), ('c', 'parent', 'b')]
    """
    named = [pl.DataFrame({"id": sorted(takedown.ids)}, schema={"id": pl.String})]
    named[0] = named[0].with_columns(cause=pl.lit("id"), by=pl.col("id"))
    named += [_by_origin(table, takedown.origins) for table in tables if "origins" in table.columns]
    known = pl.concat(named).unique("id", keep="first", maintain_order=True)
    derived = [
        table.select("id", parent="parents").explode("parent").drop_nulls()
        for table in tables
        if "parents" in table.columns
    ]
    children_of = pl.concat(derived).unique() if derived else pl.DataFrame(schema={"id": pl.String})
    newest = known
    while len(newest) and len(children_of):
        parents = newest.select(parent="id")
        children = children_of.join(parents, on="parent", how="semi").sort("id", "parent")
        children = children.unique("id", keep="first", maintain_order=True)
        children = children.select("id", cause=pl.lit("parent"), by="parent")
        newest = children.join(known, on="id", how="anti")
        known = pl.concat([known, newest])
    present = pl.concat([table.select("id") for table in tables]).unique()
    return known.join(present, on="id", how="semi").sort("id")


def _by_origin(table: pl.DataFrame, origins: frozenset[str]) -> pl.DataFrame:
    """The rows that occurred at one of the listed positions."""
    if not origins:
        return pl.DataFrame(schema=CAUSES)
    field = pl.col("origins").struct.field
    position = pl.format("{}#{}", field("source"), field("index"))
    places = table.select("id", "origins").explode("origins").drop_nulls()
    places = places.select("id", cause=pl.lit("origin"), by=position)
    return places.filter(pl.col("by").is_in(list(origins))).sort("id", "by")
