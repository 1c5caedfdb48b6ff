"""The tree keeps its shape: imports point one way, pieces stay small, everything is annotated."""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "pipeline", "stages")
ENGINE_PACKAGES = ("store", "models", "recipe", "execution", "releases", "cli")
"""The packages of the engine; each imports only those before it."""

HEAVY = {
    "datasets", "peft", "sentence_transformers", "sklearn", "torch", "transformers", "trl", "vllm",
}  # fmt: skip
MACHINE = re.compile(
    r"(?<![\w.}])/(?:"
    + "|".join(("work", "root", "home"))
    + r")/\w|"
    + "artifact"
    + "ory|nexus"
    + r"\."
)
"""What only one machine knows: folders of its own, and package indexes beside the public one."""

ENGINE = (
    "pipeline/models/engines/transformers.py",
    "pipeline/models/local/attention.py",
    "pipeline/models/local/divergence.py",
    "pipeline/models/local/likelihood.py",
    "pipeline/models/local/sampling.py",
    "pipeline/models/local/shared_prefix.py",
)
"""An engine is itself imported only by need, and may import what it is about."""

PRIVATE = {
    "found", "told", "look", "looks", "made", "way", "ways", "given", "mine", "theirs", "twin",
    "twins", "slack", "blur", "apart", "able", "spoken", "voice", "alive", "asks", "wanted",
    "taken", "settle", "settled", "talk", "talks",
}  # fmt: skip
"""Words of ours that no reader brings along; the field has terms for what they meant."""

PHRASES = re.compile(
    r"\b(?:asked by|(?:is|are|was|were) told|(?:an?|the) (?:asks|told|look(?!-)|found)|mine|twins?"
    r"|slack|blur|tells? [^.]* apart)\b"
    r"|\w apart(?:[,.;:)]|\"|$)"
)
"""Turns of phrase of ours in comments, docstrings and messages: "its id apart" is "but its id"."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked() -> list[Path]:
    """All files that git knows, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def modules(*packages: str) -> list[Path]:
    return [
        path
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in packages
    ]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in nodes(path) if isinstance(node, Function))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module or ''}.{alias.name}" for alias in node.names]
    return []


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules(*PACKAGES):
        package, *inner = path.relative_to(ROOT).parts
        allowed = PACKAGES[: PACKAGES.index(package) + 1]
        for node in nodes(path):
            for name in imported(node):
                to, *rest = name.split(".")
                upwards = to in (*PACKAGES, "tests") and to not in allowed
                family = to == package == "stages" and not rest[0].startswith("_")
                across = family and rest[0] != inner[0]
                if upwards or across or (isinstance(node, ast.ImportFrom) and node.level):
                    wrong.append(f"{at(path, node)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_imports_of_the_engine_point_one_way() -> None:
    wrong = []
    for path in modules("pipeline"):
        package = path.relative_to(ROOT).parts[1]
        if package not in ENGINE_PACKAGES:
            continue
        later = ENGINE_PACKAGES[ENGINE_PACKAGES.index(package) + 1 :]
        for node in nodes(path):
            for name in imported(node):
                if any(name.startswith(f"pipeline.{other}.") for other in later):
                    wrong.append(f"{at(path, node)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = []
    for path in modules(*PACKAGES):
        waiting: list[ast.AST] = list(tree(path).body)
        while waiting:
            node = waiting.pop()
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
                continue
            matches = HEAVY & {name.split(".")[0] for name in imported(node)}
            wrong += [f"{at(path, node)} imports {name} with the module" for name in matches]
            waiting += ast.iter_child_nodes(node)
    assert not [reported for reported in wrong if not reported.startswith(ENGINE)], "\n".join(wrong)


def size(node: Function) -> int:
    """Lines of a function without its docstring, which may be as long as its readers need."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_pieces_are_small() -> None:
    sizes = {
        f"{at(path, node)} {node.name}": size(node)
        for path in modules(*PACKAGES)
        for node in functions(path)
    }
    long = {name: size for name, size in sizes.items() if size > 40}
    assert not [name for name, size in sizes.items() if size > 80], long
    assert len(long) <= 0.05 * len(sizes), long
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in modules(*PACKAGES)}
    assert not {str(path): length for path, length in lengths.items() if length > 400}


def test_everything_is_annotated() -> None:
    bare = []
    for path in modules(*PACKAGES):
        for node in functions(path):
            arguments = node.args
            every = [
                *arguments.posonlyargs,
                *arguments.args,
                *arguments.kwonlyargs,
                arguments.vararg,
                arguments.kwarg,
            ]
            open_ = [
                a.arg for a in every if a and not a.annotation and a.arg not in ("self", "cls")
            ]
            if open_ or node.returns is None:
                bare.append(f"{at(path, node)} {node.name}: {open_ or 'what it returns'}")
    assert not bare, "\n".join(bare)


def defined(node: ast.AST) -> list[str]:
    """The names that a node gives to something."""
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.alias) and node.asname:
        return [node.asname]
    return []


def test_names_are_those_of_the_field() -> None:
    wrong = [
        f"{at(path, node)} {name}"
        for path in modules(*PACKAGES, "tests")
        for node in nodes(path)
        for name in defined(node)
        if name.lower().strip("_") in PRIVATE
    ]
    assert not wrong, "\n".join(wrong)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a module's comments and strings, with their numbers."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                yield from enumerate(token.string.splitlines(), token.start[0])


def test_comments_and_messages_are_in_the_fields_words() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules(*PACKAGES)
        for number, line in texts(path)
        if PHRASES.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules(*PACKAGES, "tests")
        if path.read_text("utf-8").strip() and not ast.get_docstring(tree(path))
    ]
    assert not silent


def test_nothing_is_left_open() -> None:
    open_ends = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")))
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules(*PACKAGES, "tests")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if open_ends.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    wrong = []
    for path in tracked():
        if path.is_relative_to(ROOT / "data") and path.suffix not in (".md", ".py"):
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if MACHINE.search(line)
        ]
    assert not wrong, "\n".join(wrong)
