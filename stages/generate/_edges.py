"""Edges that a stage needs for some of its methods only."""

from __future__ import annotations

import polars as pl

from pipeline.errors import UserError


def connected(frame: pl.DataFrame | None, edge: str, method: str) -> pl.DataFrame:
    """The rows of an edge that the method reads.

    Args:
        frame: What the stage received on the edge; None if nothing is connected.
        edge: Name of the edge.
        method: Name of the method.

    Raises:
        UserError: If nothing is connected.
    """
    if frame is None:
        what = f"the edge {edge!r} must be connected for method {method}"
        raise UserError(what, hint=f"needs: {{{edge}: STAGE}}")
    return frame
