"""One word for a release in every verb: NAME@VERSION, NAME, or the recipe that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import open_recipe
from tests.support.cli import Done, call
from tests.support.running import pool, toys


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two releases of rows, where no recipe is in sight."""
    pool(tmp_path / "rows.txt", 12)
    text = "name: mini\npublish: {gate: {certificate: false}}\nstages:\n"
    stages = "  a: {uses: toy.load, with: {path: rows.txt}}\n"
    stages += "  shards: {uses: export.parquet, needs: a}\n"
    path = tmp_path / "recipes" / "weekly.yaml"
    path.parent.mkdir()
    path.write_text(toys(text + stages).replace("rows.txt", str(tmp_path / "rows.txt")))
    for number in (12, 14):
        pool(tmp_path / "rows.txt", number)
        assert call("refresh", str(path), "--store", str(tmp_path / "store")).code == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


VERBS = {
    "verify": ("verify", "{}", "--json"),
    "diff": ("diff", "mini@1.0", "{}", "--json"),
    "report": ("report", "{}", "-o", "page.html"),
    "publish": ("publish", "{}", "--to", "file://{folder}/out", "--json"),
    "dry run": ("publish", "{}", "--to", "file://{folder}/out", "--dry-run", "--json"),
    "sample": ("sample", "{}", "a", "-n", "2"),
    "cat": ("cat", "{}", "a"),
    "status": ("status", "{}", "--json"),
}


def called(folder: Path, words: tuple[str, ...], name: str) -> Done:
    filled = [name if word == "{}" else word.replace("{folder}", str(folder)) for word in words]
    return call(*filled, "--store", str(folder / "store"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_without_a_version_is_its_latest_release(folder: Path, verb: str) -> None:
    words = VERBS[verb]
    outputs = []
    for name in ("mini@1.1", "mini@latest", "mini"):
        done = called(folder, words, name)
        assert done.code == 0, (name, done.stderr)
        outputs.append(done.stdout.replace('"published": "now"', '"published": "before"'))
    assert outputs[0] != called(folder, words, "mini@1.0").stdout or verb == "report"
    assert outputs[1] == outputs[2]
    if verb != "publish":  # the second call moves nothing
        assert outputs[0] == outputs[1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_slip_in_a_name_is_answered_with_the_name(folder: Path, verb: str) -> None:
    for name, hint in (("mnii", "did you mean 'mini'?"), ("mini@9.9", "it has 1.0, 1.1")):
        done = called(folder, VERBS[verb], name)
        assert (done.code, hint in done.stderr) == (2, True), (name, done.stderr)
    done = called(folder, VERBS[verb], "mini@1")
    assert (done.code, "MAJOR.MINOR" in done.stderr) == (2, True), done.stderr


def test_a_recipe_goes_before_a_release_of_its_name(folder: Path) -> None:
    text = (folder / "recipes/weekly.yaml").read_text()
    (folder / "mini").write_text(text.replace("  a:", "  b: {uses: tests.support.toys.load, with: "
                                              f"{{path: {folder}/rows.txt}}}}\n  a:"))  # fmt: skip
    stages = json.loads(called(folder, VERBS["status"], "mini").stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["b", "a", "shards"]
    stages = json.loads(called(folder, VERBS["status"], "mini@latest").stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["a", "shards"]


def test_verify_takes_the_recipe_and_says_all_as_json(folder: Path) -> None:
    done = called(folder, VERBS["verify"], str(folder / "recipes/weekly.yaml"))
    result = json.loads(done.stdout)
    assert (result["release"], result["sound"], result["damages"]) == ("mini@1.1", True, [])
    shard = next((folder / "store").glob("artifacts/*/files/data/*.parquet"))
    shard.write_bytes(b"PAR1")
    damaged = [called(folder, VERBS["verify"], f"mini@1.{minor}") for minor in (0, 1)]
    result = json.loads(max((done.stdout for done in damaged), key=len))
    assert {done.code for done in damaged} == {0, 2}
    assert not result["sound"]
    assert [damage["file"] for damage in result["damages"]] == [str(shard)]
    assert "run again" in result["damages"][0]["hint"]


def test_a_notebook_opens_a_release_by_its_name(folder: Path) -> None:
    assert open_recipe("mini", store=folder / "store").title == "mini@1.1"
