"""The verb publish, with real stages, gate and card, up to the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Exit
from tests.support.cli import call
from tests.support.fake_hub import TOKEN, FakeHub, Fault
from tests.support.publications import REPO, reachable
from tests.support.publishing import conversations, pool

TEXTS = [
    f"Name {word} and say why it is one." for word in ("a river", "a hill", "a bird", "an ore")
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as running:
        yield running


def recipe(folder: Path, texts: list[str] = TEXTS, license: str = "MIT", **publish: object) -> Path:
    """A recipe whose rows come from a file."""
    stages = {
        "rows": pool(conversations(folder / "pool.jsonl", texts), license),
        "shards": {"uses": "export.parquet", "needs": "clean" if "takedown" in publish else "rows"},
    }
    if "takedown" in publish:
        options = {"path": publish["takedown"]}
        stages["clean"] = {"uses": "select.takedown", "needs": "rows", "with": options}
    section = {"gate": {"certificate": False}, **publish}
    path = folder / "chat.yaml"
    path.write_text(json.dumps({"name": "chat", "stages": stages, "publish": section}))
    return path


def released(path: Path) -> list[str]:
    """Run and release a recipe; the words of a call that name it and its store."""
    words = [str(path), "--store", str(path.parent / "store")]
    assert call("run", *words).code == Exit.DONE
    done = call("release", *words)
    assert done.code == Exit.DONE, done.stderr
    return words


def test_a_recipe_is_published_where_it_says(tmp_path: Path, hub: FakeHub) -> None:
    words = released(recipe(tmp_path, to=f"hf://{REPO}"))
    done = call("publish", *words, "--json")
    assert done.code == Exit.DONE, done.stderr
    result = json.loads(done.stdout)
    assert (result["release"], result["published"], result["rows"]) == ("chat@1.0", "now", 4)
    assert hub.titles(REPO) == ["initial commit", "chat 1.0"]
    assert {"README.md", "croissant.json", "release.json"} <= hub.tree(REPO, "1.0").keys()
    again = json.loads(call("publish", *words, "--json").stdout)
    assert (again["published"], again["latest"]) == ("before", None)


@pytest.mark.parametrize("uses", ["export.parquet", "export.jsonl"])
def test_the_shards_of_every_export_are_read_back(tmp_path: Path, hub: FakeHub, uses: str) -> None:
    path = recipe(tmp_path, to=f"hf://{REPO}")
    path.write_text(path.read_text().replace("export.parquet", uses))
    done = call("publish", *released(path), "--json")
    assert done.code == Exit.DONE, done.stderr
    assert json.loads(done.stdout)["rows"] == len(TEXTS)


def test_warnings_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    words = released(recipe(tmp_path, [*TEXTS, "Write to ada@analytical.org and say why."]))
    done = call("publish", *words, "--to", f"file://{tmp_path}/place")
    assert done.code == Exit.DONE, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.startswith("warnings   warn: personal: email in 1 row") for line in lines)
    assert [line.split(":")[0] for line in lines if line.startswith(("rows:", "try:"))] == [
        "rows", "try",
    ]  # fmt: skip
    assert "\\n" not in done.stdout


def test_the_life_of_a_release_on_the_hub(tmp_path: Path, hub: FakeHub) -> None:
    to = ["--to", f"hf://{REPO}"]
    words = released(recipe(tmp_path))
    assert call("publish", *words, *to).code == Exit.DONE
    released(recipe(tmp_path, [*TEXTS, "Name a star and say why it is one."]))
    store = words[1:]
    done = call("publish", "chat@1.1", *store, *to)
    assert (done.code, "latest     1.1" in done.stdout) == (Exit.DONE, True), done.stderr
    elsewhere = ["--store", str(tmp_path / "another machine")]
    done = call("publish", words[0], *elsewhere, *to, "--rollback", "1.0")
    assert (done.code, "1.0" in done.stdout) == (Exit.DONE, True), done.stderr
    assert hub.tree(REPO) == hub.tree(REPO, "1.0") == hub.tree(REPO, "latest")
    done = call("publish", *words, *to, "--erase", "1.1")
    assert (done.code, "1.1" in done.stdout) == (Exit.DONE, True), done.stderr
    assert set(hub.read(REPO)["tags"]) == {"1.0", "latest"}


def test_taken_down_rows_are_erased_with_the_versions_that_have_them(
    tmp_path: Path, hub: FakeHub
) -> None:
    to = ["--to", f"hf://{REPO}"]
    words = released(recipe(tmp_path))
    assert call("publish", *words, *to).code == Exit.DONE
    (tmp_path / "takedown.txt").write_text("pool#0\n")
    path = recipe(tmp_path, takedown=str(tmp_path / "takedown.txt"))
    assert call("publish", *words, *to).code == Exit.REFUSED
    released(path)
    done = call("publish", *words, *to)
    assert done.code == Exit.DONE, done.stdout + done.stderr
    done = call("publish", *words, *to, "--takedown", "--json")
    assert (done.code, json.loads(done.stdout)["erased"]) == (Exit.DONE, ["1.0"]), done.stderr
    assert hub.titles(REPO) == ["chat 2.0"]


def test_a_dry_run_shows_everything_and_sends_nothing(tmp_path: Path, hub: FakeHub) -> None:
    words = released(recipe(tmp_path))
    done = call("publish", *words, "--to", f"hf://{REPO}", "--dry-run")
    assert done.code == Exit.DONE, done.stderr
    for text in ("data/train-00000-of-00001.parquet", "README.md", "gate:", "license: mit"):
        assert text in done.stdout
    assert not hub.log


@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["publish", "dry run"])
def test_what_the_gate_refuses_is_not_sent(tmp_path: Path, hub: FakeHub, words: list[str]) -> None:
    secret = "AKIA" + "QYLPMN5HFIQR7XYA"
    named = released(recipe(tmp_path, [*TEXTS, f"My key is aws_access_key_id = {secret}"]))
    done = call("publish", *named, "--to", f"hf://{REPO}", *words)
    assert done.code == Exit.REFUSED, done.stdout + done.stderr
    assert "secrets" in done.stdout + done.stderr
    assert not hub.log


def test_mistakes_are_named_before_anything_is_sent(tmp_path: Path, hub: FakeHub) -> None:
    path = recipe(tmp_path)
    words = [str(path), "--store", str(tmp_path / "store")]
    assert call("run", *words).code == Exit.DONE
    unreleased = call("publish", *words, "--to", f"hf://{REPO}")
    assert (unreleased.code, "has no release yet" in unreleased.stderr) == (Exit.MISTAKE, True)
    released(path)
    for more, what in (
        ([], "must know where to"),
        (["--to", "ftp://x/y"], "an address to publish to must be"),
        (["--to", f"hf://{REPO}", "--dry-run", "--rollback", "1.0"], "takes one of"),
    ):
        done = call("publish", *words, *more)
        assert (done.code, what in done.stderr) == (Exit.MISTAKE, True), done.stderr
    assert not hub.log


def test_a_hub_that_cannot_answer_means_later(tmp_path: Path, hub: FakeHub) -> None:
    words = released(recipe(tmp_path, to=f"hf://{REPO}"))
    hub.faults = [Fault("commit", 500, times=99)]
    done = call("publish", *words, "--wait", "1")
    assert done.code == Exit.TRY_AGAIN, done.stderr
    assert "the same command later" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    hub.faults.clear()
    assert call("publish", *words).code == Exit.DONE
    assert hub.titles(REPO) == ["initial commit", "chat 1.0"]
