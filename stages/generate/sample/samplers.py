"""Samplers: where the values of a column come from, one group of options for each.

What a sampler draws is in `draws`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Discriminator, Field, Tag

from pipeline.types import Count, NonEmpty, NonNegativeFloat, NonNegativeInt, option_group
from stages._llm.template_options import Condition, TemplateText
from stages._llm.templates import Template, condition

_LARGEST: Final = 2**63 - 1

Whole = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]

Value = str | int | float | bool
"""What a recipe may write as a value."""

_DTYPES: Final[dict[str, Any]] = {
    "text": pl.String, "integer": pl.Int64, "number": pl.Float64, "boolean": pl.Boolean,
}  # fmt: skip


@option_group
class Categorical:
    """One of several values.

    Args:
        name: "categorical".
        values: The values, all texts, numbers or booleans.
        weights: How often each is drawn, compared with the others; all alike without.
        when: Draw so only where this expression over columns holds.
    """

    name: Literal["categorical"] = "categorical"
    values: Annotated[tuple[Value, ...], NonEmpty]
    weights: tuple[NonNegativeFloat, ...] = ()
    when: Condition | None = None

    def __post_init__(self) -> None:
        kind_of(self.values)
        if self.weights and (len(self.weights) != len(self.values) or not any(self.weights)):
            raise ValueError(
                f"weights must be one for each of the {len(self.values)} values and not all 0, "
                f"got {list(self.weights)}"
            )


@option_group
class Integer:
    """A whole number, all alike.

    Args:
        name: "integer".
        low: The lowest.
        high: The highest, which is drawn too.
        when: Draw so only where this expression over columns holds.
    """

    name: Literal["integer"] = "integer"
    low: Whole
    high: Whole
    when: Condition | None = None

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)


@option_group
class Uniform:
    """A number between two others, all alike.

    Args:
        name: "uniform".
        low: The lowest.
        high: The highest.
        decimals: Digits behind the point to which it is rounded; all without.
        when: Draw so only where this expression over columns holds.
    """

    name: Literal["uniform"] = "uniform"
    low: float
    high: float
    decimals: NonNegativeInt | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)


@option_group
class FromFile:
    """A line of a text file, or a field of an object of a JSON Lines file, as text.

    Columns from one file are of one line, such as a persona's name and trade.

    Args:
        name: "file".
        file: The name of one of the stage's `files`; without it there must be one alone.
        field: The field of an object; without it the whole line.
        number: Columns of another number are of another line of the same file.
        when: Draw so only where this expression over columns holds.
    """

    name: Literal["file"] = "file"
    file: str | None = None
    field: str | None = None
    number: Count = 1
    when: Condition | None = None


@option_group
class Constant:
    """The same value for every row.

    Args:
        name: "constant".
        value: The value.
        when: Only where this expression over columns holds.
    """

    name: Literal["constant"] = "constant"
    value: Value
    when: Condition | None = None

    def __post_init__(self) -> None:
        kind_of([self.value])


@option_group
class Expression:
    """A Jinja template over the columns before it.

    Args:
        name: "expression".
        template: The template, such as "{{ first }} {{ last }}" or "{{ price * 2 }}".
        type: What its text is read as: text, integer, number or boolean (true or false).
        when: Only where this expression over columns holds.
    """

    name: Literal["expression"] = "expression"
    template: TemplateText
    type: Literal["text", "integer", "number", "boolean"] = "text"
    when: Condition | None = None


Sampler = Annotated[
    Categorical | Integer | Uniform | FromFile | Constant | Expression,
    Field(discriminator="name"),
]


def _how_many(raw: Any) -> str:
    return "several" if isinstance(raw, list | tuple) else "one"


Samplers = Annotated[
    Annotated[Sampler, Tag("one")] | Annotated[tuple[Sampler, ...], NonEmpty, Tag("several")],
    Discriminator(_how_many),
]
"""One sampler, or several with conditions: the first whose condition holds is drawn from."""


def several(samplers: Any) -> tuple[Any, ...]:
    """The samplers of a column, also where there is one alone."""
    return samplers if isinstance(samplers, tuple) else (samplers,)


def _ordered(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low must be at most high ({high}), got {low}")
    if not math.isfinite(high - low):
        raise ValueError(f"low must be within the range of numbers of high ({high}), got {low}")


def kind_of(values: Sequence[Value]) -> str:
    """What all values are: a key of the types of `Expression`.

    Args:
        values: The values.

    Raises:
        ValueError: They are of several kinds.

    Example:
        >>> kind_of([1, 2]), kind_of([1, 2.5]), kind_of(["a"])
        ('integer', 'number', 'text')
    """
    kinds = {bool: "boolean", int: "integer", float: "number", str: "text"}
    if any(isinstance(value, int) and abs(value) > _LARGEST for value in values):
        raise ValueError(f"values must be within 64 bits, got {list(values)}")
    present = {kinds[type(value)] for value in values}
    if present == {"integer", "number"}:
        return "number"
    if len(present) > 1:
        raise ValueError(f"values must be all texts, numbers or booleans, got {list(values)}")
    return present.pop()


def dtype_of(samplers: Sequence[Any]) -> Any:
    """The polars type of a column.

    Args:
        samplers: Its samplers.

    Raises:
        ValueError: They give values of several kinds.
    """
    kinds = {_kind(sampler) for sampler in samplers}
    kinds = kinds - {"integer"} if "number" in kinds else kinds
    if len(kinds) > 1:
        raise ValueError(f"must be of one kind, got {', '.join(sorted(kinds))}")
    return _DTYPES[kinds.pop()]


def _kind(sampler: Any) -> str:
    match sampler:
        case Categorical(values=values):
            return kind_of(values)
        case Constant(value=value):
            return kind_of([value])
        case Expression(type=kind):
            return kind
        case Integer():
            return "integer"
        case Uniform():
            return "number"
    return "text"


def names_of(samplers: Sequence[Any]) -> frozenset[str]:
    """The columns that the conditions and templates of samplers name."""
    names: set[str] = set()
    for sampler in samplers:
        names |= condition(sampler.when).names if sampler.when is not None else frozenset()
        if isinstance(sampler, Expression):
            names |= Template(sampler.template).names
    return frozenset(names)
