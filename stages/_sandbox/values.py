"""Values of an untrusted program as text: written inside the sandbox, read outside.

Only what a value is, never what it says about itself: a subclass of a built-in type is written as
the built-in value that it holds, so that no `__eq__`, `__bool__` or `__repr__` of a program takes
part in a comparison. What is no built-in value is opaque.

>>> class Always(str):
...     def __eq__(self, other): return True
>>> decode(encode([1, (2.5, None), {"a": Always("x")}]))
[1, (2.5, None), {'a': 'x'}]
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, whose import costs a third of a start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

OPAQUE: Final = "opaque"
_DEPTH: Final = 50
_ITEMS: Final = 100_000
"""The most values within a value, so that one that holds itself many times ends."""

_MRO: Final = type.__dict__["__mro__"].__get__


class Opaque:
    """A value that is no built-in one: equal to nothing but itself."""

    def __repr__(self) -> str:
        return "an object"


def classes_of(value: Any) -> tuple[type, ...]:
    """The classes of a value as the interpreter has them, whatever its `__class__` says.

    Args:
        value: Any object of the program.
    """
    return _MRO(type(value))  # type: ignore[no-any-return]


def encode(value: Any) -> str:
    """A value as the text of nested lists, which `ast.literal_eval` reads.

    Args:
        value: Any object of the program.

    Returns:
        ASCII without a line end.
    """
    return ascii(_Tagging().tagged(value, _DEPTH))


def are_equal(left: Any, right: Any, is_of_program: Callable[[type], bool]) -> Any:
    """`left == right`, in which no class of the program decides alone.

    Built-in values are compared as such, subclasses as what they hold. Where one side is such a
    value throughout, and the other has an object of a class of the program, they differ. All else
    is Python's comparison.

    Args:
        left: Any object.
        right: Any object.
        is_of_program: Whether a class is one of the program.
    """
    sides = (_Tagging(), _Tagging())
    a, b = (side.tagged(value, _DEPTH) for side, value in zip(sides, (left, right), strict=True))
    if not sides[0].opaque and not sides[1].opaque:
        return untagged(a) == untagged(b)
    if not (sides[0].opaque and sides[1].opaque):
        classes = sides[0].opaque | sides[1].opaque
        if any(is_of_program(cls) for cls in classes):
            return False
    return left == right


class _Tagging:
    """One value as nested lists, and the classes of what in it is no built-in value."""

    def __init__(self) -> None:
        self._remaining = _ITEMS
        self.opaque: set[type] = set()

    def tagged(self, value: Any, depth: int) -> Any:
        """A value as nested lists; opaque beyond so many levels."""
        self._remaining -= 1
        if depth == 0 or self._remaining < 0:
            self.opaque.add(object)
            return [OPAQUE]
        if value is None or value is True or value is False:
            return value
        kinds = classes_of(value)
        written = _scalar(value, kinds)
        if written is not None:
            return written
        for kind in (list, tuple, set, frozenset):
            if kind in kinds:
                return [kind.__name__, *(self.tagged(x, depth - 1) for x in kind.__iter__(value))]
        if dict in kinds:
            pairs = dict.items(value)
            return ["dict", *[[self.tagged(x, depth - 1) for x in pair] for pair in pairs]]
        self.opaque.add(kinds[0])
        return [OPAQUE]


def _scalar(value: Any, kinds: tuple[type, ...]) -> Any:
    """A number or text as it is written; None for anything else."""
    if value is None or value is True or value is False:
        return value
    if int in kinds:
        return int.__add__(value, 0)
    if float in kinds:
        return ["float", float.hex(float.__add__(value, 0.0))]
    if complex in kinds:
        parts = complex.__add__(value, 0j)
        return ["complex", float.hex(parts.real), float.hex(parts.imag)]
    if str in kinds:
        return str.__str__(value)[:]
    if bytes in kinds or bytearray in kinds:
        return ["bytes", bytes(memoryview(value))]
    for cls in kinds:
        if "as_integer_ratio" in vars(cls):  # fractions, decimals, numbers of libraries
            return _ratio(cls.as_integer_ratio(value))  # type: ignore[attr-defined]
        if "__index__" in vars(cls):
            return int.__add__(cls.__index__(value), 0)  # type: ignore[attr-defined]
    return None


def _ratio(ratio: tuple[int, int]) -> list[Any]:
    return ["ratio", *(int.__add__(part, 0) for part in ratio)]


def decode(text: str) -> Any:
    """The value that `encode` wrote, with `Opaque` objects in it.

    Args:
        text: What a sandbox sent; anything at all.

    Raises:
        ValueError: It is no such text.
    """
    import ast

    try:
        return untagged(ast.literal_eval(text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, IndexError) as error:
        raise ValueError("not a value of a sandbox") from error


def untagged(value: Any) -> Any:
    """The value of which these nested lists are the written form.

    Args:
        value: What `ast.literal_eval` makes of an encoded value.

    Raises:
        ValueError: It is no such value.
    """
    if not isinstance(value, list):
        return value
    match value:
        case ["float", str(digits)]:
            return float.fromhex(digits)
        case ["ratio", int(numerator), int(denominator)] if denominator:
            from fractions import Fraction

            return Fraction(numerator, denominator)
        case ["complex", str(real), str(imaginary)]:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case ["bytes", bytes(content)]:
            return content
        case ["list", *items]:
            return [untagged(item) for item in items]
        case ["tuple", *items]:
            return tuple(untagged(item) for item in items)
        case ["set" | "frozenset", *items]:
            return {untagged(item) for item in items}
        case ["dict", *pairs]:
            return {untagged(key): untagged(item) for key, item in pairs}
        case ["opaque"]:
            return Opaque()
    raise ValueError("not a value of a sandbox")
