"""YAML with the location of every key, strict where YAML is lenient.

A key that stands twice is an error, and so is a value that is not what its tag or form
says (`2024-13-45`), that has a tag of another language's objects, or that no stage could
take (an integer of 5,000 digits). Merge keys (`<<: *base`) work as everywhere: a key of the
mapping itself wins over a merged one, an earlier source over a later one. A document that
contains itself, is absurdly long or deep, or expands without bound by its aliases is
refused, at once and in little memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from pipeline.errors import UserError
from pipeline.hints import suggest

KeyPath = tuple[str, ...]
"""The keys that lead to a value: ("stages", "sample", "with", "budget")."""

MAX_DEPTH: Final = 50
MAX_CHARACTERS: Final = 256 * 1024
"""The longest recipe; PyYAML reads about 100,000 characters in a second."""
MAX_VALUES: Final = 100_000
"""Values and keys after aliases and merge keys are expanded: a few lines of aliases of
aliases make billions."""

MERGE: Final = "tag:yaml.org,2002:merge"
CHANGEABLE: Final = ("models", "stages", "prices", "budget", "publish", "refresh", "prompts")
"""What `--set` and a profile may change."""

_YAML: Final = "tag:yaml.org,2002:"
_SCALARS: Final = {
    "timestamp": "a date", "int": "an integer", "float": "a number",
    "bool": "true or false", "null": "null", "str": "a text of valid Unicode",
}  # fmt: skip
"""What a scalar of each tag must be; other tags are not those of a recipe."""


@dataclass
class RecipeDocument:
    """The content of a recipe and the location of each of its keys.

    Args:
        content: The mapping at the top level.
        locations: `file:line` by key path, or the `--set` that a key comes from.
        file: The file's name, for mistakes without a line.
        problems: Mistakes that did not stop the reading, such as a key that stands twice.
    """

    content: dict[str, Any]
    locations: dict[KeyPath, str]
    file: str
    problems: list[UserError] = field(default_factory=list)

    def where(self, key_path: KeyPath) -> str:
        """The location of a key, or of the nearest key above it."""
        while key_path and key_path not in self.locations:
            key_path = key_path[:-1]
        return self.locations.get(key_path, self.file)

    def copy(self) -> RecipeDocument:
        """A document that can be changed without changing this one."""
        return RecipeDocument(copy.deepcopy(self.content), dict(self.locations), self.file)

    def put(self, path: str, value: Any, where: str, below: Mapping[KeyPath, str]) -> None:
        """Replace the value at a dotted path; a stage or model set to null is removed.

        A new stage comes after the last one that it needs, so that the order of the steps
        is that of a recipe which has it there.

        Args:
            path: For example "stages.chosen.with.budget".
            value: The new value.
            where: Its location, for mistakes in it.
            below: Locations of the keys inside it, by their paths from it on.

        Raises:
            UserError: The path does not lead into the document.
        """
        *parents, last = keys = path.split(".")
        if not parents or not all(keys):
            hint = "a path such as stages.chosen.with.budget or budget.requests"
            raise UserError(f"{path!r} must be a path into the recipe", where=where, hint=hint)
        target = self._mapping_at(parents, where)
        inner = len(keys) == 2 and keys[0] in ("stages", "models")
        if inner and value is None:
            if last not in target:
                what = f"the recipe has no {path!r} to remove"
                raise UserError(what, where=where, hint=suggest(last, target))
            del target[last]
        elif inner and keys[0] == "stages" and last not in target:
            _insert_stage(target, last, copy.deepcopy(value))
        else:
            target[last] = copy.deepcopy(value)
        self._relocate(tuple(keys), where, below)

    def _mapping_at(self, keys: list[str], where: str) -> dict[str, Any]:
        """The mapping that the keys lead to; sections that the recipe leaves out are added."""
        if keys[0] not in CHANGEABLE:
            what = f"{keys[0]!r} cannot be set"
            raise UserError(what, where=where, hint=suggest(keys[0], CHANGEABLE))
        target: Any = self.content
        for i, key in enumerate(keys):
            raw = target.get(key)
            inside_options = i > 2 and keys[2] == "with"
            if inside_options and isinstance(raw, str):
                target[key] = {"name": raw}  # `method: kmeans` is short for {name: kmeans}
            elif raw is None and _may_be_left_out(keys[: i + 1]):
                target[key] = {}
            if not isinstance(target.get(key), dict):
                what = f"the recipe has no mapping {'.'.join(keys[: i + 1])!r}"
                raise UserError(what, where=where, hint=suggest(key, target))
            target = target[key]
        return target  # type: ignore[no-any-return]

    def _relocate(self, key_path: KeyPath, where: str, below: Mapping[KeyPath, str]) -> None:
        size = len(key_path)
        for known in [known for known in self.locations if known[:size] == key_path]:
            del self.locations[known]
        self.locations[key_path] = where
        self.locations.update({(*key_path, *inner): line for inner, line in below.items()})


def _may_be_left_out(keys: list[str]) -> bool:
    """Whether the mapping at these keys may be absent from a recipe."""
    if len(keys) == 1:
        return keys[0] != "stages"
    if keys[0] == "publish":
        return keys[1:] == ["gate"]
    return keys[0] == "stages" and len(keys) > 2 and keys[2] in ("with", "as", "budget")


def _insert_stage(stages: dict[str, Any], name: str, raw: Any) -> None:
    needs = raw.get("needs") if isinstance(raw, dict) else None
    values = list(needs.values()) if isinstance(needs, dict) else [needs]
    needed = {str(n) for value in values for n in (value if isinstance(value, list) else [value])}
    items = list(stages.items())
    ranks = [rank for rank, (other, _) in enumerate(items, 1) if str(other) in needed]
    items.insert(max(ranks, default=len(items)), (name, raw))
    stages.clear()
    stages.update(items)


def parse(text: str, file: str) -> RecipeDocument:
    """Read a document whose top level is a mapping.

    Args:
        text: The YAML.
        file: Its name, for locations.

    Raises:
        UserError: The text is not valid YAML (with the line), or no mapping.
    """
    reader = _Reader(text, lambda line: f"{file}:{line}")
    content = reader.read(file)
    if not isinstance(content, dict):
        what = f"a recipe must be a mapping with the keys name, models and stages, got {content!r}"
        raise UserError(what, where=file)
    return RecipeDocument(content, reader.locations, file, list(reader.problems.values()))


def apply_override(document: RecipeDocument, override: str) -> None:
    """Apply `stages.chosen.with.budget=500`; the value is read as YAML.

    Args:
        document: The document to change.
        override: The text after `--set`.

    Raises:
        UserError: The value is not valid YAML, or the path does not lead into the document.
    """
    path, equals, text = override.partition("=")
    if not equals:
        hint = "--set stages.chosen.with.budget=500"
        raise UserError(f"--set must be of the form PATH=VALUE, got {override!r}", hint=hint)
    where = f"--set {path}"
    reader = _Reader(text, lambda _: where)
    value = reader.read(where)
    for problem in reader.problems.values():
        raise problem
    document.put(path, value, where, reader.locations)


class _Reader:
    """Converts YAML nodes to plain values and keeps the location of every key.

    Args:
        text: The YAML.
        locate: From a line number to the text of a location.
    """

    def __init__(self, text: str, locate: Callable[[int], str]) -> None:
        self.text, self.locate = text, locate
        self.locations: dict[KeyPath, str] = {}
        self.problems: dict[str, UserError] = {}
        self._open: list[int] = []
        self._count = 0

    def read(self, where: str) -> Any:
        """The value of the text, None where it is empty; `where` is for errors without a line."""
        if len(self.text) > MAX_CHARACTERS:
            what = f"the text must have at most {MAX_CHARACTERS:,} characters"
            raise UserError(f"{what}, got more", where=where)
        try:
            self._loader = yaml.SafeLoader(self.text)
            root = self._loader.get_single_node()
            return None if root is None else self._value(root, ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = self.locate(mark.line + 1) if mark else where
            why = str(getattr(error, "problem", None) or error)
            raise UserError("the text is not valid YAML", where=place, why=why) from None
        except RecursionError:
            what = f"values must be nested at most {MAX_DEPTH} deep"
            raise UserError(what, where=where) from None

    def _value(self, node: yaml.Node, key_path: KeyPath) -> Any:
        with self._opened(node):
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node)
            kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
            if node.tag != _YAML + kind:
                self._unknown_tag(node)
            if isinstance(node, yaml.MappingNode):
                result: dict[Any, Any] = {}
                for key, key_node, value_node in self._pairs(node):
                    below = (*key_path, str(key))
                    self.locations[below] = self._where(key_node)
                    result[key] = self._value(value_node, below)
                return result
            return [self._value(child, key_path) for child in node.value]

    @contextmanager
    def _opened(self, node: yaml.Node) -> Iterator[None]:
        """Guards the conversion of a node against cycles, depth and expansion."""
        self._count_value(node)
        if id(node) in self._open:
            raise UserError("the document contains itself", where=self._where(node))
        if len(self._open) >= MAX_DEPTH:
            what = f"values must be nested at most {MAX_DEPTH} deep"
            raise UserError(what, where=self._where(node))
        self._open.append(id(node))
        try:
            yield
        finally:
            self._open.pop()

    def _count_value(self, node: yaml.Node) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            what = f"a document must have at most {MAX_VALUES:,} values, its aliases expanded"
            raise UserError(what, where=self._where(node))

    def _pairs(self, node: yaml.MappingNode) -> list[tuple[Any, yaml.Node, yaml.Node]]:
        """Keys with their nodes and those of their values: merged ones first, then its own."""
        own: dict[Any, tuple[Any, yaml.Node, yaml.Node]] = {}
        merge: yaml.Node | None = None
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a name, got a list or a mapping",
                    problem_mark=key_node.start_mark,
                )
            is_merge = key_node.tag == MERGE
            key = "<<" if is_merge else self._scalar(key_node)
            if key in own or (is_merge and merge is not None):
                self._problem(f"duplicate key {key!r}", key_node)
            if is_merge:
                merge = value_node
            else:
                own[key] = (key, key_node, value_node)
        merged: dict[Any, tuple[Any, yaml.Node, yaml.Node]] = {}
        for source in self._sources(merge):
            with self._opened(source):
                for pair in self._pairs(source):
                    self._count_value(source)
                    if pair[0] not in own:
                        merged.setdefault(pair[0], pair)
        return [*merged.values(), *own.values()]

    def _sources(self, merge: yaml.Node | None) -> list[yaml.MappingNode]:
        """The mappings that `<<` names: one, or a list of them."""
        nodes = merge.value if isinstance(merge, yaml.SequenceNode) else [merge] if merge else []
        for node in nodes:
            if not isinstance(node, yaml.MappingNode):
                self._problem("'<<' must be a mapping or a list of mappings", node)
        return [node for node in nodes if isinstance(node, yaml.MappingNode)]

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_YAML)
        if kind not in _SCALARS:
            self._unknown_tag(node)
            return str(node.value)
        try:
            value = self._loader.construct_object(node, deep=True)
            if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise OverflowError
            if isinstance(value, str):
                value.encode()
            return value
        except (ValueError, KeyError, AttributeError, IndexError, OverflowError):
            # PyYAML checks only the form of dates, and nothing of what a tag says.
            self._loader.recursive_objects.pop(node, None)
            large = kind == "int" and any(map(str.isdigit, node.value))
            expected = _SCALARS[kind] + " of at most 64 bits" * large
            what = f"the value must be {expected}, got {_shortened(node.value)}"
            hint = None if kind == "str" else "put it in quotes if it is a text"
            self._problem(what, node, hint)
            return ascii(node.value)[1:-1]

    def _unknown_tag(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value == "=":
            self._problem("the value must be more than a sign, got '='", node, "put it in quotes")
            return
        tag = node.tag.replace(_YAML, "!!")
        what = f"a recipe has texts, numbers, dates, lists and mappings, got the tag {tag[:80]!r}"
        self._problem(what, node, "leave the tag out")

    def _problem(self, what: str, node: yaml.Node, hint: str | None = None) -> None:
        problem = UserError(what, where=self._where(node), hint=hint)
        self.problems.setdefault(str(problem), problem)  # once, however many aliases there are

    def _where(self, node: yaml.Node) -> str:
        return self.locate(node.start_mark.line + 1)


def _shortened(text: str) -> str:
    return ascii(text[:80]) if not text.isprintable() else repr(text[:80])
