"""Garbage collection: what is needed stays whole, the rest goes, and nothing is paid for twice."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.execution.snapshot import open_snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.collect import DAY, KINDS, collect
from pipeline.releases.create import create
from pipeline.store.artifact import open_artifact
from pipeline.store.frames import frame_override
from pipeline.store.manifests import read_manifest, write_manifest
from pipeline.store.releases import FILE, read_release
from pipeline.store.store import Store
from tests.pipeline.releases.building import mini, released
from tests.support.cli import call
from tests.support.killing import killer
from tests.support.running import artifact, called, pool, recipe, run, states, toys


def age(store: Path, days: float) -> None:
    """Make everything in a store older: what artifacts say of themselves, and the files."""
    for path in store.glob("artifacts/*/manifest.json"):
        manifest = read_manifest(path)
        assert manifest
        write_manifest(path.parent, {**manifest, "finished": "2026-01-01T00:00:00+00:00"})
    then = time.time() - days * DAY
    for path in store.rglob("*"):
        os.utime(path, (then, then))


def listing(store: Path) -> set[str]:
    return {p.relative_to(store).as_posix() for p in store.rglob("*")} - {"lock"}


def fingerprints(store: Path) -> set[str]:
    return {p.name for p in (store / "artifacts").iterdir()}


def test_what_releases_and_the_last_runs_need_stays(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = released(mini(tmp_path), store).release
    passed = mini(tmp_path, sized={"plus": 1})  # of no release, and run again since
    run(passed, store)
    gone = {artifact(passed, store, name).fingerprint for name in ("sized", "brief", "shards")}
    now = mini(tmp_path, sized={"plus": 2})
    run(now, store)
    newest = {artifact(now, store, name).fingerprint for name in now.steps}
    other = mini(tmp_path, sized={"plus": 3})
    run(recipe_of_other_name(tmp_path), store)
    age(store, 40)
    before = listing(store)
    dry = collect(Store(store), 30)
    assert listing(store) == before, "it is dry by default"
    assert collect(Store(store), 50)["work folders"]["removed"] == 0
    assert collect(Store(store), 30, delete=True) == dry
    kept = fingerprints(store)
    assert {stage["fingerprint"] for stage in first["stages"]} <= kept
    assert newest <= kept
    assert dry["artifacts"]["removed"] == len(gone)
    assert not gone & kept
    assert dry["artifacts"]["removed_bytes"] > 0
    assert dry["cached rows"]["removed"] == 1, "those of plus=1; its limit has those of the others"
    assert set(states(now, store).values()) == {"cached"}
    assert len(open_snapshot(Store(store), "mini@1.0").rows("brief")) == first["counts"]["kept"]
    assert other  # only planned
    assert all(collect(Store(store), 30)[kind]["removed"] == 0 for kind in KINDS)


def recipe_of_other_name(folder: Path) -> Recipe:
    load = {"uses": "toy.load", "with": {"path": str(folder / "rows.txt")}}
    sized = {"uses": "toy.length", "needs": "a", "with": {"plus": 9}}
    return recipe({"a": load, "sized": sized}, "other")


def test_cached_rows_of_kept_stages_are_still_used(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    run(wired, store)
    age(store, 400)
    collect(Store(store), 0, delete=True)
    pool(tmp_path / "rows.txt", 15)
    run(mini(tmp_path), store)
    assert artifact(wired, store, "sized").manifest["computed"] == 3


def test_young_things_and_the_journal_stay(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    run(wired, store)
    run(mini(tmp_path, sized={"plus": 1}), store)
    (store / "journal").mkdir(exist_ok=True)
    (store / "journal" / "answers").write_text("paid for")
    (store / "work" / "0123").mkdir(parents=True)
    assert all(kind["removed"] == 0 for kind in collect(Store(store), 30, delete=True).values())
    age(store, 31)
    removed = collect(Store(store), 30, delete=True)
    assert removed["work folders"]["removed"] == 1
    assert removed["artifacts"]["removed"] == 3
    assert (store / "journal" / "answers").read_text() == "paid for"
    assert not list(store.glob("work/*"))


def test_leftovers_go_and_foreign_files_stay(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    released(wired, store)
    for left in ("memo/.k-removed", "releases/mini/.1.1-01234567", "work/.f-removed"):
        (store / left).mkdir()
    (store / ".files.json.abc").write_text("{}")
    (store / ".gitignore").write_text("*")
    assert collect(Store(store), 30, delete=True)["leftovers"]["removed"] == 4
    assert (store / ".gitignore").exists()
    assert not list(store.rglob("*-removed"))


@pytest.mark.parametrize("what", ["release", "reference"])
def test_where_needs_are_not_known_nothing_is_removed(tmp_path: Path, what: str) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    released(wired, store)
    run(mini(tmp_path, sized={"plus": 1}), store)
    age(store, 400)
    damaged = store / "releases/mini/1.0" / FILE
    if what == "reference":
        damaged = store / "refs/mini/sized.json"
    damaged.write_text("{")
    before = listing(store)
    with pytest.raises(UserError, match="damaged"):
        collect(Store(store), 0, delete=True)
    assert listing(store) == before


def test_a_running_process_keeps_others_out(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    run(wired, store)
    with Store(store).locked(), pytest.raises(UserError, match="another run"):
        collect(Store(store), 0)


@pytest.mark.parametrize("name", ["nowhere", "project"])
def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path, name: str) -> None:
    """One that is not there, and one with folders of the same names."""
    precious = tmp_path / "project" / "work" / "thesis"
    precious.mkdir(parents=True)
    (precious / "years.txt").write_text("of work")
    os.utime(precious / "years.txt", (0, 0))
    os.utime(precious, (0, 0))
    done = call("gc", "--delete", "--keep-days", "0", "--store", str(tmp_path / name))
    assert (done.code, done.stdout) == (2, "")
    assert "no store" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    assert [p.name for p in (tmp_path / "project").iterdir()] == ["work"]
    assert (precious / "years.txt").exists()


def test_frames_of_kept_artifacts_stay_and_the_code_of_bundles_goes(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(4)]
    store = tmp_path / "store"
    path = tmp_path / "framed.yaml"
    path.write_text(
        "name: framed\nstages:\n  rows: {uses: load.frame, with: {source: mine, license: MIT}}\n"
    )
    for number in (4, 3):
        framed = Recipe.load(str(path), [frame_override(store, "rows", rows[:number])])
        run(framed, store)
        if number == 4:
            create(framed, Store(store))
    abandoned = frame_override(store, "rows", rows[:2])
    (store / "bundles/0123").mkdir(parents=True)
    (store / "bundles/0123/mine.py").write_text("x = 1")
    (store / "bundles/.0123-4567").mkdir()
    (store / "trainings/0123").mkdir(parents=True)
    (store / "trainings/0123/result.json").write_text("{}")
    (store / "frames/0123").mkdir()
    (store / "frames/0123/.4567").write_text("half")
    assert all(kind["removed"] == 0 for kind in collect(Store(store), 30, delete=True).values())
    age(store, 31)
    removed = collect(Store(store), 30, delete=True)
    assert removed["data frames"]["kept"] == 2, "of the release, and of the last run"
    assert removed["data frames"]["removed"] == 2
    assert removed["code of bundles"]["removed"] == 1
    assert removed["trainings"]["removed"] == 1
    assert not [*(store / "bundles").iterdir(), *(store / "frames").glob("0123")]
    assert abandoned.split("frames/")[1].split("/")[0] not in os.listdir(store / "frames")
    assert len(open_snapshot(Store(store), "framed").rows("rows")) == 4


def test_a_kill_leaves_every_needed_artifact_and_no_half_of_another(tmp_path: Path) -> None:
    """At each change of the file system that the verb makes."""
    pool(tmp_path / "rows.txt", 4)
    path, store, spare = tmp_path / "mini.yaml", tmp_path / "store", tmp_path / "spare"
    text = "name: mini\nstages:\n  a: {uses: toy.load, with: {path: rows.txt}}\n"
    sized = "  sized: {uses: toy.length, needs: a, with: {plus: 0}}\n"
    path.write_text(toys(text + sized))
    run(Recipe.load(str(path)), spare)
    create(Recipe.load(str(path)), Store(spare))
    for plus in (1, 2):
        run(Recipe.load(str(path), [f"stages.sized.with.plus={plus}"]), spare)
    age(spare, 400)
    killed, verb = 0, ("gc", "--delete", "--keep-days", "0", "--store", str(store))
    with killer(store, *verb) as killed_at:
        for number in range(60):
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(spare, store)
            if not killed_at(number):
                break
            killed += 1
            for folder in (store / "artifacts").glob("[!.]*"):
                assert open_artifact(folder) is not None, folder
            release = read_release(Store(store), "mini@1.0")
            assert {s["fingerprint"] for s in release["stages"]} <= fingerprints(store)
            collect(Store(store), 0, delete=True)
            assert len(fingerprints(store)) == 3
            assert not list(store.rglob("*-removed"))
    assert 5 < killed < 60


def test_the_verb_says_how_much(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    run(wired, store)
    run(mini(tmp_path, brief={"maximum": 5}), store)
    age(store, 31)
    dry = called("gc", "--store", str(store))
    assert "would be freed; --delete does it" in dry.stdout
    did = json.loads(called("gc", "--delete", "--json", "--store", str(store)).stdout)
    assert did["deleted"] is True
    assert did["kinds"]["artifacts"]["removed"] == 2
