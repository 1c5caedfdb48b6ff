"""The documentation of stages, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from pipeline.cli.tables import table, width
from pipeline.recipe.docstrings import class_arguments, docstring_of
from pipeline.recipe.problems import option_groups
from pipeline.recipe.prompts import prompts_of
from pipeline.recipe.type_text import type_text, yaml_text
from pipeline.stage import ROOT, Edge, Stage

INDENT: Final = "  "

_REPLACE: Final = (
    "The wording is this project's own. `prompts: {NAME: FILE}` at the top of a recipe puts a "
    "template in the place of one, such as the authors' original; it may use its variables."
)

_SECTION: Final = re.compile(r"^Examples?::?\n((?:[ \t]+.*(?:\n|\Z)|\n)*)", re.MULTILINE)
_FENCED: Final = re.compile(r"^[ \t]*```\w*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


def stage_entry(stage: Stage) -> dict[str, Any]:
    """A stage's documentation as plain values.

    Each option has `type`, `default` (as YAML; None where it is required), `required` and
    `doc`; one that takes groups of options also has `methods`: by name, each group's `doc`
    and `options`. `example` is the YAML of the docstring's, empty where it has none. `prompts`
    are the names by which a recipe replaces them.
    """
    module = inspect.getmodule(stage.function)
    doc = docstring_of(stage.function)
    text, example = split_example(doc.text)
    about, of_module = split_example(docstring_of(module).text)
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
        "about": about,
        "doc": text,
        "example": example or of_module,
        "prompts": [prompt.name for prompt in prompts_of(stage)],
    }


def split_example(text: str) -> tuple[str, str]:
    """A docstring's text without its section of examples, and the YAML shown there.

    Doctests are for who calls the function and are left out.

    Args:
        text: The text of a docstring.

    Example:
        >>> split_example("Keep.\\n\\nExample::\\n\\n    kept:\\n      uses: select.random\\n")
        ('Keep.', 'kept:\\n  uses: select.random')
    """
    section = _SECTION.search(text)
    if section is None:
        return text, ""
    fenced = _FENCED.search(section[1])
    # Without fences all that comes before a doctest is the example.
    example = fenced[1] if fenced else section[1].partition(">>>")[0]
    rest = f"{text[: section.start()].rstrip()}\n\n{text[section.end() :].lstrip()}"
    return rest.strip(), textwrap.dedent(example.rstrip()).strip("\n")


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
    rows = [
        # What takes any kind of rows makes that kind; all of them would fill the line.
        [e["name"], e["scope"], "any kind" if " or " in e["makes"] else e["makes"], about(e)]
        for e in entries
    ]
    return table(["stage", "scope", "makes", "what it does"], rows)


def about(entry: Mapping[str, Any]) -> str:
    """The first line of what a stage does."""
    return str(entry["about"]).split("\n")[0]


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
    if entry["prompts"]:
        names = f"prompts, in our own words (--prompts prints them): {', '.join(entry['prompts'])}"
        lines += ["", *_wrapped(names, 0, hang=1)]
    if entry["example"]:
        whole = re.search("^stages:", entry["example"], re.MULTILINE)
        lines += ["", "example" if whole else "example, below `stages:` of a recipe", ""]
        lines += [textwrap.indent(entry["example"], "" if whole else INDENT)]
    return "\n".join(lines)


def prompt_entries(stage: Stage) -> list[dict[str, Any]]:
    """A stage's prompts as plain values: `stage`, `name`, `file`, `variables` and `text`."""
    return [
        {
            "stage": stage.name,
            "name": prompt.name,
            "file": prompt.key,
            "variables": sorted(prompt.variables),
            "text": prompt.text,
        }
        for prompt in prompts_of(stage)
    ]


def prompts_page(entries: Sequence[Mapping[str, Any]]) -> str:
    """Prompts for people.

    Args:
        entries: What `prompt_entries` returned, of one stage or of several.
    """
    if not entries:
        return "no prompts: nothing here asks a language model in words of its own"
    blocks = []
    for entry in entries:
        variables = ", ".join(entry["variables"]) or "none"
        head = [f"{entry['name']}  ({entry['stage']}, {entry['file']})"]
        head += _wrapped(f"variables: {variables}", 1, hang=2)
        blocks.append("\n".join([*head, "", textwrap.indent(entry["text"], INDENT * 2)]))
    return "\n".join([*blocks, "\n".join(_wrapped(_REPLACE, 0))])


_Shown = dict[str, list[tuple[str, Mapping[str, Any]]]]
"""What was shown already, by name: each form of it with the method that it belongs to."""


def _option_lines(
    options: Mapping[str, Any], depth: int, shown: _Shown | None = None
) -> Iterator[str]:
    for name, option in options.items():
        yield from _wrapped(f"{name}: {option['type']}  ({_default(option)})", depth, hang=2)
        yield from _wrapped(option["doc"], depth + 2)
        yield from _method_lines(option.get("methods", {}), depth + 1, shown or {})


def _method_lines(methods: Mapping[str, Any], depth: int, shown: _Shown) -> Iterator[str]:
    """The methods of an option; what one has in common with an earlier one is only named.

    Args:
        methods: The groups by name.
        depth: Of the indentation.
        shown: The groups that stand above, in other methods of the option around this one.
    """
    options: dict[str, tuple[str, Mapping[str, Any]]] = {}
    inner: _Shown = {}
    for method, group in methods.items():
        same = next((first for first, other in shown.get(method, []) if other == group), None)
        if same and group["options"]:
            yield from _wrapped(f"{method}: as in {same}", depth)
            continue
        about = " ".join(group["doc"].split("\n\n")[0].split())
        yield from _wrapped(f"{method}: {about}".rstrip(": "), depth, hang=2)
        common: dict[str, list[str]] = {}
        for name, option in group["options"].items():
            first, earlier = options.setdefault(name, (method, option))
            if first != method and _but_default(option) == _but_default(earlier):
                other = "" if option == earlier else f" ({_default(option)})"
                common.setdefault(first, []).append(f"{name}{other}")
                continue
            yield from _option_lines({name: option}, depth + 1, inner)
            for key, value in option.get("methods", {}).items():
                inner.setdefault(key, []).append((method, value))
        for first, names in common.items():
            yield from _wrapped(f"as in {first}: {', '.join(names)}", depth + 1, hang=2)


def _default(option: Mapping[str, Any]) -> str:
    return "required" if option["required"] else f"default {option['default']}"


def _but_default(option: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in option.items() if key not in ("default", "required")}


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
