"""Types of options that several families use, beside those of `pipeline/types.py`."""

from __future__ import annotations

from typing import Any, Final

from pydantic import AfterValidator


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"must name each once, got {list(values)}")
    return values


Distinct: Final = AfterValidator(_distinct)
"""Marks a tuple in which nothing occurs twice: `Annotated[tuple[str, ...], Distinct]`."""
