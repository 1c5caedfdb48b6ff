"""Code drift: a stage whose code changed while its version did not.

The version is what a person declares ("this computes something else now"); the
hash of the code is what really stands there. Where they disagree a person must
decide, so `plan` warns and `run` refuses. Comments, docstrings and layout do not
count; prompts have a place of their own in the fingerprint.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.stage import ROOT, Stage

STAGES: Final = ROOT / "stages"


def code_hash(stage: Stage) -> str:
    """32 hex digits over the stage's file and the private modules that it builds on."""
    state = hashlib.blake2b(digest_size=16)
    for path in [stage.file, *_shared(stage.file)]:
        state.update(_read(path.read_text("utf-8")).code.encode("utf-8"))
    return state.hexdigest()


class _Read(NamedTuple):
    """What counts of a module's text, and the private modules under `stages` that it imports."""

    code: str
    shared: tuple[Path, ...]


@cache
def _read(text: str) -> _Read:
    """A module taken apart; once for a text, since a run asks for the same files many times."""
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    shared = tuple(_imported(nodes))
    for node in nodes:
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A bare text is a docstring, wherever it stands.
            kept = [s for s in body if not (isinstance(s, ast.Expr) and _is_text(s.value))]
            node.body = kept  # type: ignore[attr-defined]
    return _Read(ast.dump(tree), shared)


def _shared(path: Path) -> list[Path]:
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        for shared in _read(waiting.pop().read_text("utf-8")).shared:
            if shared not in found:
                found[shared] = None
                waiting.append(shared)
    return sorted(found)


def _imported(nodes: Iterable[ast.AST]) -> list[Path]:
    """Files of the private modules under `stages` (`_name.py`) that a module imports."""
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    private = [p[1:] for p in parts if p[0] == "stages" and p[-1].startswith("_")]
    paths = [STAGES.joinpath(*p).with_suffix(".py") for p in private]
    return [path for path in paths if path.is_file()]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
