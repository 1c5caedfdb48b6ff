"""Types of options: ranges, and groups of options that belong to one method.

A stage's keyword annotations are the schema of its options. What an option may be is
said by its type, never by code of the stage:

    @option_group
    class KCenter:
        \"\"\"The row farthest from all rows picked so far (Sener and Savarese 2018).

        Args:
            budget: Rows to pick.
            init: The first row.
        \"\"\"

        name: Literal["k_center"] = "k_center"
        budget: Count
        init: Literal["mean", "random"] = "mean"

    Method = Annotated[Threshold | KCenter, Field(discriminator="name")]

    def diverse(ctx: Context, rows: Records, *, method: Method) -> pl.DataFrame: ...

A recipe then writes `method: {name: k_center, budget: 500}`, or `method: k_center` where
everything else has a default. An option of one method cannot be given to another. What
two options must be together is checked in the group's `__post_init__`, which raises a
ValueError whose text begins with the name of the wrong one: "init must be ..., got ...".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
"""A number of things, at least 1."""

NonNegativeInt = Annotated[int, Field(ge=0)]
"""A number of things, possibly none."""

PositiveFloat = Annotated[float, Field(gt=0)]
"""A number above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0)]
"""A number from 0 on."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, from 0 to 1."""

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
"""The threshold of a similarity, above 0 and at most 1."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d)")
_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    """A duration in seconds: a number of them, or a text with a unit.

    Raises:
        ValueError: It is none.
    """
    written = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if written:
        return float(written[1]) * _SECONDS[written[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f'must be a duration such as "90s", "30min" or "2h", got {value!r}')
    return float(value)


Duration = Annotated[float, BeforeValidator(_seconds)]
"""A time: "90s", "30min", "2h", "1d", or a number of seconds."""


def _wait(value: Any) -> bool | float:
    """True and false as they are, else a duration in seconds."""
    return value if isinstance(value, bool) else float(_seconds(value))


Wait = Annotated[bool | float, PlainValidator(_wait)]
"""How long to wait: true for as long as it takes, false for not at all, or a `Duration`."""

NonEmpty = Field(min_length=1)
"""Marks a tuple or a text that must hold something: `Annotated[tuple[str, ...], NonEmpty]`."""


def increasing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, if each is at least the one before it.

    Raises:
        ValueError: A value is smaller than the one before it.
    """
    if any(a > b for a, b in pairwise(values)):
        raise ValueError(f"must be increasing, got {list(values)}")
    return values


Range = Annotated[tuple[Count, Count], AfterValidator(increasing)]
"""The smallest and the largest of a number of things, each at least 1."""

FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(increasing)]
"""The lower and the upper end of a range of fractions."""

Percentile = Annotated[float, Field(ge=0, le=100)]
PercentileRange = Annotated[tuple[Percentile, Percentile], AfterValidator(increasing)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def option_group(cls: type[T]) -> type[T]:
    """Make a class a group of options: a frozen dataclass that refuses unknown names.

    Args:
        cls: A class with annotated fields. Its `name`, a Literal with a default, is the
            value by which a recipe chooses it.
    """
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def _known_regions(regions: tuple[str, ...]) -> tuple[str, ...]:
    from phonenumbers import SUPPORTED_REGIONS

    if unknown := sorted({*regions} - SUPPORTED_REGIONS):
        raise ValueError(f"must be countries such as US, GB, DE, got {', '.join(unknown)}")
    return regions


PhoneRegions = Annotated[tuple[str, ...], AfterValidator(_known_regions)]
"""Countries (ISO 3166) whose national way to write phone numbers counts."""
