"""What a template sees of a row: its columns, and the parts of its conversation.

A column goes by its name. The parts of a conversation are there beside them, where no column
has the name:

- `system`: the system turn; empty without one;
- `instruction`, `input`: the first user turn up to its separate input, and that; null without
  a user turn, and an empty input where there is none;
- `response`, `reasoning`: the last assistant turn, and what was thought before it; null
  without such a turn, and an empty reasoning where there is none;
- `conversation`: all turns, each behind its role, and with the view `all` the tools first;
- `messages`: the turns, each with `role`, `text` and the fields of a message (`content`,
  `reasoning`, `tool_calls`, ...);
- `extra`: the source's own fields, as in `extra.category`.

Example:
    >>> messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    >>> rows = pl.DataFrame({"id": ["a"], "messages": [messages], "tone": ["dry"]})
    >>> row_values(rows, ["response", "tone"])
    [{'response': 'So.', 'tone': 'dry'}]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from pipeline.errors import OptionError
from pipeline.hints import closest
from pipeline.recipe.added_columns import stages_that_add
from pipeline.stage import Columns, OptionalColumn
from schemas.records import RECORD_COLUMNS, input_text, instruction
from schemas.turns import View, parsed, turn_text

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("messages",),
    "instruction": ("messages", "input_start"),
    "input": ("messages", "input_start"),
    "response": ("messages",),
    "reasoning": ("messages",),
    "conversation": ("messages", "tools"),
}
"""The parts of a conversation that are no columns, with the columns that they are read from."""


def columns_of(names: Iterable[str]) -> list[str]:
    """The columns to read for what a template names, as a stage declares them in `reads`.

    Args:
        names: Columns and parts of conversations.

    Whether they are there is for `check_names` to say, which knows the parts as well.

    Example:
        >>> columns_of(["response", "tone"])
        ['messages', 'response', 'tone']
    """
    needed = {column for name in names for column in PARTS.get(name, ())}
    own = {*names} - needed - {"id"}
    return [*sorted(needed), *(_as_declared(name) for name in sorted(own))]


def _as_declared(name: str) -> str:
    return name if name in RECORD_COLUMNS else OptionalColumn(name)


def check_names(
    option: str, names: Iterable[str], columns: Columns, *, other: Collection[str] = ()
) -> None:
    """Check that a row has all that a template names.

    Args:
        option: The option that holds the template.
        names: What it names.
        columns: The columns of the row.
        other: Further names that it may have.

    Raises:
        OptionError: It names something else; with the names that there are.
    """
    parts = [name for name, needed in PARTS.items() if {*needed} <= {*columns}]
    valid = [*columns, *(name for name in parts if name not in columns), *other]
    wrong = sorted({*names} - {*valid})
    if wrong:
        makers = [
            f"{', '.join(makers)} adds it" for makers in [stages_that_add(wrong[0])] if makers
        ]
        hints = [
            closest(wrong[0], valid),
            *makers,
            f"there are: {', '.join(valid)}" if valid else None,
        ]
        what = f"must name columns or parts of a row, got {wrong[0]!r}"
        raise OptionError(option, what, hint="; ".join(filter(None, hints)) or None)


def row_values(
    rows: pl.DataFrame, names: Collection[str], view: View = "calls"
) -> list[dict[str, Any]]:
    """The values of each row by name.

    Args:
        rows: The rows, with the columns of `columns_of`.
        names: Columns and parts of conversations.
        view: What of a turn `response` and `conversation` show; see `schemas.turns`.
    """
    computed = [name for name in PARTS if name in names and name not in rows.columns]
    columns = [name for name in names if name not in computed and name != "id"]
    frame = rows.select(
        "id",  # also where nothing is named: a frame without columns has no rows
        *columns,
        *(expression for name, expression in _texts().items() if name in computed),
        *(pl.col(name).alias(f"_{name}") for name in _sources(computed)),
    )
    values = []
    for row in frame.iter_rows(named=True):
        turns, tools = row.pop("_messages", None) or (), row.pop("_tools", None)
        for name in computed:
            if name not in row:
                row[name] = _part(name, turns, tools, view)
        if "messages" in row:
            row["messages"] = [{**turn, "text": turn_text(turn, view)} for turn in row["messages"]]
        if "extra" in row:
            row["extra"] = parsed(row["extra"], {})
        values.append({name: row[name] for name in names})
    return values


def _texts() -> dict[str, pl.Expr]:
    return {"instruction": instruction(), "input": input_text()}


def _sources(computed: Collection[str]) -> list[str]:
    """The columns from which parts are made row by row."""
    rest = [PARTS[name] for name in computed if name not in _texts()]
    return list(dict.fromkeys(column for columns in rest for column in columns))


def _part(
    name: str, turns: Sequence[Mapping[str, Any]], tools: str | None, view: View
) -> str | None:
    if name == "conversation":
        shown = [("tools", tools)] if view == "all" and tools else []
        shown += [(turn["role"], turn_text(turn, view)) for turn in turns]
        return "\n\n".join(f"{role.capitalize()}:\n{text}" for role, text in shown)
    if name == "system":
        return next((turn["content"] or "" for turn in turns if turn["role"] == "system"), "")
    last = next((turn for turn in reversed(turns) if turn["role"] == "assistant"), None)
    if last is None:
        return None
    return turn_text(last, view) if name == "response" else last.get("reasoning") or ""
