"""One run at a time, complete artifacts only, and an error of the disk damages nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from pipeline.store.row_cache import KEY, MAX_FILES, RowCache
from pipeline.store.store import Store
from tests.support.running import (
    artifact,
    called,
    contents,
    environment,
    pool,
    recipe,
    run,
    started,
    states,
    toys,
)

SMALL = """\
name: small
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  out: {uses: toy.export, needs: sized}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    pool(tmp_path / "rows.txt", 100)
    (tmp_path / "small.yaml").write_text(toys(SMALL))
    return tmp_path / "small.yaml"


def test_a_second_run_is_refused(small: Path) -> None:
    store = small.parent / "store"
    wired = Recipe.load(str(small))
    with Store(store).locked():
        done = called("run", str(small), "--store", str(store))
        assert done.returncode == Exit.TRY_AGAIN
        assert f"another run (process {os.getpid()}) uses this store" in done.stderr
        assert "Traceback" not in done.stderr
        assert called("status", str(small), "--store", str(store)).returncode == 0
    assert run(wired, store) is Exit.DONE


def test_the_lock_of_a_dead_process_is_no_obstacle(small: Path) -> None:
    store = small.parent / "store"
    process = started("run", str(small), "--store", str(store), TOY_NAP="0.1")
    while not (store / "lock").exists() or not (store / "lock").read_text():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert (store / "lock").read_text()
    assert run(Recipe.load(str(small)), store) is Exit.DONE


@pytest.mark.parametrize("retaken", [False, True])
def test_nothing_is_committed_once_the_lock_is_removed(small: Path, retaken: bool) -> None:
    store = small.parent / "store"
    process = started("run", str(small), "--store", str(store), TOY_NAP="0.02")
    while not list((store / "artifacts").glob("[!.]*")):
        assert process.poll() is None
    (store / "lock").unlink()
    if retaken:
        with Store(store).locked():
            _, err = process.communicate(timeout=30)
    else:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "lock was removed during the run; nothing was committed" in err
    assert "Traceback" not in err
    assert len(list((store / "artifacts").glob("[!.]*"))) == 1
    assert run(Recipe.load(str(small)), store) is Exit.DONE


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "list", "half", "gone"])
def test_a_damaged_artifact_counts_as_missing(small: Path, damage: str) -> None:
    wired, store = Recipe.load(str(small)), small.parent / "store"
    run(wired, store)
    before = contents(store, wired)
    folder = artifact(wired, store, "sized").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "truncated":
        content = (folder / "kept.parquet").read_bytes()
        (folder / "kept.parquet").write_bytes(content[: len(content) // 2])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "gone":
        (folder / "kept.parquet").unlink()
    else:
        manifest["files"] = [] if damage == "list" else manifest["files"]
        text = json.dumps(manifest)
        (folder / "manifest.json").write_text(text[:50] if damage == "half" else text)
    assert states(wired, store) == {"a": "cached", "sized": "missing", "out": "unknown"}
    assert run(wired, store) is Exit.DONE
    assert set(states(wired, store).values()) == {"cached"}
    assert contents(store, wired) == before


@pytest.mark.parametrize(("version", "age"), [(99, "a newer version"), (0, "an older version")])
def test_another_format_of_the_store_is_refused(small: Path, version: int, age: str) -> None:
    wired, store = Recipe.load(str(small)), small.parent / "store"
    run(wired, store)
    before = contents(store, wired)
    file = artifact(wired, store, "sized").folder / "manifest.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "format": version}))
    for verb in ("run", "plan", "status", "why", "explain", "cat"):
        operand = {"why": ["out"], "explain": ["0"], "cat": ["sized"]}.get(verb, [])
        done = called(verb, str(small), *operand, "--store", str(store))
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert f"manifest.json: the store's format must be 1, got {version}" in done.stderr
        assert f"written by {age} of Gristmill" in done.stderr
        assert "--store DIR" in done.stderr
    file.write_text(text)
    assert contents(store, wired) == before, "nothing was overwritten"


@pytest.mark.parametrize("name", ["files.json", "digests.json", "refs/small/sized.json"])
def test_broken_caches_cost_time_only(small: Path, name: str) -> None:
    wired, store = Recipe.load(str(small)), small.parent / "store"
    run(wired, store)
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).write_text("{")
    assert set(states(wired, store).values()) == {"cached"}
    assert run(wired, store) is Exit.DONE


def test_a_store_that_cannot_be_made_is_reported(small: Path) -> None:
    done = called("run", str(small), "--store", str(small))
    assert done.returncode == 2
    assert "the store must be a folder, got a file" in done.stderr
    assert "--store DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_and_damages_nothing(small: Path, tiny_disk: Path) -> None:
    rows = [f"question {i}\t{os.urandom(60).hex()}" for i in range(800)]
    (small.parent / "rows.txt").write_text("\n".join(rows))
    done = called("run", str(small), "--store", str(tiny_disk / "store"))
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "free some space, then run again" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    wired = Recipe.load(str(small))
    assert run(wired, tiny_disk / "store") is Exit.DONE
    assert artifact(wired, tiny_disk / "store", "sized").kept == 800


def test_a_read_only_disk_is_reported(small: Path, tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    done = called("run", str(small), "--store", str(tiny_disk / "store"))
    assert done.returncode == 2
    assert "cannot be written to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_limit_on_the_size_of_files_is_reported(small: Path) -> None:
    rows = [f"question {i}\t{os.urandom(60).hex()}" for i in range(800)]
    (small.parent / "rows.txt").write_text("\n".join(rows))
    call = (
        f"ulimit -f 20; exec {sys.executable} -m pipeline run {small} --store {small.parent}/store"
    )
    done = subprocess.run(
        ["bash", "-c", call],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(Recipe.load(str(small)), small.parent / "store") is Exit.DONE


def test_a_row_cache_joins_its_files_and_loses_nothing(tmp_path: Path) -> None:
    cache = RowCache(tmp_path)
    (tmp_path / ".half").write_bytes(b"PAR1")
    for i in range(MAX_FILES + 3):
        cache.add(pl.DataFrame({KEY: [f"{i}", f"{i}b"], "x": [i, i]}))
    keys = pl.Series([f"{i}{suffix}" for i in range(MAX_FILES + 3) for suffix in ("b", "")])
    expected = pl.DataFrame({KEY: keys, "x": [i for i in range(MAX_FILES + 3) for _ in "ab"]})
    assert cache.rows(keys).equals(expected)
    cache.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert cache.rows(keys).equals(expected)
    assert RowCache(tmp_path).rows(keys).equals(expected)
    assert RowCache(tmp_path).knows(pl.Series(["1b", "x"])).to_list() == [True, False]
    assert [p.suffix for p in tmp_path.iterdir()] == [".parquet"]


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must not begin with a dot"):
        Recipe.of("../../x", {})
    with pytest.raises(UserError, match="must be a letter or _"):
        recipe({"../a": {"uses": "toy.load", "with": {"path": "README.md"}}})


def test_a_store_elsewhere_is_refused_in_plain_words() -> None:
    with pytest.raises(UserError, match="must be a folder of this machine") as error:
        Store(Path("s3://bucket/prefix"))
    assert "store push" in str(error.value.hint)
