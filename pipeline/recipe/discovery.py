"""Finding stages by name and reading their signatures.

`score.loss` is the function marked with `@stage` in `stages/score/loss.py`, or in
`stages/score/loss/__init__.py` where a stage has a package of its own. Any other
name is the dotted path of a user's module or function. Nothing is registered by
hand, and a module that cannot be imported hides no other.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError, program
from pipeline.hints import closest
from pipeline.marks import InPartsMark
from pipeline.stage import (
    ROOT,
    DataKind,
    Edge,
    Option,
    Stage,
    python_name,
    recipe_name,
)

FAMILIES: Final = ROOT / "stages"
_MARK: Final = re.compile(r"^@(?:\w+\.)*stage\(", re.MULTILINE)


def find(name: str) -> Stage:
    """The stage of this name: `family.method` of ours, or the dotted path of a user's own.

    Raises:
        UserError: There is no such stage (with the closest names), its module cannot be
            imported, or its signature breaks the contract.
    """
    for module_name, attribute in _candidates(name):
        module = _import(module_name)
        if module is None:
            continue
        if attribute is None:
            marked = [f for f in vars(module).values() if hasattr(f, "__stage__")]
            own = [f for f in marked if f.__module__ == module.__name__]
            if len(own) == 1:
                return describe(name, own[0])
            if len(own) > 1:
                names = ", ".join(f"{name}.{f.__name__}" for f in own)
                raise UserError(f"{name} holds {len(own)} stages", hint=f"name one: {names}")
        elif hasattr(getattr(module, attribute, None), "__stage__"):
            return describe(name, getattr(module, attribute))
    raise UserError(f"there is no stage {name!r}", hint=_suggestion(name))


def _candidates(name: str) -> list[tuple[str, str | None]]:
    """Modules in which a stage of this name may be, with the function's name if it says one."""
    family, dot, method = name.rpartition(".")
    ours = f"stages.{family}{dot}{python_name(method)}"
    candidates: list[tuple[str, str | None]] = [(ours, None), (name, None)]
    if "." in name:
        module, _, attribute = name.rpartition(".")
        candidates.append((module, attribute))
    return candidates


def _import(name: str) -> types.ModuleType | None:
    """The module of this name, None when there is none; UserError when it is there but broken."""
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    try:
        return importlib.import_module(name) if importlib.util.find_spec(name) else None
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            return None
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else None
        raise UserError(
            f"the module {name} cannot be imported",
            where=where or f"{frame.filename}:{frame.lineno}",
            why=f"{type(error).__name__}: {error}",
        ) from error


def _suggestion(name: str) -> str:
    listing = f"{program()} stages lists them all; a stage of your own is its dotted path"
    return closest(name, available()) or listing


def available(folder: Path = FAMILIES) -> list[str]:
    """The names of all stages under a folder of families, without importing any of them.

    A module is a stage if it holds a function under `@stage(...)`; helpers and rooms
    whose names begin with an underscore are not looked into.
    """
    return sorted(
        f"{family.name}.{recipe_name(module.stem)}"
        for family in _public(folder)
        if family.is_dir()
        for module in _public(family)
        if _MARK.search(_text(module))
    )


def _public(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.stem.isidentifier() and not p.stem.startswith("_")]


def _text(module: Path) -> str:
    """The text of a module or of a package's `__init__.py`; empty for anything else."""
    file = module / "__init__.py" if module.is_dir() else module
    if file.suffix != ".py" or not file.is_file():
        return ""
    return file.read_text("utf-8", errors="replace")


def describe(name: str, function: Callable[..., Any]) -> Stage:
    """Read a marked function's signature into a `Stage`.

    Raises:
        UserError: The signature breaks the contract at the head of `pipeline/stage.py`.
    """
    try:
        return _described(name, function)
    except _SignatureError as error:
        code = inspect.unwrap(function).__code__
        raise UserError(
            f"the stage {name} has a signature that the engine cannot read",
            where=f"{code.co_filename}:{code.co_firstlineno}",
            why=str(error),
            hint=f"fix {function.__name__}(); the contract heads pipeline/stage.py",
        ) from None


class _SignatureError(Exception):
    """What is wrong with a stage's signature."""


@functools.cache
def _described(name: str, function: Callable[..., Any]) -> Stage:
    mark = function.__stage__  # type: ignore[attr-defined]
    hints = _hints(function)
    makes, *other_kinds = _kinds(hints["return"]) or (None,)
    if makes is None and hints["return"] not in (pl.DataFrame, type(None)):
        raise _SignatureError(
            "the return annotation must be pl.DataFrame (added columns), Records, Documents "
            f"or Items (rows of its own) or None (files), got {hints['return']!r}"
        )
    if mark.scope == "row" and makes:
        raise _SignatureError("a stage that makes rows of its own must have scope='set'")
    edges: list[Edge] = []
    options: list[Option] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise _SignatureError(f"*args and **kwargs are not allowed, got {parameter}")
        if parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            options.append(Option(parameter.name, hints[parameter.name], default, required))
        else:
            edges.append(_edge(parameter.name, hints[parameter.name]))
    if not edges and not makes and hints["return"] is pl.DataFrame:
        raise _SignatureError("added columns need an input: there is no edge before the star")
    return Stage(
        name=name,
        function=function,
        version=mark.version,
        scope=mark.scope,
        makes=makes,
        makes_input_kind=bool(other_kinds),
        gives_rows=hints["return"] is not type(None),
        edges=tuple(edges),
        options=tuple(options),
        fills_files=mark.files or hints["return"] is type(None),
        check=mark.check,
        later=mark.later,
        _reads=mark.reads,
        _adds=mark.adds,
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations: one for every parameter and for what it returns."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise _SignatureError(f"an annotation cannot be resolved: {error}") from None
    names = list(inspect.signature(function).parameters)
    if not names:
        raise _SignatureError("the first parameter must be ctx: Context, got none")
    for name in [*names[1:], "return"]:
        if name not in hints:
            what = "its return value" if name == "return" else f"the parameter {name!r}"
            raise _SignatureError(f"{what} has no annotation")
    return hints


def _kinds(annotation: Any) -> tuple[DataKind, ...]:
    """The kinds of rows or files that an annotation names, alone, in a union or in a list."""
    return tuple(mark for mark in _marks(annotation) if isinstance(mark, DataKind))


def _marks(annotation: Any) -> tuple[Any, ...]:
    """The marks of an annotation, alone, in a union or in a list."""
    marks: tuple[Any, ...] | None = getattr(annotation, "__metadata__", None)
    if marks is None:
        return tuple(mark for member in typing.get_args(annotation) for mark in _marks(member))
    return marks


def _edge(name: str, annotation: Any) -> Edge:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else (annotation,)
    named = any(typing.get_origin(member) is dict for member in members)
    many = named or any(typing.get_origin(member) is list for member in members)
    kinds = _kinds(annotation)
    if not kinds:
        raise _SignatureError(
            f"the edge {name!r} must be Records, Documents, Items or Files, got {annotation!r}; "
            "options stand after the star"
        )
    optional = is_union and type(None) in members
    marks = _marks(annotation)
    return Edge(
        recipe_name(name), kinds, many=many, optional=optional, named=named,
        in_parts=InPartsMark in marks,
    )  # fmt: skip
