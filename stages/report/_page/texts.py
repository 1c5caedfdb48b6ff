"""The texts of rows, whatever their kind: a short one for lists, all turns side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import SequenceMatcher
from typing import Any, Final

import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from schemas.turns import turn_text, turn_texts

SHORT: Final = 200
"""Characters of a row that the search covers."""

LONG: Final = 700
"""Characters of a turn, or of a value of evidence, that is shown with a row."""

MAX_TURNS: Final = 20
"""Turns of a row that are shown."""

MIN_RUN: Final = 3
"""Words that two texts must share in a row to be marked."""

MAX_WORDS: Final = 400
"""Words of a text that are compared with another's."""

TEXT_COLUMNS: Final = ("messages", "prompt", "chosen", "rejected", "title", "text", "texts")
Turns = list[tuple[str, str]]
Segment = tuple[str, bool]
"""A piece of a text, and whether the other text has it too."""


def short_texts(frame: pl.DataFrame) -> pl.Series:
    """The first characters of every row, its turns joined by line breaks.

    Args:
        frame: Rows with any of `TEXT_COLUMNS`.

    Example:
        >>> turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        >>> short_texts(pl.DataFrame({"messages": [turns]})).to_list()
        ['Why?\\nSo.']
    """
    parts = [_joined(frame[n]) for n in TEXT_COLUMNS if n in frame.columns]
    if not parts:
        return pl.repeat("", len(frame), dtype=pl.String, eager=True)
    table = pl.DataFrame({str(i): part for i, part in enumerate(parts)})
    joined = pl.concat_str(pl.all(), separator="\n", ignore_nulls=True)
    return table.select(joined.str.head(SHORT)).to_series()


def _joined(column: pl.Series) -> pl.Series:
    """The texts of one column, cut; null where there are none."""
    if column.dtype == pl.String:
        return column.str.head(SHORT)
    if column.name == "texts":
        field = pl.element().struct.field("text").str.head(SHORT)
        return column.list.eval(field).list.join("\n", ignore_nulls=True)
    content = pl.element().struct.field("content").str.head(SHORT)
    texts = turn_texts(column.fill_null([]), "calls").list.eval(content)
    filled = texts.list.eval(pl.element().filter(pl.element() != ""))
    return filled.list.join("\n", ignore_nulls=True).replace("", None)


def row_turns(row: dict[str, Any]) -> Turns:
    """All turns or fields of a row, with who says them, as the page shows them.

    Args:
        row: A row with any of `TEXT_COLUMNS`.
    """
    turns = [(turn["role"], turn_text(turn, "all")) for turn in row.get("messages") or ()]
    for side in ("prompt", "chosen", "rejected"):
        turns += [(f"{side}: {t['role']}", turn_text(t, "all")) for t in row.get(side) or ()]
    turns += [(name, row[name]) for name in ("title", "text") if row.get(name)]
    turns += [(field["name"], field["text"]) for field in row.get("texts") or () if field["text"]]
    if row.get("benchmark"):
        turns.insert(0, ("item", f"{row['benchmark']} {row['item']}"))
    shown = [(role, cut(text)) for role, text in turns[:MAX_TURNS]]
    more = len(turns) - MAX_TURNS
    return [*shown, ("…", f"and {more:,} more turns")] if more > 0 else shown


def cut(text: str) -> str:
    """A text of a row as far as the page shows it: one row makes no page of megabytes.

    Args:
        text: Any text.

    Example:
        >>> cut("short"), cut("x" * 1234)[LONG:]
        ('short', '… (1,234 characters)')
    """
    return text if len(text) <= LONG else f"{text[:LONG]}… ({len(text):,} characters)"


def turns_of(snapshot: Snapshot, ids: Collection[str]) -> dict[str, Turns]:
    """The turns of rows, documents and items by their ids, wherever they are.

    Args:
        snapshot: Where they are looked for.
        ids: Their ids; those that no stage has are left out.
    """
    wanted_ids = pl.DataFrame({"id": sorted(ids)}, schema={"id": pl.String})
    turns: dict[str, Turns] = {}
    for stage in snapshot.stages.values():
        for frame in parts_with_texts(stage, ("benchmark", "item", *TEXT_COLUMNS)):
            matches = frame.join(wanted_ids, on="id", how="semi").unique("id", keep="first")
            turns = {row["id"]: row_turns(row) for row in matches.to_dicts()} | turns
    return turns


def parts_with_texts(stage: SnapshotStage, columns: Collection[str]) -> Iterator[pl.DataFrame]:
    """The kept rows and the dropped rows of a stage that makes rows, with those columns.

    Args:
        stage: A stage; one that makes no rows of its own has no texts.
        columns: Names of columns, of which a part may lack some.
    """
    if stage.artifact is None or stage.makes != "rows":
        return
    for part in ("kept", "dropped"):
        stored = stage.artifact.columns(part)
        names = [name for name in stored if name in columns]
        if "id" in stored and names:
            yield stage.artifact.read(part, ["id", *names])


def marked(first: Turns, second: Turns) -> tuple[list[tuple[str, list[Segment]]], ...]:
    """Both with the runs of words that the other has too.

    Args:
        first: The turns of a row.
        second: Those of the row or item that it is compared with.

    Example:
        >>> marked([("user", "Say how old you are now")], [("text", "Guess how old you are")])[0]
        [('user', [('Say', False), ('how old you are', True), ('now', False)])]
    """
    words = [
        [w for _, text in turns for w in text.split()][:MAX_WORDS] for turns in (first, second)
    ]
    lowered = [[word.casefold() for word in side] for side in words]
    blocks = SequenceMatcher(None, lowered[0], lowered[1], autojunk=False).get_matching_blocks()
    runs = [block for block in blocks if block.size >= MIN_RUN]
    in_first = {b.a + i for b in runs for i in range(b.size)}
    in_second = {b.b + i for b in runs for i in range(b.size)}
    return _segments(first, in_first), _segments(second, in_second)


def _segments(turns: Turns, shared: set[int]) -> list[tuple[str, list[Segment]]]:
    """The turns in pieces; a piece is as long as its words are all shared, or none is."""
    position, result = 0, []
    for role, text in turns:
        pieces: list[tuple[list[str], bool]] = []
        for word in text.split(" "):
            here = bool(word.split()) and position in shared
            position += len(word.split())
            if not pieces or pieces[-1][1] != here:
                pieces.append(([], here))
            pieces[-1][0].append(word)
        result.append((role, [(" ".join(words), here) for words, here in pieces]))
    return result
