"""`make stage` writes stages that are green as they stand, and nothing is registered by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.stage import ROOT

NEW = ("generate.fresh_one", "score.fresh_one", "dedup.fresh_one", "anew.fresh_one")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without its environment and data, in which stages were begun."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("pipeline", "stages", "schemas", "tests"):
        shutil.copytree(ROOT / package, root / package)  # compiled modules among them
    for file in ("pyproject.toml", "CHANGELOG.md", "README.md"):
        shutil.copy(ROOT / file, root / file)
    (root / "data").symlink_to(ROOT / "data")
    for name in NEW:
        written = python(root, "-m", "pipeline.cli.scaffold", name)
        assert written.returncode == 0, written.stderr
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_new_stages_pass_their_tests_and_those_of_all_stages(tree: Path) -> None:
    files = [f"tests/stages/{name.replace('.', '/test_')}.py" for name in NEW]
    everywhere = ["tests/stages/test_all_stages.py", "-k", "fresh_one"]
    for arguments in (files, everywhere):
        done = python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        assert done.returncode == 0, done.stdout[-3000:]


def test_they_are_clean_listed_and_in_the_changelog(tree: Path) -> None:
    for tool in (["check"], ["format", "--check"]):
        done = python(tree, "-m", "ruff", *tool, "--no-cache", "stages", "tests")
        assert done.returncode == 0, done.stdout
    listed = python(tree, "-m", "pipeline", "stages").stdout
    readme = (tree / "README.md").read_text("utf-8")
    changelog = (tree / "CHANGELOG.md").read_text("utf-8")
    for name in NEW:
        assert f"{name} " in listed
        assert f"`{name.partition('.')[2]}`" in readme
        assert changelog.count(f"- `{name}`: ") == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [("score", "family.method"), ("score.Bad", "lower case"), ("score.loss", "already")],
)
def test_a_wrong_name_is_refused(name: str, why: str, tree: Path) -> None:
    refused = python(tree, "-m", "pipeline.cli.scaffold", name)
    assert (refused.returncode, why in refused.stderr) == (2, True)
    assert "Traceback" not in refused.stderr
