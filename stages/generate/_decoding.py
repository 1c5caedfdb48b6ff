"""The sampling of a method, with what a recipe says otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.models.base import Decoding


def decoding_of(
    default: Decoding, temperature: float | None, top_p: float | None, max_tokens: int | None
) -> Decoding:
    """The method's decoding with what the options say otherwise.

    Args:
        default: The method's.
        temperature: Null for the method's, as the others.
        top_p: Nucleus of sampling.
        max_tokens: Limit of a completion.

    >>> decoding_of(Decoding(256, 0.7), None, 0.9, None) == Decoding(256, 0.7, 0.9)
    True
    """
    options = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    changes: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    return replace(default, **changes)
