"""Which stages can add a column, for whoever wants one that is not there."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final, Literal

from pipeline.recipe.discovery import available, find
from pipeline.recipe.problems import option_groups
from pipeline.stage import Option, Stage

_SEARCHING: Final = ContextVar("searching", default=False)
"""Whether a search is on: what stages add may depend on checks whose hints search again."""


def stages_that_add(column: str) -> list[str]:
    """The names of the stages that add the column, under some choice of their options.

    Those that make rows of their own are named only where no other stage adds it.

    Example:
        >>> stages_that_add("language")
        ['tag.surface']
    """
    if _SEARCHING.get():
        return []
    token = _SEARCHING.set(True)
    try:
        stages = [stage for stage in _all_stages() if any(column in c for c in _columns(stage))]
    finally:
        _SEARCHING.reset(token)
    annotating = [stage.name for stage in stages if stage.annotates]
    return annotating or [stage.name for stage in stages]


def _all_stages() -> Iterator[Stage]:
    for name in available():
        try:
            yield find(name)
        except Exception:  # a broken stage is reported where it is used
            continue


def _columns(stage: Stage) -> Iterator[list[str]]:
    """The columns that the stage adds by default, and with each choice of each option."""
    connected: list[dict[str, list[Any]]] = [
        {edge.name: [{}] for edge in stage.edges if all_edges or not edge.optional}
        for all_edges in (False, True)
    ]
    values = {option.name: _values(option) for option in stage.options}
    first = {name: choices[0] for name, choices in values.items()}
    changes = [{}, *({name: one} for name, choices in values.items() for one in choices[1:])]
    for change, edges in itertools.product(changes, connected):
        try:
            yield list(stage.adds(SimpleNamespace(**first | change), edges))
        except Exception:  # options or inputs that do not go together
            continue


def _values(option: Option) -> list[Any]:
    """Values to try of an option: its default, and what else may be chosen by name."""
    groups = [_instance(group) for group in option_groups(option.annotation).values()]
    values = [] if option.required else [option.default]
    values += [group for group in groups if group is not None]
    values += _choices(option.annotation)
    return values or [None]


def _choices(annotation: Any) -> list[Any]:
    """The texts of a choice; for a list of choices, the list of them all."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(members)
    inner = [choice for member in members for choice in _choices(member)]
    return [tuple(inner)] if origin is tuple and inner else inner


def _instance(group: type) -> Any:
    try:
        return group()
    except TypeError:  # it has options without defaults
        return None
