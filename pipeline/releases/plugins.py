"""What belongs to a release and knows about instructions: found by name in `stages`.

The engine imports no stage by hand. Card, gate, certificate, statistics of a diff and pages
are functions of the modules below; each is imported when it is first needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

PLUGINS: Final = {
    "card": "stages.publish.card",
    "croissant": "stages.publish.card",
    "check": "stages.publish.gate",
    "takedown": "stages.publish.gate",
    "certificate": "stages.publish.certificate",
    "shifts": "stages.report._shifts",
    "page": "stages.report.page",
}
"""The module of each function."""


def plugin(name: str) -> Callable[..., Any]:
    """A function of the domain.

    Args:
        name: One of `PLUGINS`.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(PLUGINS[name]), name)
    return function
