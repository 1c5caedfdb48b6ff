"""Seeded mutations of recipes and of command lines: what slips of hands and programs give."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any, Final

import yaml

VALUES: Final = (
    "2024-13-45", "2024-01-01", "!!int abc", "9" * 5000, "-" + "9" * 30, "0x" + "f" * 5000,
    "1e999", ".nan", "-.inf", "-1", "0", "1e-400", "1:1:1", "!!float x", "!!bool maybe",
    "!!binary aGVsbG8=", "!!binary '%'", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]",
    "!!python/object:os.system x", "!foo bar", "!foo [1]", '"\\0"', '"\\ud800"', '"\\e[31m"',
    "x" * 5000, "/" * 5000, "a/" * 2500, "a." * 2500 + "b", "é" * 300, "~", "[]", "{}", '""', "' '",
    "*nowhere", "&a [*a]", "[" * 100 + "]" * 100, "[" * 20000, "true", "=", "<<", "{<<: 3}",
    "/dev/null", "/proc/self/mem", "..", ".", "/", "**", "a**b", "{name: x}",
    "[1, [2]]", "[null]", "{1: 2}", "{~: 2}", "{true: x}", "{a: 1, a: 2}", "[a, a]", "{name: [1]}",
    "{name: {a: 1}}", "0.5", "1.0", "100000000", "'{{ x }}'", "'{% for %}'", "-", "?", "|", "> x",
    "1", "2", "0.75", "b", "[b]", "size", "length", "{length: b}", "a", "kind", "false", "{}",
    "load.records", "json.tool", "os.path.join", "pipeline.stage", "stages", "load", "load._x",
)  # fmt: skip
"""Values as a recipe writes them, that hardly any key can have."""

JUNK: Final = (
    "\t", "\x00", "\x07", "\ufeff", "\u2028", "'", '"', "{", "}", "[", "]", ":", "- ", "&", "*",
    "!", "%", "@", "`", "#", "\n", "\n\n  ", ",", "---\n", "...\n", "\U0001f600",
)  # fmt: skip


def mutated_recipe(text: str, random_state: random.Random) -> str:
    """A recipe with one to three mutations of its text or of its values.

    Args:
        text: The recipe.
        random_state: Decides which.
    """
    for _ in range(random_state.choice((1, 1, 2, 3))):
        text = random_state.choice((_with_value, _with_value, _with_tree, _with_text))(
            text, random_state
        )
    return text


def _with_value(text: str, random_state: random.Random) -> str:
    """One value replaced by a strange one, wherever the recipe has it."""
    try:
        spans = [
            (node.start_mark.index, node.end_mark.index)
            for node in _nodes(yaml.compose(text, yaml.SafeLoader))
        ]
    except (yaml.YAMLError, RecursionError):
        return _with_text(text, random_state)
    start, end = random_state.choice(spans or [(0, 0)])
    return text[:start] + random_state.choice(VALUES) + " " + text[end:]


def _nodes(node: Any) -> list[Any]:
    """All nodes of a tree; of an alias none."""
    result, waiting = {}, [node] if node is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in result:
            continue
        result[id(node)] = node
        children = node.value if isinstance(node.value, list) else []
        waiting += [
            n for child in children for n in (child if isinstance(child, tuple) else [child])
        ]
    return list(result.values())


def _with_tree(text: str, random_state: random.Random) -> str:
    """A key removed, renamed, moved or given to another mapping."""
    try:
        content = yaml.safe_load(text)
    except Exception:  # whatever PyYAML raises for what a mutation before this one made
        return _with_text(text, random_state)
    mappings: list[dict[Any, Any]] = []

    def walk(value: Any, depth: int = 0) -> None:
        if depth > 30:
            return
        if isinstance(value, dict):
            mappings.extend([value] if value else [])
            value = list(value.values())
        for child in value if isinstance(value, list) else ():
            walk(child, depth + 1)

    walk(content)
    if not mappings:
        return _with_text(text, random_state)
    mapping = random_state.choice(mappings)
    key = random_state.choice(list(mapping))
    other = random_state.choice(mappings)
    value = copy.deepcopy(mapping[key])
    action = random_state.randrange(5)
    if action == 0:
        del mapping[key]
    elif action == 1:
        mapping[str(key)[:-1] or "x"] = mapping.pop(key)
    elif action == 2:
        mapping[key] = [value, value]
    elif action == 3:
        mapping[key] = {"name": value}
    else:
        other[key] = value
    try:
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, RecursionError, ValueError):
        return _with_text(text, random_state)


def _with_text(text: str, random_state: random.Random) -> str:
    """Characters removed, doubled or added, anywhere."""
    start = random_state.randrange(len(text) + 1)
    end = min(len(text), start + random_state.choice((1, 1, 5, 40, 400)))
    middle = random_state.choice(
        ("", text[start:end] * 2, random_state.choice(JUNK) + text[start:end])
    )
    return text[:start] + middle + text[end:]


def mutated_call(
    call: Sequence[str], words: Sequence[str], random_state: random.Random
) -> list[str]:
    """A command line with one to three of its words replaced, removed, doubled, moved or added.

    Args:
        call: The words of a right command line.
        words: What is put in: options, verbs, names, odd paths.
        random_state: Decides which.
    """
    result = list(call)
    for _ in range(random_state.choice((1, 1, 2, 3))):
        place = random_state.randrange(len(result) + 1)
        action = random_state.randrange(8)
        if action < 4:
            result[place : place + 1] = [random_state.choice(words)]
        elif action == 4:
            del result[place : place + 1]
        elif action == 5:
            result[place:place] = result[place : place + 1]
        elif action == 6 and result:
            result.insert(place, result.pop(random_state.randrange(len(result))))
        else:
            result.insert(place, random_state.choice(words))
    return result
