"""What is wrong with a value, in the form "X must be Y, got Z", at its key in the recipe."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

_TYPES: Final = {
    "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false",
    "bool_parsing": "true or false", "string_type": "a text", "tuple_type": "a list",
    "list_type": "a list", "dict_type": "a mapping", "mapping_type": "a mapping",
    "dataclass_type": "a mapping", "finite_number": "a finite number",
    "none_required": "null", "model_attributes_type": "a mapping",
}  # fmt: skip


class Problem(NamedTuple):
    """What is wrong with an option.

    path: the option's key, and the keys below it where the value is a mapping.
    """

    path: tuple[str, ...]
    what: str
    hint: str | None = None


def suggest(name: str, valid: Iterable[str]) -> str | None:
    """A "did you mean" for a name, or the names there are."""
    names = [str(k) for k in valid]
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "there are: " + ", ".join(names) if names else None


def option_groups(annotation: Any) -> dict[str, type]:
    """The option groups in an annotation, by the value of their `name` (or the class's name)."""
    found: dict[str, type] = {}
    for member in (annotation, *_members(annotation)):
        if isinstance(member, type) and is_dataclass(member):
            name = next((f.default for f in fields(member) if f.name == "name"), member.__name__)
            found[str(name)] = member
    return found


def problems_in(name: str, raw: Any, annotation: Any, error: ValidationError) -> list[Problem]:
    """All that pydantic found wrong with a value, one problem for each key."""
    by_path: dict[tuple[str, ...], Problem] = {}
    for entry in error.errors():
        problem = _problem(name, raw, annotation, entry)
        by_path.setdefault(problem.path, problem)
    return list(by_path.values())


def _problem(name: str, raw: Any, annotation: Any, entry: Mapping[str, Any]) -> Problem:
    keys, shown, missing = _walk(raw, entry["loc"])
    path, kind, value = (name, *keys), entry["type"], entry["input"]
    subject = ".".join(path) + shown
    group = _group_at(annotation, raw, keys[:-1] if keys else [])
    if "unexpected" in kind or kind == "extra_forbidden":
        hint = suggest(keys[-1], names_in(group)) if keys else None
        owner = f"{'.'.join(path[:-1])} ({_name_of(group)})" if group else ".".join(path[:-1])
        return Problem(path, f"{owner} has no option {keys[-1] if keys else name!r}", hint)
    if missing is not None or kind.startswith("missing"):
        return Problem(path, f"the option {'.'.join((*path, missing or ''))!r} is missing")
    if isinstance(value, str) and not keys and option_groups(annotation):
        hint = suggest(value, option_groups(annotation))
        return Problem(path, f"{subject}: there is no {value!r}", hint)
    if kind == "union_tag_not_found":
        return Problem(path, f"{subject} must say which: {{name: ...}}", _names(annotation))
    if kind == "union_tag_invalid":
        tag = str(raw.get("name")) if isinstance(raw, Mapping) else str(raw)
        return Problem(
            path, f"{subject}: there is no {tag!r}", suggest(tag, option_groups(annotation))
        )
    if kind == "value_error":
        # A group's text begins with the name of the option that is wrong, a value's with "must".
        what = str(entry["ctx"]["error"])
        between = "." if isinstance(value, Mapping) and not what.startswith("must ") else " "
        return Problem(path, f"{subject}{between}{what}")
    if kind == "literal_error":
        hint = suggest(value, _literals(annotation)) if isinstance(value, str) else None
        hint = hint if hint and hint.startswith("did") else None
        return Problem(path, f"{subject} must be {entry['ctx']['expected']}, got {value!r}", hint)
    own = (
        typing.get_type_hints(group, include_extras=True).get(keys[-1]) if group and keys else None
    )
    return Problem(
        path, f"{subject} must be {_expected(kind, entry, own or annotation)}, got {value!r}"
    )


def _walk(raw: Any, loc: tuple[Any, ...]) -> tuple[list[str], str, str | None]:
    """Keys of mappings on the way to an error, list indices as text, and a key that is missing.

    Tags of unions, which stand in a location too, are no keys.
    """
    keys: list[str] = []
    shown = ""
    for i, part in enumerate(loc):
        if isinstance(raw, Mapping) and part in raw:
            keys.append(str(part))
            raw = raw[part]
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            shown += f"[{part}]"
            raw = raw[part]
        elif isinstance(raw, Mapping) and i == len(loc) - 1 and i > 0:
            return keys, shown, str(part)
    return keys, shown, None


def _expected(kind: str, entry: Mapping[str, Any], annotation: Any) -> str:
    context = entry.get("ctx", {})
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        bounds = _bounds(annotation)
        low, high = bounds.get("ge"), bounds.get("le")
        bound = next(iter(context.values()))
        if bound in (low, high) and None not in (low, high):
            return f"between {low} and {high}"
        words = {
            "greater_than_equal": "at least", "less_than_equal": "at most",
            "greater_than": "above", "less_than": "below",
        }  # fmt: skip
        return f"{words[kind]} {bound:g}"
    if kind in ("too_short", "string_too_short"):
        least = context["min_length"]
        return f"of at least {least} element{'s' if least > 1 else ''}"
    if kind in ("too_long", "string_too_long"):
        return f"of at most {context['max_length']} elements"
    return _TYPES.get(kind) or f"valid ({entry['msg']})"


def _members(annotation: Any) -> Iterator[Any]:
    for member in typing.get_args(annotation):
        yield member
        yield from _members(member)


def _bounds(annotation: Any) -> dict[str, Any]:
    """The numeric bounds anywhere in an annotation; only of use where there is one pair."""
    found: dict[str, Any] = {}
    for member in (annotation, *_members(annotation)):
        marks = [*getattr(member, "__metadata__", ())]
        for mark in marks:
            parts = mark.metadata if isinstance(mark, FieldInfo) else [mark]
            for part in parts:
                for name in ("ge", "le", "gt", "lt"):
                    if (value := getattr(part, name, None)) is not None:
                        found[name] = value
    return found


def _group_at(annotation: Any, raw: Any, keys: list[str]) -> type | None:
    """The option group that the keys lead to."""
    members = option_groups(annotation)
    name = raw.get("name") if isinstance(raw, Mapping) else None
    group = members.get(str(name)) or (next(iter(members.values())) if len(members) == 1 else None)
    for key in keys:
        if group is None or not isinstance(raw, Mapping):
            return None
        hint = typing.get_type_hints(group, include_extras=True).get(key)
        raw = raw.get(key)
        group = _group_at(hint, raw, [])
    return group


def names_in(group: type | None) -> list[str]:
    """The names of a group's options; none for None."""
    return [f.name for f in fields(group)] if group and is_dataclass(group) else []


def _name_of(group: type) -> str:
    return next((str(f.default) for f in fields(group) if f.name == "name"), group.__name__)


def _names(annotation: Any) -> str | None:
    return (
        "there are: " + ", ".join(option_groups(annotation)) if option_groups(annotation) else None
    )


def _literals(annotation: Any) -> list[str]:
    """Every text that stands in a Literal of the annotation or of its groups."""
    found: list[str] = []
    for member in (annotation, *_members(annotation)):
        if typing.get_origin(member) is typing.Literal:
            found += [str(a) for a in typing.get_args(member)]
        if isinstance(member, type) and is_dataclass(member):
            for hint in typing.get_type_hints(member, include_extras=True).values():
                found += _literals(hint)
    return found
