"""Code drift: a stage whose code changed while its version did not.

The version is what a person declares ("this computes something else now"); the hash
of the code is what the files say. Where the two disagree a person must decide, so
`plan` warns and `run` refuses. Comments, docstrings and layout do not count. Prompts
are a part of the fingerprint of their own.

What counts: the stage's module, the modules of `stages` and `schemas` that it imports,
directly or through others, and the data files that these modules name. For a stage of
the user's also the modules of its package, or those beside its file. Never `pipeline`:
every commit to the engine would be drift. Imports are read from the source, those
inside functions included; modules that are imported by a computed name are not seen.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.stage import ROOT, Stage
from pipeline.store.file_hashes import file_digest

SAMPLE_ANSWER: Final = ".answer.jinja"
"""Ending of sample answers beside a prompt, by which requests are counted: no result needs them."""

SHARED_PACKAGES: Final = ("stages", "schemas")
"""Packages that are followed from any stage, also from one that lies elsewhere."""

MAX_FILE_NAME: Final = 200
"""Characters of the longest string that may be the name of a data file."""


def code_hash(stage: Stage) -> str:
    """32 hex digits that stand for the code of a stage and the data files that it names.

    It is computed once for each function: what counts is the code that this process has
    imported, also when a file is edited while it runs.
    """
    return _code_hash(stage.function)


def prompts(stage: Stage) -> dict[str, Path]:
    """The prompt files of a stage and of the modules that it imports, by a stable name.

    Those of a module `family/method.py` are `family/prompts/method/**`, those of a stage
    that is a package `family/method/__init__.py` are `family/method/prompts/**`, and those
    of any other package are the files in its `prompts/`, without subfolders.
    """
    return _prompts(stage, _modules(stage.function))


def used_prompts(stage: Stage) -> dict[str, Path]:
    """Those of its `prompts` that a stage may render.

    The others lie beside packages that are imported only because a module in them is.
    """
    return _prompts(stage, _modules(stage.function, packages=False))


def _prompts(stage: Stage, modules: Sequence[Path]) -> dict[str, Path]:
    origin = _origin(stage.function)
    files: dict[str, Path] = {}
    for path in modules:
        folder = path.parent / "prompts"
        if path.name != "__init__.py":
            entries = (folder / path.stem).rglob("*")
        else:
            entries = folder.rglob("*") if path == origin.file else folder.glob("*")
        for file in sorted(entry for entry in entries if entry.is_file()):
            if not file.name.endswith(SAMPLE_ANSWER):
                files[_stable_name(file, origin.root)] = file
    return files


def prompt_digests(stage: Stage) -> dict[str, str]:
    """sha256 of the prompts that a stage renders, by the same names.

    Where a recipe puts another in the place of one, it is that one's.
    """
    own = {name: file_digest(path) for name, path in prompts(stage).items()}
    return own | {replacement.name: replacement.digest for replacement in stage.prompts}


def own_files(stage: Stage) -> dict[str, Path]:
    """The files of a stage of the user's own, relative to the folder that it was imported from.

    Its modules with the data files and prompts beside them; those of the project are left out.
    """
    root = _origin(stage.function).root
    shared = [ROOT / name for name in SHARED_PACKAGES]
    paths = [*_modules(stage.function), *prompts(stage).values()]
    paths = [p for p in paths if not any(p.is_relative_to(folder) for folder in shared)]
    modules = [path for path in paths if path.suffix == ".py"]
    data = [f for path in modules for f in _data_files(path, _parse(path.read_bytes()).strings)]
    return {path.relative_to(root).as_posix(): path for path in (*paths, *data)}


class _Origin(NamedTuple):
    """Where a stage comes from.

    Attributes:
        file: Its file.
        root: The folder from which its module was imported, links resolved.
    """

    file: Path
    root: Path


class _Source(NamedTuple):
    """What counts of a module's text.

    Attributes:
        code: The syntax tree as bytes, without docstrings.
        imports: Level, module and names of every import statement.
        strings: All strings with a dot in them: what may be the name of a data file.
    """

    code: bytes
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    strings: frozenset[str]


@cache
def _code_hash(function: Callable[..., Any]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for path in _modules(function):
        source = _parse(path.read_bytes())
        state.update(source.code)
        for file in _data_files(path, source.strings):
            state.update(file.name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


@cache
def _origin(function: Callable[..., Any]) -> _Origin:
    file = Path(inspect.getfile(function)).absolute()
    depth = function.__module__.count(".") + (file.name == "__init__.py")
    folder = file.parents[depth]
    root = folder.resolve()
    return _Origin(root / file.relative_to(folder), root)


@cache
def _modules(function: Callable[..., Any], packages: bool = True) -> tuple[Path, ...]:
    """The files of all modules that count, in an order that no folder's name decides.

    Args:
        function: The stage's function.
        packages: Whether packages count that are executed only because a module in them is.
    """
    file, root = _origin(function)
    modules: set[Path] = set()
    # The packages above the stage are executed with it.
    pending = [file, *_files_of(function.__module__.split("."), root, packages)]
    while pending:
        path = pending.pop()
        if path not in modules:
            modules.add(path)
            imports = _parse(path.read_bytes()).imports
            pending += _imported_files(path, root, imports, packages)
    return tuple(sorted(modules, key=lambda path: _stable_name(path, root)))


def _stable_name(path: Path, root: Path) -> str:
    """The path relative to the repository, or to the user's own folder."""
    return path.relative_to(ROOT if path.is_relative_to(ROOT) else root).as_posix()


