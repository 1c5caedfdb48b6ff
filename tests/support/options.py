"""A stage's options as its check gets them: those that are given, and the defaults of the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def options_of(stage: Callable[..., Any], **given: Any) -> SimpleNamespace:
    """The keywords of a stage function with their defaults, or as they are given."""
    parameters = inspect.signature(stage).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return SimpleNamespace(**{p.name: given.get(p.name, p.default) for p in keywords})
