"""Inputs that only some methods of a stage take, checked before anything runs."""

from __future__ import annotations

from pipeline.errors import OptionError
from pipeline.stage import Edges


def require_input(edges: Edges, edge: str, method: str, *, connected: bool = True) -> None:
    """Check that an edge is connected for a method that reads it, or left out for others.

    Called from a stage's `adds=`, which knows what the recipe connects.

    Args:
        edges: The columns of what is connected to each edge.
        edge: The edge.
        method: The name of the method.
        connected: Whether the method takes it.

    Raises:
        OptionError: At the method's line of the recipe.
    """
    if bool(edges.get(edge)) == connected:
        return
    if connected:
        what = f"{method} must have an input for {edge!r}, got none"
        raise OptionError("method", what, hint=f"needs: {{..., {edge}: STAGE}}")
    what = f"{method} does not read {edge!r}, got an input for it"
    raise OptionError("method", what, hint=f"take {edge} out of needs")
