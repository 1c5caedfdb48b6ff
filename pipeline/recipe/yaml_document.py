"""YAML with line numbers and without surprises: a key that stands twice is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipeline.errors import UserError

Place = tuple[str, ...]


@dataclass
class RecipeDocument:
    """The content of a file, the line on which each key stands, and the keys that stand twice."""

    content: dict[str, Any]
    lines: Mapping[Place, int]
    file: str
    doubled: list[UserError] = field(default_factory=list)

    def where(self, place: Place) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.file}:{self.lines[place]}" if place in self.lines else self.file


def parse(text: str, file: str) -> RecipeDocument:
    """Read a document whose top level is a mapping.

    Raises UserError with the line for broken YAML.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        lines: dict[Place, int] = {}
        doubled: list[UserError] = []
        content = _convert(loader, root, (), file, lines, doubled) if root else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else file
        raise UserError("this is no valid YAML", where=place, why=_problem(error)) from None
    except RecursionError:
        raise UserError("the document contains itself", where=file) from None
    if not isinstance(content, dict):
        raise UserError("a recipe is a mapping with the keys name, models and stages", where=file)
    return RecipeDocument(content, lines, file, doubled)


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)


def _convert(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    place: Place,
    file: str,
    lines: dict[Place, int],
    doubled: list[UserError],
) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a name", problem_mark=node.start_mark)
            key = loader.construct_object(key_node, deep=True)
            below = (*place, str(key))
            line = key_node.start_mark.line + 1
            if key in result:
                doubled.append(UserError(f"the key {key!r} stands twice", where=f"{file}:{line}"))
            lines[below] = line
            result[key] = _convert(loader, value_node, below, file, lines, doubled)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_convert(loader, child, place, file, lines, doubled) for child in node.value]
    return loader.construct_object(node, deep=True)


def set_value(document: RecipeDocument, override: str) -> None:
    """Apply `stages.chosen.with.budget=500`; the value is read as YAML.

    Raises UserError when the path does not lead into the document.
    """
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not parents:
        raise UserError(
            f"--set {override!r} is not of the form path=value",
            hint="--set stages.chosen.with.budget=500",
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {path}: {text!r} is no valid YAML", why=_problem(error)) from None
    target: Any = document.content
    for i, part in enumerate(parents):
        if part in ("with", "budget") and isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        if not isinstance(target, dict) or not isinstance(target.get(part), dict):
            reached = ".".join(parents[: i + 1])
            known = ", ".join(map(str, target)) if isinstance(target, dict) else "nothing"
            raise UserError(f"--set: the recipe has no {reached!r}", hint=f"there it has: {known}")
        target = target[part]
    target[last] = value
