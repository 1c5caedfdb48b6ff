"""What all kinds of constraints share, and the table of kinds.

A kind is a class: its fields are the arguments, `check` is the checker, and its wordings are
sentences that ask for it, with the arguments in braces.

Example:
    >>> few = constraint("length_constraints:number_words", {
    ...     "relation": "less than", "num_words": 4})
    >>> few.holds("One two three"), few.holds("One two three four"), few.holds(" ")
    (True, False, False)
    >>> constraint("rhyme", {})
    Traceback (most recent call last):
    stages._constraints.constraint.ConstraintError: 'rhyme' is no kind of constraint
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, dataclass_transform

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pipeline.hints import closest

C = TypeVar("C", bound="Constraint")

Relation = Literal["at least", "less than"]
"""How a count is bounded: from a number on, or below it."""

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""An argument that is a text, not blank."""

Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
"""An argument that is a list of texts."""


class ConstraintError(ValueError):
    """A constraint that cannot be checked: an unknown kind, or arguments that are none of it."""


class Constraint(ABC):
    """One constraint on an answer.

    Attributes:
        kind: Its kind.
        wordings: Sentences that ask for it, with arguments in braces.
    """

    kind: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check(self, text: str) -> bool:
        """Whether a text that is not blank has what is asked for.

        Args:
            text: The text.
        """

    def holds(self, text: str) -> bool:
        """Whether the answer follows the constraint, strictly; a blank one never does.

        Args:
            text: The answer.
        """
        return bool(text.strip()) and self.check(text)

    def holds_loosely(self, text: str) -> bool:
        """Whether the answer, or one of its seven variants, follows the constraint.

        Args:
            text: The answer. Its variants are without the first line, the last line or both, and
                all four without asterisks.
        """
        return any(self.holds(variant) for variant in variants(text))

    def negation(self) -> Constraint | None:
        """The constraint that holds of exactly the texts of which this does not.

        None where no kind says so. Blank texts follow neither.
        """
        return None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name, as JSON has them."""
        return {name: [*v] if type(v) is tuple else v for name, v in vars(self).items()}

    def worded(self, number: int = 0) -> str:
        """A sentence that asks for the constraint.

        Args:
            number: Which of the wordings, counted in turn.
        """
        values = {name: _listed(value) for name, value in vars(self).items()}
        return self.wordings[number % len(self.wordings)].format(**values)


KINDS: Final[dict[str, type[Constraint]]] = {}
"""All kinds by name, in the order of their modules; filled by `kind`."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def kind(name: str, *wordings: str) -> Callable[[type[C]], type[C]]:
    """Make a class a kind of constraint: a frozen dataclass that refuses unknown arguments.

    Args:
        name: The kind's name, `group:name`.
        wordings: Sentences that ask for it.
    """

    def make(cls: type[C]) -> type[C]:
        cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
        cls.kind, cls.wordings = name, wordings
        decorated = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        KINDS[name] = decorated
        return decorated

    return make


def constraint(kind: str, arguments: Mapping[str, Any] | None = None) -> Constraint:
    """The constraint of a kind with its arguments.

    Args:
        kind: The kind's name.
        arguments: The arguments; those that are None are left out, as benchmarks' files have them.

    Raises:
        ConstraintError: There is no such kind, or these are not its arguments.
    """
    cls = kinds().get(kind)
    if cls is None:
        hint = closest(kind, kinds())
        raise ConstraintError(f"{kind!r} is no kind of constraint" + (f"; {hint}" if hint else ""))
    values = {name: v for name, v in (arguments or {}).items() if v is not None}
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConstraintError(f"{kind}: {where}: {first['msg']}") from None


def kinds() -> Mapping[str, type[Constraint]]:
    """All kinds by name."""
    from stages._constraints import ifbench, ifeval, lengths  # noqa: F401  (fill the table)

    return KINDS


@cache
def _adapter(kind: str) -> TypeAdapter[Constraint]:
    return TypeAdapter(kinds()[kind])


def variants(text: str) -> list[str]:
    """The eight texts of which one must follow a constraint loosely: the text itself is the first.

    Args:
        text: An answer.

    Example:
        >>> variants("Sure:\\n*one*\\nBye")[1:4]
        ['*one*\\nBye', 'Sure:\\n*one*', '*one*']
    """
    lines = text.split("\n")
    cut = [text, *("\n".join(lines[a:b]).strip() for a, b in ((1, None), (None, -1), (1, -1)))]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def _listed(value: Any) -> Any:
    """An argument as a sentence has it: of a list each text in quotes, joined by commas."""
    if type(value) is tuple:
        return ", ".join(f'"{item}"' for item in value)
    return value
