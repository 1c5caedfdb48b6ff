"""Inputs that only some methods of a stage take: one check, before anything runs and in a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pipeline.errors import OptionError

T = TypeVar("T")


def required(value: T | None, edge: str, method: str) -> T:
    """An input that the method reads.

    Args:
        value: What the stage received on the edge; None if nothing is connected.
        edge: The edge.
        method: The name of the method.

    Raises:
        OptionError: Nothing is connected.
    """
    if value is None:
        what = f"{method} must have an input for {edge!r}, got none"
        raise OptionError("method", what, hint=f"needs: {{..., {edge}: STAGE}}")
    return value


def require_input(
    edges: Mapping[str, Any], edge: str, method: str, *, connected: bool = True
) -> None:
    """Check that an edge is connected for a method that reads it, or left out for others.

    Called from a stage's `adds=`, which knows what the recipe connects.

    Args:
        edges: What is connected to each edge: the columns that `adds=` gets, or the inputs of a
            call. An edge without anything is absent, None or an empty list.
        edge: The edge.
        method: The name of the method.
        connected: Whether the method takes it.

    Raises:
        OptionError: At the method's line of the recipe.
    """
    value = edges.get(edge)
    value = None if isinstance(value, list) and not value else value
    if connected:
        required(value, edge, method)
    elif value is not None:
        what = f"{method} does not read {edge!r}, got an input for it"
        raise OptionError("method", what, hint=f"take {edge} out of needs")
