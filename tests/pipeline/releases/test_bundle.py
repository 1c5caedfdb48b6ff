"""Bundles: the same shards on another machine without a request, and zip files of strangers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.recipe.recipe import Recipe
from pipeline.releases.bundle import is_bundle, write_bundle
from pipeline.stage import ROOT
from pipeline.store.releases import read_release
from pipeline.store.store import Store
from tests.pipeline.test_flips import answer
from tests.support.cli import Done, call
from tests.support.running import command, environment, pool
from tests.support.serving import NAME, FakeServer, listening

STAGE = '''\
"""A stage of the user's own, with a word list beside it."""

from pathlib import Path

import polars as pl

from bundle_helpers import factor
from pipeline.context import Context
from pipeline.stage import Records, stage

WORDS = (Path(__file__).parent / "bundle_words.txt").read_text().split()


@stage(version=3, scope="row", reads=["messages"], adds={"weight": pl.Int64})
def weigh(ctx: Context, rows: Records) -> pl.DataFrame:
    return pl.DataFrame({"weight": [factor() * len(WORDS)] * len(rows)})
'''
RECIPE = """\
name: small
publish: {{card: card.md}}
models:
  m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}
stages:
  a:
    uses: load.records
    with: {{path: pools/*.txt, format: lines, source: s, license: MIT}}
  new:    {{uses: generate.respond, needs: a, with: {{models: [m]}}}}
  mine:   {{uses: bundle_stage, needs: new}}
  shards: {{uses: export.parquet, needs: mine}}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe, its inputs, a store with a release and the bundle of it."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "pools").mkdir()
    pool(folder / "pools/one.txt", 9)
    pool(folder / "pools/two.txt", 5, start=9)
    (folder / "bundle_stage.py").write_text(STAGE)
    (folder / "bundle_helpers.py").write_text("def factor() -> int:\n    return 7\n")
    (folder / "card.md").write_text("only a publication reads this\n")
    (folder / "bundle_words.txt").write_text("of and the\n")
    with listening(FakeServer(answer)) as port:
        (folder / "small.yaml").write_text(RECIPE.format(name=NAME, port=port))
        words = ("--store", str(folder / "store"), "--workers", "1")
        done = call("run", str(folder / "small.yaml"), *words)
        assert done.code == 0, done.stderr
    close_engines()
    recipe, store = Recipe.load(str(folder / "small.yaml")), Store(folder / "store")
    words = ("release", str(folder / "small.yaml"), "--store", str(folder / "store"))
    done = call(*words, "--bundle", str(folder / "small.zip"), "--journal")
    assert done.code == 0, done.stderr
    assert "14 answers" in done.stderr
    release = read_release(store, "small")
    write_bundle(recipe, store, release, folder / "again.zip", with_journal=True)
    write_bundle(recipe, store, release, folder / "without.zip")
    return folder


@pytest.fixture
def elsewhere(source: Path, tmp_path: Path) -> Path:
    """Another machine: the bundle and the inputs beside it, and nothing else."""
    shutil.copytree(source / "pools", tmp_path / "pools")
    shutil.copy(source / "small.zip", tmp_path)
    return tmp_path


def rebuild(folder: Path, *words: str) -> Done:
    at = ("--store", str(folder / "store"), "--workers", "1")
    return call("run", str(folder / "small.zip"), *at, *words)


def shards(store: Path) -> dict[str, str]:
    """sha256 of the exported files by path."""
    paths = [p for p in store.glob("artifacts/*/files/**/*") if p.is_file()]
    return {
        path.relative_to(store).as_posix().partition("/files/")[2]: hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in paths
    }


def test_another_machine_rebuilds_the_shards_without_a_request(
    source: Path, elsewhere: Path
) -> None:
    """Nobody listens on the model's port any more: a request would fail the row."""
    at = ("--store", str(elsewhere / "store"), "--workers", "2")
    done = command("run", str(elsewhere / "small.zip"), *at, "--trust", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "byte for byte those of small@1.0" in done.stdout
    assert shards(elsewhere / "store") == shards(source / "store")
    counts = [Journal(folder / "store/journal").count() for folder in (source, elsewhere)]
    assert counts[0] == counts[1] > 0


def test_the_same_release_gives_the_same_bytes(source: Path) -> None:
    assert (source / "small.zip").read_bytes() == (source / "again.zip").read_bytes()
    with zipfile.ZipFile(source / "small.zip") as archive:
        names = archive.namelist()
    for name in ("bundle_stage.py", "bundle_helpers.py", "bundle_words.txt"):
        assert f"own/{name}" in names
    assert any(name.startswith("prompts/stages/generate/respond") for name in names)
    assert not [name for name in names if "one.txt" in name]


def test_the_journal_goes_only_into_a_bundle(source: Path) -> None:
    done = call(
        "release", str(source / "small.yaml"), "--store", str(source / "store"), "--journal"
    )
    assert done.code == 2
    assert "--journal needs --bundle FILE.zip" in done.stderr


def test_code_of_a_bundle_runs_only_with_trust(elsewhere: Path) -> None:
    done = rebuild(elsewhere)
    assert done.code == 2
    assert "mine (bundle_stage)" in done.stderr
    assert "--trust runs it" in done.stderr
    assert not list((elsewhere / "store").glob("bundles/*"))


def _change(path: Path) -> None:
    path.write_text(path.read_text().replace("question 3", "question X"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "pools/two.txt").unlink(), "(two.txt) is missing"),
        (lambda folder: _change(folder / "pools/one.txt"), "(one.txt) has "),
        (lambda folder: pool(folder / "pools/xtra.txt", 2), "xtra.txt is one file too many"),
        (lambda folder: shutil.rmtree(folder / "pools"), "(one.txt) is missing"),
    ],
)
def test_inputs_that_are_not_here_are_named(
    source: Path, elsewhere: Path, change: Callable[[Path], Any], expected: str
) -> None:
    change(elsewhere)
    done = rebuild(elsewhere, "--trust")
    assert (done.code, "Traceback" in done.stderr) == (2, False)
    assert f"stages.a.with.path: pools/*.txt {expected}" in done.stderr or (
        f"stages.a.with.path: pools/*.txt: {expected}" in done.stderr
    )
    if "many" not in expected:
        name = expected[1:8]
        content = (source / "pools" / name).read_bytes()
        size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        assert f"it must have {size:,} bytes, sha256 {sha256}" in done.stderr
    assert not list((elsewhere / "store").glob("artifacts/*"))


def test_an_input_may_lie_elsewhere(source: Path, elsewhere: Path) -> None:
    (elsewhere / "pools").rename(elsewhere / "moved")
    at = f"stages.a.with.path={elsewhere}/moved/*.txt"
    done = rebuild(elsewhere, "--trust", "--set", at)
    assert done.code == 0, done.stderr
    assert shards(elsewhere / "store") == shards(source / "store")


def test_without_the_journal_what_would_be_sent_fails(source: Path, elsewhere: Path) -> None:
    """The shards then are not those of the release, and the run says so."""
    shutil.copy(source / "without.zip", elsewhere / "small.zip")
    (elsewhere / "pools/two.txt").unlink()
    done = rebuild(elsewhere, "--trust")
    assert "is missing" in done.stderr
    assert not (elsewhere / "store/journal").exists()


def member(name: str, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
    entry.external_attr = (mode | 0o777) << 16
    return entry


def with_member(path: Path, entry: zipfile.ZipInfo, content: bytes) -> None:
    """The bundle with one more member, or another in its place, and a list that fits."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    bundle = json.loads(members.pop("bundle.json"))
    members.pop(entry.filename, None)
    entries = [*((member(name), data) for name, data in members.items()), (entry, content)]
    bundle["members"] = [
        {"name": e.filename, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
        for e, d in entries
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for listed, data in entries:
            archive.writestr(listed, data)
        archive.writestr(member("bundle.json"), json.dumps(bundle))


EVIL = {
    "parent": (member("own/../../../escaped.py"), b"x = 1", "would leave the bundle"),
    "absolute": (member("/tmp/escaped.py"), b"x = 1", "would leave the bundle"),
    "backslash": (member("own/a"), b"x = 1", "has a name that no bundle has"),
    "drive": (member("own/C:escaped.py"), b"x = 1", "has a name that no bundle has"),
    "link": (member("own/link.py", stat.S_IFLNK), b"/etc/passwd", "must be a regular file"),
    "device": (member("own/device", stat.S_IFCHR), b"", "must be a regular file"),
    "folder": (member("own/folder/", stat.S_IFDIR), b"", "would leave the bundle"),
    "bomb": (member("own/bomb.txt"), bytes(15 * 2**20), "is compressed more than 200 times"),
    "large": (member("own/large.txt"), os.urandom(17 * 2**20), "must have at most"),
    "foreign": (member("evil.py"), b"x = 1", "is not of a bundle"),
    "case": (member("own/BUNDLE_STAGE.py"), b"x = 1", "it has two files"),
}
EVIL["backslash"][0].filename = "own/..\\..\\escaped.py"


@pytest.mark.parametrize("kind", EVIL)
def test_zip_files_of_strangers_are_refused(elsewhere: Path, kind: str) -> None:
    """Nothing is unpacked, whatever is trusted."""
    entry, content, why = EVIL[kind]
    with_member(elsewhere / "small.zip", entry, content)
    before = {path for path in elsewhere.rglob("*") if "store" not in path.parts}
    done = rebuild(elsewhere, "--trust")
    assert (done.code, "Traceback" in done.stderr) == (2, False), done.stderr
    assert why in done.stderr
    assert {p for p in elsewhere.rglob("*") if "store" not in p.parts} == before
    assert not list((elsewhere / "store").glob("bundles/*"))
    assert not Path("/tmp/escaped.py").exists()


def test_a_recipe_may_name_no_other_code_and_no_other_file(elsewhere: Path) -> None:
    """A bundle whose recipe was changed: its list says what it may read."""
    path = elsewhere / "small.zip"
    with zipfile.ZipFile(path) as archive:
        text = archive.read("recipe.yaml").decode()
    more = "  b: {uses: load.records, with: {path: /etc/hosts, source: s, license: MIT}}\n"
    with_member(path, member("recipe.yaml"), (text + more).encode())
    done = rebuild(elsewhere, "--trust")
    assert done.code == 2
    assert "stages.b.with.path: the bundle does not list it" in done.stderr
    with_member(path, member("recipe.yaml"), text.replace("name: small", "name: [").encode())
    assert rebuild(elsewhere, "--trust").code == 2
    evil = text.replace("engine: openai", "engine: vllm, python: /bin/sh")
    with_member(path, member("recipe.yaml"), evil.replace("bundle_stage", "tag.surface").encode())
    done = rebuild(elsewhere)
    assert "model m (python)" in done.stderr


def test_any_flipped_bit_of_a_bundle_is_refused_or_harmless(source: Path, elsewhere: Path) -> None:
    """What no reader of a zip file looks at may change; nothing else."""
    content, rng = (source / "small.zip").read_bytes(), random.Random(0)
    path, refused = elsewhere / "small.zip", 0
    assert rebuild(elsewhere, "--trust").code == 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        done = rebuild(elsewhere, "--trust")
        assert "Traceback" not in done.stderr, done.stderr
        assert done.code in (0, 2)
        refused += done.code == 2
        assert shards(elsewhere / "store") == shards(source / "store")
    assert refused > 40


def test_a_bundle_replaces_nothing_but_bundles(source: Path, tmp_path: Path) -> None:
    recipe, store = Recipe.load(str(source / "small.yaml")), Store(source / "store")
    release = read_release(store, "small")
    precious = tmp_path / "precious.zip"
    with zipfile.ZipFile(precious, "w") as archive:
        archive.writestr("thesis.txt", "years of work")
    before = precious.read_bytes()
    for name in ("precious.zip", "folder/x.zip", "x.tar", "."):
        with pytest.raises(Exception, match="bundle"):
            write_bundle(recipe, store, release, tmp_path / name)
    assert precious.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious.zip"]


ASKING = '''\
"""A stage of the user's own with a prompt beside it."""

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._llm.prompts import Prompts

