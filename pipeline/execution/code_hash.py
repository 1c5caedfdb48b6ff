"""Code drift: a stage whose code changed while its version did not.

The version is what a person declares ("this computes something else now"); the
hash of the code is what really stands there. Where they disagree a person must
decide, so `plan` warns and `run` refuses. Comments, docstrings and layout do not
count; prompts have a part of their own in the fingerprint.

What counts: the stage's module, every module of `stages` and `schemas` that it
imports, directly or through others, whatever its name, and data files that these
modules name. Of a user's own stage also the modules of its package, or those beside
its file. Never `pipeline`: each commit to the engine would be drift.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.stage import ROOT, Stage

SAMPLE_ANSWER: Final = ".answer.jinja"
"""Samples of answers, by which requests are counted, change no result."""

OURS: Final = ("stages", "schemas")


def code_hash(stage: Stage) -> str:
    """32 hex digits over the code of a stage and the data files that it names."""
    state = hashlib.blake2b(digest_size=16)
    for path in _modules(stage):
        parsed = _parse(path.read_text("utf-8"))
        state.update(parsed.code.encode("utf-8"))
        for file in _data_files(path, parsed):
            state.update(file.name.encode("utf-8") + b"\0" + file.read_bytes())
    return state.hexdigest()


def prompts(stage: Stage) -> dict[str, Path]:
    """The prompt files of a stage and of the modules that it imports, by a stable name.

    Those of a module `family/method.py` are `family/prompts/method/**`, those of a stage
    that is a package `family/method/__init__.py` are `family/method/prompts/**`.
    """
    files: dict[str, Path] = {}
    for path in _modules(stage):
        folder = path.parent / "prompts" / path.stem
        if path == stage.file and path.name == "__init__.py":
            folder = path.parent / "prompts"
        root = _root(stage)
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            if file.name.endswith(SAMPLE_ANSWER):
                continue
            base = ROOT if file.is_relative_to(ROOT) else root
            files[file.relative_to(base).as_posix()] = file
    return files


class _Parsed(NamedTuple):
    """What counts of a module's text: its code, its imports (level, module, names), its texts."""

    code: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    texts: tuple[str, ...]


@cache
def _parse(text: str) -> _Parsed:
    """Parse a module; cached by its text, since a run asks for the same files many times."""
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append((node.level, node.module or "", names))
        elif isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A bare string is a docstring, wherever it stands.
            kept = [s for s in body if not (isinstance(s, ast.Expr) and _is_string(s.value))]
            node.body = kept  # type: ignore[attr-defined]
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and _is_string(n)]
    return _Parsed(ast.dump(tree), tuple(imports), tuple(str(text) for text in texts))


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _modules(stage: Stage) -> list[Path]:
    """The stage's file and all modules that count, in sorted order."""
    root = _root(stage)
    seen: set[Path] = set()
    pending = [stage.file.resolve()]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        imports = _parse(path.read_text("utf-8")).imports
        for dotted in _absolute(imports, _package_of(path, root)):
            pending += _files(dotted, root)
    return sorted(seen)


def _root(stage: Stage) -> Path:
    """The folder from which the stage's own module was imported."""
    file = stage.file.resolve()
    depth = stage.function.__module__.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


def _package_of(path: Path, root: Path) -> list[str]:
    base = ROOT if path.is_relative_to(ROOT) and not path.is_relative_to(root) else root
    return list(path.relative_to(base).parent.parts)


def _absolute(
    imports: Iterable[tuple[int, str, tuple[str, ...]]], package: list[str]
) -> Iterator[list[str]]:
    """The dotted names that may be modules, as lists of parts; relative ones resolved."""
    for level, module, names in imports:
        base = package[: len(package) - level + 1] if level else []
        parts = [*base, *(module.split(".") if module else [])]
        if parts:
            yield parts
        yield from ([*parts, name] for name in names if name != "*")


def _files(dotted: list[str], root: Path) -> list[Path]:
    """The module's file and the packages above it, if it is ours or the user's own."""
    if dotted[0] == "pipeline":
        return []
    base = ROOT if dotted[0] in OURS else root
    if base == root and base != ROOT and _is_installed(root / dotted[0], root):
        return []
    paths: list[Path] = []
    for depth in range(1, len(dotted) + 1):
        place = base.joinpath(*dotted[:depth])
        paths += [place / "__init__.py", place.with_suffix(".py")]
    return [path.resolve() for path in paths if path.is_file()]


def _is_installed(module: Path, root: Path) -> bool:
    """Whether a module of the user's lies among installed libraries, which are pinned elsewhere."""
    return (
        "site-packages" in root.parts
        or "dist-packages" in root.parts
        or not (module.is_dir() or module.with_suffix(".py").is_file())
    )


def _data_files(path: Path, parsed: _Parsed) -> list[Path]:
    """Files beside a module that one of its strings names: word lists, tables of numbers."""
    names = {text for text in parsed.texts if 0 < len(text) <= 200 and "\0" not in text}
    files = {path.parent / name for name in names if "." in name and not name.startswith("/")}
    return sorted(f for f in files if f.suffix not in ("", ".py") and f.is_file())
