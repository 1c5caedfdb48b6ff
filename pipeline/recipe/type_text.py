"""Types and defaults of options as a recipe's author reads and writes them.

>>> from pipeline.types import Count, Fraction
>>> type_text(Count), type_text(Fraction | None), type_text(tuple[str, ...])
('integer >= 1', 'number between 0 and 1 | null', 'list of text')
>>> yaml_text((1, None, "a"))
'[1, null, a]'
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import yaml

from pipeline.marks import InputFilesMark
from pipeline.models.base import Embedder, LanguageModel
from pipeline.recipe.problems import constraints_in, option_groups
from pipeline.types import increasing

_NAMES: Final = {
    int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null",
    Any: "any value", LanguageModel: "language model", Embedder: "embedder", dict: "mapping",
    list: "list", tuple: "list",
}  # fmt: skip


def type_text(annotation: Any) -> str:
    """An annotation in a recipe's words: 'integer >= 1', "'rows' | 'tokens'", 'language model'."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated(members[0], members[1:])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(member) for member in members))
    if origin is typing.Literal:
        return " | ".join(repr(m) if isinstance(m, str) else yaml_text(m) for m in members)
    if origin is tuple and not (len(members) == 2 and members[1] is Ellipsis):
        return f"[{', '.join(map(type_text, members))}]"
    if origin in (tuple, list):
        inner = type_text(members[0])
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_text(members[0])} to {type_text(members[1])}"
    if annotation in _NAMES:
        return _NAMES[annotation]
    if option_groups(annotation):
        return " | ".join(map(repr, option_groups(annotation)))
    return getattr(annotation, "__name__", str(annotation))


def _annotated(annotation: Any, metadata: tuple[Any, ...]) -> str:
    if InputFilesMark in metadata:
        return "path, list or glob"
    text = type_text(annotation)
    limits = constraints_in(metadata)
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        text += f" between {low} and {high}"
    else:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [f"{sign} {limits[name]}" for name, sign in signs.items() if name in limits]
        text += f" {' and '.join(bounds)}" if bounds else ""
    if limits.get("min_length"):
        text = f"non-empty {text}"
    # pydantic's AfterValidator holds the function that checks.
    if any(getattr(mark, "func", None) is increasing for mark in metadata):
        text += ", increasing"
    return text


def yaml_text(value: Any) -> str:
    """A value as it would stand in a recipe, on one line: '{name: kmeans}'."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    """Dataclasses as mappings with what differs from their defaults, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            f.name: _plain(getattr(value, f.name))
            for f in fields(value)
            if f.name == "name" or getattr(value, f.name) != f.default
        }
        # The name comes first, wherever the class has it.
        return {"name": changed.pop("name"), **changed} if "name" in changed else changed
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
