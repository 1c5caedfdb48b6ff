"""Constraints as records carry them: two lists in `extra`, as the files of benchmarks have them.

`instruction_id_list` names the kinds, `kwargs` holds the arguments of each, those of other kinds
null; the names of FollowRAG are read as IFEval's. Where several turns ask, both are lists of such
lists, one for each user turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stages._constraints.constraint import Constraint, ConstraintError, constraint
from stages._constraints.followrag import NAMES

KINDS_FIELD: Final = "instruction_id_list"
ARGUMENTS_FIELD: Final = "kwargs"


def stored(constraints: Sequence[Constraint]) -> dict[str, Any]:
    """The fields of `extra` that hold constraints.

    Args:
        constraints: Those of one turn.
    """
    return {
        KINDS_FIELD: [one.kind for one in constraints],
        ARGUMENTS_FIELD: [one.arguments for one in constraints],
    }


def read_turns(
    extra: str | None, kinds: str = KINDS_FIELD, arguments: str = ARGUMENTS_FIELD
) -> tuple[list[list[Constraint]], bool]:
    """The constraints of each turn that a record carries.

    Args:
        extra: The record's `extra`.
        kinds: The field with the kinds.
        arguments: The field with the arguments; without it no kind has any.

    Returns:
        One list for each user turn, and True; or one list, and False, where the record has one
        list for the whole conversation. Nothing where it carries none.

    Raises:
        ConstraintError: The fields are no such lists, or hold what is no constraint.

    >>> read_turns('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}')
    ([[NoComma()]], False)
    >>> read_turns("{}")
    ([], False)
    """
    fields = json.loads(extra) if extra else {}
    names, values = fields.get(kinds), fields.get(arguments)
    if not names:
        return [], False
    if not isinstance(names, list):
        raise ConstraintError(f"{kinds} must be a list of kinds, got {names!r}")
    if all(isinstance(name, list) for name in names):
        values = [None] * len(names) if values is None else values
        return [_read(*turn) for turn in _paired(names, values, arguments)], True
    return [_read(names, values)], False


def _read(names: Any, values: Any) -> list[Constraint]:
    """One turn's constraints."""
    values = [None] * len(names) if values is None else values
    read = []
    for name, own in _paired(names, values, ARGUMENTS_FIELD):
        if not isinstance(name, str) or not isinstance(own, Mapping | None):
            raise ConstraintError(f"must be a kind with its arguments, got {name!r}")
        read.append(constraint(NAMES.get(name, name), own))
    return read


def _paired(names: Any, values: Any, field: str) -> zip[tuple[Any, Any]]:
    if not isinstance(values, list) or len(values) != len(names):
        raise ConstraintError(f"{field} must be a list of {len(names)}, as many as there are kinds")
    return zip(names, values, strict=True)
