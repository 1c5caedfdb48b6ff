"""Options that cannot change anything, given what the others say: an error, never silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pipeline.errors import UserError


def refuse_idle(
    stage: Callable[..., Any], options: SimpleNamespace, *uses: tuple[bool, str, str]
) -> None:
    """Raises UserError for an option that is given (not its default) and has no use.

    stage: the function whose options they are. uses: whether there is a use, what it is,
    and the names of the options that have no other one.
    """
    parameters = inspect.signature(stage).parameters
    for used, purpose, names in uses:
        for name in names.split() if not used else ():
            value = getattr(options, name)
            if value != parameters[name].default:
                raise UserError(
                    f"{name}: {value} has no effect here",
                    why=f"it is for {purpose}",
                    hint=f"leave {name} out",
                )
