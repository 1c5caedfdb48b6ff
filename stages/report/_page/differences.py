"""Differences from another release, as the page shows them: a table for each part.

What they are is `pipeline.releases.diff`'s to say. This shows any of its parts that is a
mapping of values or a list of mappings, under its own name, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.execution.snapshot import Snapshot
from pipeline.releases.diff import diff


def differences(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """The differences of two snapshots as tables.

    Args:
        before: The earlier one.
        after: The later one.

    Returns:
        The titles, and `tables`: what `tables_of` gives.
    """
    return {
        "before": before.title,
        "after": after.title,
        "tables": tables_of(diff(before, after)),
    }


def tables_of(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each part of a mapping that has more than one value.

    Args:
        parts: Mappings of plain values become two columns, lists of mappings one row each.

    >>> tables_of({"from": "a@1.0", "rows": {"added": 2, "removed": 0}})
    [{'title': 'rows', 'header': ['', ''], 'rows': [['added', 2], ['removed', 0]]}]
    """
    tables = []
    for title, part in parts.items():
        if isinstance(part, Mapping) and part:
            rows = [[_words(name), value] for name, value in part.items()]
            tables.append({"title": _words(title), "header": ["", ""], "rows": rows})
        elif _is_table(part):
            header = list(dict.fromkeys(name for row in part for name in row))
            rows = [[row.get(name) for name in header] for row in part]
            names = [_words(name) for name in header]
            tables.append({"title": _words(title), "header": names, "rows": rows})
    return tables


def _is_table(part: Any) -> bool:
    rows = part if isinstance(part, Sequence) and not isinstance(part, str) else ()
    return bool(rows) and all(isinstance(row, Mapping) for row in rows)


def _words(name: str) -> str:
    return name.replace("_", " ")