PROMPTS = Prompts(__file__)


@stage(version=1, scope="row", reads=["messages"], adds={"asked": pl.String})
def asking(ctx: Context, rows: Records) -> pl.DataFrame:
    return pl.DataFrame({"asked": [PROMPTS.render("asking", turns=1)] * len(rows)})
'''


def bundled(folder: Path, recipe: str) -> None:
    """Run and release a recipe with its bundle, in a folder of its own."""
    (folder / "small.yaml").write_text(recipe)
    at = ("--store", str(folder / "store"), "--workers", "1")
    done = call("run", str(folder / "small.yaml"), *at)
    assert done.code == 0, done.stderr
    done = call("release", str(folder / "small.yaml"), *at[:2], "--bundle",
                str(folder / "small.zip"))  # fmt: skip
    assert done.code == 0, done.stderr


def test_a_local_data_set_is_an_input_by_content(tmp_path: Path) -> None:
    """Its folder may lie elsewhere there, and must be the same, file by file."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "set" / "more", there):
        folder.mkdir(parents=True)
    for name, start in (("one.jsonl", 0), ("more/two.jsonl", 5)):
        lines = [{"prompt": f"What is {n}?", "completion": f"It is {n}."}
                 for n in range(start, start + 5)]  # fmt: skip
        (here / "set" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    load = f"{{dataset: '{here}/set', source: s, license: MIT}}"
    bundled(here, f"name: small\nstages:\n  a: {{uses: load.records, with: {load}}}\n"
            "  shards: {uses: export.parquet, needs: a}\n")  # fmt: skip
    shutil.copy(here / "small.zip", there)
    (here / "set").rename(there / "moved")
    missing = rebuild(there)
    assert (missing.code, missing.stderr.count("is missing")) == (2, 2), missing.stderr
    at = ("--set", f"stages.a.with.dataset={there}/moved")
    done = rebuild(there, *at)
    assert done.code == 0, done.stderr
    assert "byte for byte those of small@1.0" in done.stdout
    assert shards(there / "store") == shards(here / "store")
    (there / "moved" / "three.jsonl").write_text("{}")
    assert "one file too many" in rebuild(there, *at).stderr
    (there / "moved" / "three.jsonl").unlink()
    _change(there / "moved" / "one.jsonl")
    (there / "moved" / "one.jsonl").write_text("[]")
    changed = rebuild(there, *at)
    assert (changed.code, "(one.jsonl) has 2 bytes" in changed.stderr) == (2, True), changed.stderr


def test_prompts_of_own_stages_go_with_them(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    pool(here / "rows.txt", 4)
    (here / "asking_stage.py").write_text(ASKING)
    prompt = here / "prompts/asking_stage/asking.jinja"
    prompt.parent.mkdir(parents=True)
    prompt.write_text("Ask {{ turns }} time.")
    bundled(here, "name: small\nstages:\n  a: {uses: load.records, with: "
            "{path: rows.txt, format: lines, source: s, license: MIT}}\n"
            "  mine: {uses: asking_stage, needs: a}\n"
            "  shards: {uses: export.parquet, needs: mine, "
            "with: {columns: [asked]}}\n")  # fmt: skip
    with zipfile.ZipFile(here / "small.zip") as archive:
        names = archive.namelist()
    assert {"own/asking_stage.py", "own/prompts/asking_stage/asking.jinja"} <= set(names)
    for name in ("small.zip", "rows.txt"):
        shutil.copy(here / name, there)
    assert rebuild(there).code == 2
    at = ("--store", str(there / "store"), "--workers", "1")
    done = command("run", str(there / "small.zip"), *at, "--trust", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "byte for byte those of small@1.0" in done.stdout
    assert shards(there / "store") == shards(here / "store")


WRITE = """
import sys
from pathlib import Path
from pipeline.recipe.recipe import Recipe
from pipeline.releases.bundle import write_bundle
from pipeline.store.releases import read_release
from pipeline.store.store import Store
folder = Path(sys.argv[1])
recipe, store = Recipe.load(str(folder / "small.yaml")), Store(folder / "store")
print("ready", flush=True)
while True:
    write_bundle(recipe, store, read_release(store, "small"), Path(sys.argv[2]), with_journal=True)
"""


@pytest.mark.proof
def test_a_kill_leaves_a_whole_bundle_or_none(source: Path, tmp_path: Path) -> None:
    """Killed at any instant while one bundle after another is written in the same place."""
    target, rng = tmp_path / "b.zip", random.Random(0)
    expected = (source / "small.zip").read_bytes()
    for attempt in range(5):
        if attempt % 2:
            target.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(source), str(target)],
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        assert not target.exists() or target.read_bytes() == expected
    release = read_release(Store(source / "store"), "small")
    recipe = Recipe.load(str(source / "small.yaml"))
    write_bundle(recipe, Store(source / "store"), release, target, with_journal=True)
    assert target.read_bytes() == expected
    assert is_bundle(target)
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_a_mistake_in_the_name_of_a_bundle_leaves_no_release(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 4)
    recipe, store = tmp_path / "mini.yaml", tmp_path / "store"
    recipe.write_text(
        "name: mini\nstages:\n"
        "  a: {uses: load.records, with: "
        "{path: rows.txt, format: lines, source: s, license: MIT}}\n"
    )
    options = ("--store", str(store))
    assert call("run", str(recipe), *options).code == 0
    (tmp_path / "other.zip").write_text("mine")
    for name in ("x.tar", "nosuch/x.zip", "other.zip"):
        done = call("release", str(recipe), "--bundle", str(tmp_path / name), *options)
        assert done.code == 2
        assert "Errno" not in done.stderr
    assert not (store / "releases").exists()
