"""The section `refresh` of a recipe: when a refresh stops instead of releasing.

    refresh: {shrink: 20%, max_hours: 6}

Like `publish` it says nothing about rows: no stage's fingerprint holds it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipeline.recipe.options import checked_dataclass
from pipeline.recipe.problems import Problem
from pipeline.types import PositiveFloat, option_group


def _share(value: Any) -> Any:
    """`20%` as 0.2; whatever else as it is."""
    if not isinstance(value, str) or not value.rstrip().endswith("%"):
        return value
    try:
        return float(value.rstrip().removesuffix("%")) / 100
    except ValueError:
        raise ValueError(f"must be a share such as 20% or 0.2, got {value!r}") from None


@option_group
class Refresh:
    """The section `refresh`.

    Args:
        shrink: By how much a source may shrink since the last release, as a share of its rows:
            beyond it nothing is released (exit code 8).
        max_hours: Hours after which a refresh stops (exit code 5); what is finished is kept, and
            the next one goes on. Null: as long as it takes.
    """

    shrink: Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)] = 0.2
    max_hours: PositiveFloat | None = None


def read_refresh(raw: Any) -> tuple[Refresh, list[Problem]]:
    """The section from a recipe's mapping, and all that is wrong with it.

    Args:
        raw: The mapping; null where there is none.
    """
    values = {key: value for key, value in (raw or {}).items() if value is not None}
    section, problems = checked_dataclass(values, Refresh)
    return section or Refresh(), problems
