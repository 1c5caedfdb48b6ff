"""What is wrong with a value, in the form "X must be Y, got Z", at its key in the recipe."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pipeline.hints import CLOSE, closest, similarity, suggest
from pipeline.models.base import Embedder, LanguageModel

_TYPES: Final = {
    "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false",
    "bool_parsing": "true or false", "string_type": "a text", "tuple_type": "a list",
    "list_type": "a list", "dict_type": "a mapping", "mapping_type": "a mapping",
    "dataclass_type": "a mapping", "finite_number": "a finite number",
    "none_required": "null", "model_attributes_type": "a mapping",
}  # fmt: skip

RENAMED: Final = "renamed (see CHANGELOG.md): "
"""How the hint for a former name begins; see `pipeline/recipe/renamed.py`."""


class Problem(NamedTuple):
    """What is wrong with an option.

    Attributes:
        path: The option's key, and the keys below it where the value is a mapping.
        what: The mistake: "X must be Y, got Z".
        hint: How to fix it.
        kind: Whether it is about a name that is unknown, one that is missing, or a file that
            is not there.
    """

    path: tuple[str, ...]
    what: str
    hint: str | None = None
    kind: Literal["value", "unknown", "missing", "no_file"] = "value"


def merged(problems: Sequence[Problem]) -> list[Problem]:
    """Every mistake once: what stands there misspelt or misplaced is not reported as missing too.

    Args:
        problems: The problems of one mapping and of those inside it.

    Example:
        >>> problems = [
        ...     Problem(("pth",), "unknown option 'pth'", "there are: path", "unknown"),
        ...     Problem(("path",), "the option 'path' is missing", None, "missing"),
        ... ]
        >>> [(problem.what, problem.hint) for problem in merged(problems)]
        [("unknown option 'pth'", "did you mean 'path', which is missing?")]
    """
    missing = [p for p in problems if p.kind == "missing"]
    unknown = [p for p in problems if p.kind == "unknown"]
    hints: dict[tuple[str, ...], str | None] = {}
    for problem in unknown:
        for other in missing:
            if hint := _explained(problem, other):
                hints[problem.path] = hint
                missing.remove(other)
                break
    rest = [p for p in unknown if p.path not in hints]
    if len(rest) == len(missing) == 1 and rest[0].path[:-1] == missing[0].path[:-1]:
        hints[rest[0].path] = "; ".join(filter(None, (missing.pop().what, rest[0].hint)))
    remaining = [p for p in problems if p.kind != "missing" or p in missing]
    return [p._replace(hint=hints.get(p.path, p.hint)) for p in remaining]


def _explained(unknown: Problem, missing: Problem) -> str | None:
    """The hint for an unknown name that stands for a missing one; None where it does not."""
    name, needed, hint = unknown.path[-1], missing.path[-1], unknown.hint or ""
    renamed = hint.startswith(RENAMED) and re.search(rf"\b{re.escape(needed)}\b", hint)
    if name == needed or renamed:
        return hint
    same = unknown.path[:-1] == missing.path[:-1]
    if same and similarity(name, needed) >= CLOSE:
        return f"did you mean {needed!r}, which is missing?"
    return None


def option_groups(annotation: Any) -> dict[str, type]:
    """The option groups in an annotation, by the value of their `name` (or the class's name).

    Models are dataclasses too, but a recipe names them and does not write them there.
    """
    models = (LanguageModel, Embedder)
    return {name: kind for name, kind in _dataclasses(annotation).items() if kind not in models}


def _dataclasses(annotation: Any) -> dict[str, type]:
    return {
        _name_of(member): member
        for member in (annotation, *_members(annotation))
        if isinstance(member, type) and is_dataclass(member)
    }


def problems_in(name: str, raw: Any, annotation: Any, error: ValidationError) -> list[Problem]:
    """The errors of pydantic as problems, one for each key.

    Args:
        name: The option; empty for a mapping that stands for itself, such as a model.
        raw: Its value in the recipe.
        annotation: Its type.
        error: What pydantic raised.
    """
    by_path: dict[tuple[str, ...], Problem] = {}
    entries = error.errors()
    if isinstance(raw, Mapping) and option_groups(annotation):
        # That a group is no word of a Literal beside it says nothing where the group is wrong.
        entries = [
            each for each in entries if each["type"] != "literal_error" or len(each["loc"]) > 1
        ] or entries
    for entry in entries:
        problem = _problem(name, raw, annotation, entry)
        by_path.setdefault(problem.path, problem)
    return list(by_path.values())


def _problem(name: str, raw: Any, annotation: Any, entry: Mapping[str, Any]) -> Problem:
    keys, shown, missing = _walk(raw, entry["loc"], entry["type"].startswith("missing"))
    path = tuple(key for key in (name, *keys) if key)
    kind, value = entry["type"], entry["input"]
    subject = (".".join(path) or "it") + shown
    group = _group_at(annotation, raw, keys[:-1] if keys else [])
    own = _annotation_of(keys[-1], group) if keys else annotation
    if keys and ("unexpected" in kind or kind == "extra_forbidden"):
        owner = ".".join(path[:-1]) + (f" ({_name_of(group)})" if group and name else "")
        what = f"{owner} has no option {keys[-1]!r}" if owner else f"unknown key {keys[-1]!r}"
        return Problem(path, what, suggest(keys[-1], names_in(group)), "unknown")
    if missing is not None or kind.startswith("missing"):
        path = tuple(filter(None, (*path, missing)))
        return Problem(path, f"the option {'.'.join(path)!r} is missing", kind="missing")
    if isinstance(value, str) and option_groups(own):
        return Problem(
            path, f"{subject}: there is no {value!r}", suggest(value, option_groups(own))
        )
    if kind == "union_tag_not_found":
        return Problem(path, f"{subject} must say which: {{name: ...}}", _names(own))
    if kind == "union_tag_invalid":
        tag = str(value.get("name")) if isinstance(value, Mapping) else str(value)
        # Within a mapping of names to groups no annotation is known, but pydantic knows the tags.
        tags = option_groups(own) or re.findall(r"'([^']+)'", entry["ctx"]["expected_tags"])
        return Problem(path, f"{subject}: there is no {tag!r}", suggest(tag, tags))
    if kind == "value_error":
        text = str(entry["ctx"]["error"])
        # A group's text begins with the name of the option that is wrong.
        option = text.partition(" ")[0]
        if option in names_in(_group_at(annotation, raw, keys)):
            return Problem((*path, option), f"{subject}.{text}")
        return Problem(path, f"{subject} {text}")
    written = as_written(value)
    if kind == "literal_error":
        hint = closest(value, _literals(own)) if isinstance(value, str) else None
        return Problem(path, f"{subject} must be {entry['ctx']['expected']}, got {written}", hint)
    return Problem(path, f"{subject} must be {_expected(kind, entry, own)}, got {written}")


def as_written(value: Any) -> str:
    """A value as a recipe writes it, where Python writes it in another way.

    Example:
        >>> as_written(None), as_written(True), as_written("a")
        ('null', 'true', "'a'")
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value.isoformat() if isinstance(value, date) else repr(value)


def _annotation_of(name: str, group: type | None) -> Any:
    """The annotation of one option of a group, None where there is none."""
    return typing.get_type_hints(group, include_extras=True).get(name) if group else None


def _walk(raw: Any, loc: tuple[Any, ...], is_missing: bool) -> tuple[list[str], str, str | None]:
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
        elif is_missing and isinstance(raw, Mapping) and i == len(loc) - 1:
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


def constraints_in(metadata: Iterable[Any]) -> dict[str, Any]:
    """The constraints in the metadata of an `Annotated`: ge, le, gt, lt, min_length, max_length."""
    constraints: dict[str, Any] = {}
    for mark in metadata:
        for part in mark.metadata if isinstance(mark, FieldInfo) else [mark]:
            for name in ("ge", "le", "gt", "lt", "min_length", "max_length"):
                if (value := getattr(part, name, None)) is not None:
                    constraints[name] = value
    return constraints


def _bounds(annotation: Any) -> dict[str, Any]:
    """The numeric bounds anywhere in an annotation; only of use where there is one pair."""
    bounds: dict[str, Any] = {}
    for member in (annotation, *_members(annotation)):
        bounds |= constraints_in(getattr(member, "__metadata__", ()))
    return bounds


def _group_at(annotation: Any, raw: Any, keys: list[str]) -> type | None:
    """The option group that the keys lead to."""
    members = _dataclasses(annotation)
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
    texts: list[str] = []
    for member in (annotation, *_members(annotation)):
        if typing.get_origin(member) is typing.Literal:
            texts += [str(a) for a in typing.get_args(member)]
        if isinstance(member, type) and is_dataclass(member):
            for hint in typing.get_type_hints(member, include_extras=True).values():
                texts += _literals(hint)
    return texts
