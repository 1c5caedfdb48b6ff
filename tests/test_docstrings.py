"""Docstrings document the parameters that there are: all of them, and no others.

Held against the text of the modules, which are not imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.recipe.docstrings import parse

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("schemas", "pipeline", "stages")
IMPLICIT: Final = {"self", "cls", "ctx"}
"""Parameters that are the same everywhere."""

MANY: Final = 3
"""From so many parameters on, a function documents them."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A function, method or class, and the parameters that its docstring may name."""

    place: str
    node: Function | ast.ClassDef
    names: set[str]

    @property
    def arguments(self) -> set[str]:
        """The names under `Args:` and `Attributes:`."""
        return set(parse(ast.get_docstring(self.node) or "").arguments)


def parameters(function: Function) -> set[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    return {a.arg for a in every}


def members(node: ast.ClassDef) -> set[str]:
    """Fields, properties and enumerated values, and what `__init__` takes and sets."""
    names: set[str] = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.AnnAssign | ast.Assign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            targets = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
            names |= {t.attr for t in targets if isinstance(t, ast.Attribute)}
        elif isinstance(statement, Function) and statement.name == "__init__":
            names |= parameters(statement)
        elif isinstance(statement, Function):
            names.add(statement.name)
    return names


def fields(node: ast.ClassDef) -> set[str]:
    """The fields of a dataclass or NamedTuple; none where a base class may document some."""
    marks = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
    inherits = any(ast.unparse(base) != "NamedTuple" for base in node.bases)
    if inherits or not re.search("dataclass|option_group|NamedTuple", marks):
        return set()
    declared = [
        s
        for s in node.body
        if isinstance(s, ast.AnnAssign) and "ClassVar" not in ast.unparse(s.annotation)
    ]
    names = {s.target.id for s in declared if isinstance(s.target, ast.Name)}
    return {name for name in names if name != "name" and not name.startswith("_")}


def documented(body: list[ast.stmt], place: str, private: bool) -> Iterator[Documented]:
    for node in body:
        if not isinstance(node, Function | ast.ClassDef):
            continue
        if node.name.startswith("_") and not private:
            continue
        here = f"{place}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            yield Documented(here, node, members(node))
            yield from documented(node.body, place, private)
        else:
            yield Documented(here, node, parameters(node))


def everything(private: bool = False) -> Iterator[Documented]:
    """All that is public; with `private` what begins with an underscore too."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            yield from documented(tree.body, str(path.relative_to(ROOT)), private)


def documented_elsewhere(node: Function) -> bool:
    """Verbs of the command line have `help=`, and `overload`s a function that documents all."""
    marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
    return bool(marks & {"verb", "overload"})


def test_nothing_is_documented_that_is_not_there() -> None:
    unknown = {item.place: item.arguments - item.names for item in everything(private=True)}
    assert {place: names for place, names in unknown.items() if names} == {}


def test_args_name_the_parameters_that_there_are() -> None:
    wrong = []
    for item in everything():
        arguments = item.arguments
        if not arguments:
            continue
        expected = fields(item.node) if isinstance(item.node, ast.ClassDef) else item.names
        missing = {name for name in expected - arguments if not name.startswith("_")}
        if missing - IMPLICIT:
            wrong.append(f"{item.place}: missing {missing - IMPLICIT}")
    assert not wrong, "\n".join(wrong)


def test_functions_of_several_parameters_document_them() -> None:
    silent = [
        item.place
        for item in everything()
        if isinstance(item.node, Function)
        and not documented_elsewhere(item.node)
        and sum(not name.startswith("_") for name in item.names - IMPLICIT) >= MANY
        and not item.arguments
    ]
    assert not silent, "\n".join(silent)