@cache
def _parse(text: bytes) -> _Source:
    """What counts of a module's text; cached, since many stages share their modules.

    One pass over the tree, half as long as `ast.walk` and `ast.dump`: a plan of 25
    stages parses a hundred modules.
    """
    try:
        pending: list[Any] = [ast.parse(text)]
    except (SyntaxError, ValueError):
        # Never executed by this process, or by this version of Python.
        return _Source(text, (), frozenset())
    code: list[str] = []
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    strings: set[str] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, ast.AST):
            code.append(type(node).__name__)
            pending += [getattr(node, name, None) for name in node._fields]
            if isinstance(node, ast.Import):
                imports += [(0, alias.name, ()) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = tuple(alias.name for alias in node.names)
                imports.append((node.level, node.module or "", names))
        elif isinstance(node, list):
            statements = [child for child in node if not _is_docstring(child)]
            code.append(str(len(statements)))
            pending += statements
        else:
            code.append(repr(node))
            if isinstance(node, str) and "." in node:
                strings.add(node)
    return _Source(" ".join(code).encode(), tuple(imports), frozenset(strings))


def _is_docstring(node: Any) -> bool:
    """Whether a node is a statement that is a string and nothing else."""
    return (
        type(node) is ast.Expr
        and type(node.value) is ast.Constant
        and isinstance(node.value.value, str)
    )


@cache
def _imported_files(
    path: Path, root: Path, imports: Sequence[tuple[int, str, tuple[str, ...]]], packages: bool
) -> tuple[Path, ...]:
    """The files of the modules that count of a module's imports.

    Args:
        path: The module that imports.
        root: The folder from which the stage was imported.
        imports: Its import statements.
        packages: Whether the packages above them are among them.
    """
    base = ROOT if path.is_relative_to(ROOT) and not path.is_relative_to(root) else root
    package = list(path.relative_to(base).parent.parts)
    files: dict[Path, None] = {}
    for level, module, names in imports:
        above = package[: len(package) - level + 1] if level else []
        parts = [*above, *(module.split(".") if module else [])]
        for dotted in [parts, *([*parts, name] for name in names if name != "*")]:
            files.update(dict.fromkeys(_files_of(dotted, root, packages)))
    return tuple(files)


def _files_of(dotted: Sequence[str], root: Path, packages: bool) -> Iterator[Path]:
    """The files of a dotted name that may be a module, if it counts, and of what is above it.

    Libraries do not count: their versions are pinned elsewhere.
    """
    if not dotted or dotted[0] == "pipeline":
        return
    base = ROOT if dotted[0] in SHARED_PACKAGES else root
    if base != ROOT and {"site-packages", "dist-packages"} & set(base.parts):
        return
    for depth in range(1 if packages else len(dotted), len(dotted) + 1):
        module = base.joinpath(*dotted[:depth])
        yield from filter(os.path.isfile, (module / "__init__.py", module.with_suffix(".py")))


def _data_files(path: Path, strings: frozenset[str]) -> list[Path]:
    """The files beside a module that its strings name: word lists, tables of numbers."""
    names = (name for name in strings if len(name) <= MAX_FILE_NAME and name[0] != "/")
    files = {path.parent / name for name in names if os.path.isfile(path.parent / name)}
    return sorted(file for file in files if file.suffix not in ("", ".py"))
