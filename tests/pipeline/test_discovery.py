"""Stages are found by name wherever they may lie, and all code that they rest on is hashed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.stage import ROOT

STAGE = '''\
"""A stage."""
import polars as pl
from pipeline.context import Context
from pipeline.stage import Records, stage
{imports}

@stage(version=1, scope="row", reads=["messages"], adds={{"n": pl.Int64}})
def {name}(ctx: Context, rows: Records) -> pl.DataFrame:
    """Count turns."""
    return rows.select(pl.col("messages").list.len().cast(pl.Int64).alias("n"))
'''


class Tree:
    """A copy of the three packages, to be changed at will."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for package in ("pipeline", "stages", "schemas"):
            shutil.copytree(ROOT / package, root / package)  # compiled modules among them

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def stage(self, path: str, imports: str = "") -> None:
        name = Path(path).parent.name if path.endswith("__init__.py") else Path(path).stem
        self.write(path, STAGE.format(name=name, imports=imports))

    def python(self, code: str, *arguments: str, folder: Path | None = None) -> str:
        environment = {**os.environ, "PYTHONPATH": f"{self.root}{os.pathsep}{folder or ''}"}
        done = subprocess.run(
            [sys.executable, "-B", "-c", code, *arguments],
            cwd=self.root, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def hashes(self, *names: str, folder: Path | None = None) -> dict[str, str]:
        code = (
            "import sys, json; from pipeline.recipe.discovery import find; "
            "from pipeline.recipe.code_hash import code_hash, prompts; "
            "print(json.dumps({n: [code_hash(find(n)), sorted(prompts(find(n)))] "
            "for n in sys.argv[1:]}))"
        )
        return json.loads(self.python(code, *names, folder=folder))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-B", "-m", "pipeline", *arguments],
            cwd=self.root, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


IMPORTS = {
    "stages/tag/helper.py": ["from stages.tag.helper import x"],
    "stages/score/helper.py": ["from stages.score import helper"],
    "stages/tag/near_by.py": ["from .near_by import x", "from . import near_by"],
    "stages/_room/kernel.py": ["from stages._room.kernel import x"],
    "stages/_room/__init__.py": ["from stages._room.kernel import y"],
    "schemas/extra.py": ["from schemas.extra import x", "import schemas.extra as extra"],
    "stages/_room/far.py": ["from stages._room.kernel import y"],
}
"""By what is changed, how stages import it: helpers of their family and of another, relative
imports, a module of a room, its package's own file, a schema, an import of an import."""
ROOM = {"stages/_room/kernel.py", "stages/_room/__init__.py", "stages/_room/far.py"}


def test_a_change_to_whatever_a_stage_imports_is_drift(tree: Tree) -> None:
    tree.write("stages/_room/__init__.py", '"""A room."""\n')
    tree.write("stages/_room/far.py", '"""Far."""\nx = 0\n')
    tree.write("stages/_room/kernel.py", '"""Near."""\nfrom stages._room.far import x\ny = x\n')
    stages: dict[str, str] = {}

    def append(path: str, line: str) -> None:
        file = tree.root / path
        tree.write(path, (file.read_text() if file.exists() else "") + line)

    for changed, forms in IMPORTS.items():
        append(changed, "x = 1\n")
        for form in forms:
            name = f"tag.mine_{len(stages)}"
            stages[name] = changed
            tree.stage(f"stages/{name.replace('.', '/')}.py", form)
    before = tree.hashes(*stages, "select.random")
    for changed in IMPORTS:
        append(changed, "# a comment\n")
    assert tree.hashes(*stages, "select.random") == before
    for changed in IMPORTS:
        append(changed, "x = 2\n")
        after = tree.hashes(*stages, "select.random")
        differ = {name for name in after if after[name] != before[name]}
        alike = ROOM if changed in ROOM else {changed}
        assert {name for name, path in stages.items() if path == changed} <= differ
        assert differ <= {name for name, path in stages.items() if path in alike}
        before = after


def test_the_schemas_are_followed_and_the_engine_is_not(tree: Tree) -> None:
    before = tree.hashes("score.heuristics")
    tree.write(
        "pipeline/execution/progress.py",
        (tree.root / "pipeline/execution/progress.py").read_text() + "x = 1\n",
    )
    assert tree.hashes("score.heuristics") == before
    records = tree.root / "schemas/records.py"
    records.write_text(records.read_text() + "\nx = 1\n")
    assert tree.hashes("score.heuristics") != before


def test_data_files_and_prompts_of_a_module_count(tree: Tree) -> None:
    tree.stage("stages/tag/mine.py", 'WORDS = "words.txt"\nfrom stages.tag import _helper')
    tree.write("stages/tag/_helper.py", '"""Help."""\n')
    tree.write("stages/tag/words.txt", "a")
    tree.write("stages/tag/prompts/_helper/ask.jinja", "Hm?")
    tree.write("stages/tag/prompts/other/ask.jinja", "Hm?")
    before = tree.hashes("tag.mine")["tag.mine"]
    assert before[1] == ["stages/tag/prompts/_helper/ask.jinja"]
    tree.write("stages/tag/words.txt", "b")
    assert tree.hashes("tag.mine")["tag.mine"][0] != before[0]


def test_a_stage_may_be_a_package(tree: Tree) -> None:
    tree.stage("stages/tag/whole/__init__.py", "from stages.tag.whole import part")
    tree.write("stages/tag/whole/part.py", '"""A part."""\nx = 1\n')
    tree.write("stages/tag/whole/prompts/ask.jinja", "?")
    tree.write("stages/tag/whole/prompts/part/ask.jinja", "?")
    before = tree.hashes("tag.whole")["tag.whole"]
    assert [p.removeprefix("stages/tag/whole/prompts/") for p in before[1]] == [
        "ask.jinja",
        "part/ask.jinja",
    ]
    tree.write("stages/tag/whole/part.py", '"""A part."""\nx = 2\n')
    assert tree.hashes("tag.whole")["tag.whole"][0] != before[0]
    assert "tag.whole " in tree.command("stages").stdout


def test_the_modules_beside_a_users_own_stage_count(tree: Tree, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(STAGE.format(name="mine", imports="import polars\nimport helper"))
    (own / "helper.py").write_text("x = 1\n")
    before = tree.hashes("mine", folder=own)
    (own / "helper.py").write_text("x = 2\n")
    assert tree.hashes("mine", folder=own) != before


def test_the_hash_does_not_depend_on_where_the_modules_lie(tree: Tree, tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "z"):  # one sorts before the repository's folder, one after it
        (tmp_path / name).mkdir()
        imports = "import schemas.records\nimport helper"
        (tmp_path / name / "mine.py").write_text(STAGE.format(name="mine", imports=imports))
        (tmp_path / name / "helper.py").write_text("x = 1\n")
        hashes.append(tree.hashes("mine", folder=tmp_path / name))
    assert hashes[0] == hashes[1]


def test_helpers_are_no_stages_and_a_broken_module_hides_no_other(tree: Tree) -> None:
    tree.stage("stages/fresh/mine.py")  # a family without __init__.py
    tree.write("stages/fresh/helper.py", '"""No stage: it only speaks of @stage."""\n')
    tree.write("stages/fresh/broken.py", "import absent_module\n@stage(version=1)\ndef f(): ...\n")
    listed = tree.command("stages")
    assert listed.returncode == 2
    names = [line.split()[0] for line in listed.stdout.splitlines() if line]
    assert "fresh.mine" in names
    assert "score.loss" in names
    assert not [n for n in names if n.startswith("_") or n == "fresh.helper"]
    assert "the module stages.fresh.broken cannot be imported" in listed.stderr
    assert "Traceback" not in listed.stderr


STAGE_SIGNATURE = "(ctx: Context, rows: Records) -> pl.DataFrame"
SIGNATURES = {
    "(ctx: Context, rows: Records, *, n) -> pl.DataFrame": "the parameter 'n' has no annotation",
    "(ctx: Context, rows) -> pl.DataFrame": "the parameter 'rows' has no annotation",
    "(ctx: Context, rows: int) -> pl.DataFrame": "the edge 'rows' must be Records",
    "(ctx: Context, rows: Records, *, n: Absent) -> pl.DataFrame": "name 'Absent' is not defined",
    "(ctx: Context, rows: Records, **more: int) -> pl.DataFrame": "*args and **kwargs are not",
    "() -> pl.DataFrame": "the first parameter must be ctx",
    "(ctx: Context) -> pl.DataFrame": "there is no edge before the star",
    "(ctx: Context, rows: Records) -> list[int]": "the return annotation must be",
}


def test_a_wrong_signature_is_explained(tree: Tree) -> None:
    names = {f"tag.mine_{n}": signature for n, signature in enumerate(SIGNATURES)}
    for name, signature in names.items():
        path = f"stages/{name.replace('.', '/')}.py"
        tree.stage(path)
        text = (tree.root / path).read_text()
        assert STAGE_SIGNATURE in text
        changed = text.replace(STAGE_SIGNATURE, signature)
        tree.write(path, f"from __future__ import annotations\n{changed}")
    page = tree.command("stages", "tag.mine_0")
    assert page.returncode == 2
    assert "Traceback" not in page.stderr
    code = (
        "import sys, json; from pipeline.errors import UserError\n"
        "from pipeline.recipe.discovery import find\n"
        "def message(name):\n"
        "    try: find(name)\n"
        "    except UserError as error: return str(error)\n"
        "print(json.dumps({name: message(name) for name in sys.argv[1:]}))"
    )
    messages = json.loads(tree.python(code, *names))
    for name, signature in names.items():
        assert SIGNATURES[signature] in messages[name]
        assert f"stages/{name.replace('.', '/')}.py:" in messages[name]
