"""The documentation of stages, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from pipeline.cli.tables import table, width
from pipeline.recipe.docstrings import class_arguments, docstring_of
from pipeline.recipe.problems import option_groups
from pipeline.recipe.type_text import type_text, yaml_text
from pipeline.stage import ROOT, Edge, Stage

INDENT: Final = "  "


def stage_entry(stage: Stage) -> dict[str, Any]:
    """A stage's documentation as plain values.

    Each option has `type`, `default` (as YAML; None where it is required), `required` and
    `doc`; one that takes groups of options also has `methods`: by name, each group's `doc`
    and `options`.
    """
    module = inspect.getmodule(stage.function)
    doc = docstring_of(stage.function)
    makes = str(stage.makes or ("rows" if stage.annotates else "files"))
    if stage.makes_input_kind:
        makes = " or ".join(stage.edges[0].kinds)
    path = stage.file
    return {
        "name": stage.name,
        "version": stage.version,
        "scope": stage.scope,
        "makes": makes + (" and files" if stage.fills_files and makes != "files" else ""),
        "edges": {
            edge.name: {
                "kind": _kind_text(edge),
                "doc": doc.arguments.get(edge.parameter, ""),
            }
            for edge in stage.edges
        },
        "options": {
            o.name: _option(o.annotation, o.required, o.default, doc.arguments.get(o.name, ""))
            for o in stage.options
        },
        "source": str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name,
        "about": docstring_of(module).text,
        "doc": doc.text,
    }


def _kind_text(edge: Edge) -> str:
    several = " (several)" if edge.many else ""
    return " or ".join(edge.kinds) + several + (" (optional)" if edge.optional else "")


def _option(annotation: Any, required: bool, default: Any, doc: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": type_text(annotation),
        "default": None if required else yaml_text(default),
        "required": required,
        "doc": doc,
    }
    groups = option_groups(annotation)
    if groups:
        entry["methods"] = {name: _group(group) for name, group in groups.items()}
    return entry


def _group(group: type) -> dict[str, Any]:
    """A group's documentation and options; its `name` is what chooses it."""
    docs = class_arguments(group)
    hints = typing.get_type_hints(group, include_extras=True)
    options: list[Field[Any]] = [f for f in fields(group) if f.name != "name"]
    return {
        "doc": docstring_of(group).text,
        "options": {
            f.name: _option(hints[f.name], f.default is MISSING, f.default, docs.get(f.name, ""))
            for f in options
        },
    }


def stage_list(entries: Sequence[Mapping[str, Any]]) -> str:
    """One row a stage."""
    rows = [[e["name"], e["scope"], e["makes"], e["about"].split("\n")[0]] for e in entries]
    return table(["stage", "scope", "makes", "what it does"], rows)


def stage_page(entry: Mapping[str, Any]) -> str:
    """All about one stage, for people."""
    head = f"{entry['name']}  version {entry['version']}, {entry['scope']} scope, {entry['source']}"
    lines = [head, "", entry["about"], "", entry["doc"]]
    if entry["edges"]:
        lines += ["", "inputs"]
        for name, edge in entry["edges"].items():
            lines += [f"{INDENT}{name}: {edge['kind']}", *_wrapped(edge["doc"], 3)]
    if entry["options"]:
        lines += ["", "options", *_option_lines(entry["options"], 1)]
    return "\n".join(lines)


def _option_lines(options: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, option in options.items():
        default = "required" if option["required"] else f"default {option['default']}"
        yield from _wrapped(f"{name}: {option['type']}  ({default})", depth, hang=2)
        yield from _wrapped(option["doc"], depth + 2)
        for method, group in option.get("methods", {}).items():
            about = " ".join(group["doc"].split("\n\n")[0].split())
            yield from _wrapped(f"{method}: {about}".rstrip(": "), depth + 1, hang=2)
            yield from _option_lines(group["options"], depth + 2)


def _wrapped(text: str, depth: int, hang: int = 0) -> list[str]:
    """Paragraphs as lines as wide as the terminal, further lines `hang` deeper."""
    return [
        line
        for paragraph in text.split("\n\n")
        for line in textwrap.wrap(
            paragraph,
            width(),
            initial_indent=INDENT * depth,
            subsequent_indent=INDENT * (depth + hang),
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
