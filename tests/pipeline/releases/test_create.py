"""Releases: what they hold, when there is a new one, and which version it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution import history
from pipeline.execution.plan import plan
from pipeline.execution.snapshot import Snapshot, open_snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create, parse_new
from pipeline.store.file_hashes import file_digest
from pipeline.store.manifests import write_manifest
from pipeline.store.releases import latest, releases, versions, write_release
from pipeline.store.store import Store
from tests.pipeline.releases.building import LINES, mini, released
from tests.support.killing import killer
from tests.support.running import called, pool, recipe, run, toys

WITH_MODEL: dict[str, Any] = {
    "new": {"uses": "toy.invent", "needs": "a", "with": {"model": "toy", "count": 6}},
    "all": {"uses": "toy.merge", "needs": ["a", "new"]},
    "judged": {"uses": "toy.judge", "needs": "all", "with": {"model": "toy"}},
    "unique": {"uses": "toy.distinct", "needs": "judged"},
}


def test_a_release_says_what_it_was_made_of(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    release = released(wired, store).release
    assert (release["name"], release["version"], release["parent"]) == ("mini", "1.0", None)
    counts = release["counts"]
    assert counts["in"] == LINES
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"] == {"brief: too_long": LINES - counts["kept"]}
    assert release["licenses"] == {"CC0-1.0": counts["kept"]}
    assert [s["makes"] for s in release["stages"]] == ["rows", *["columns"] * 3]
    opened = Store(store)
    for stage in release["stages"]:
        artifact = opened.artifact(stage["fingerprint"])
        assert artifact
        assert artifact.manifest["digest"] == stage["digest"]
    for file in release["files"]:
        folder = store / "artifacts" / release["stages"][-1]["fingerprint"] / "files"
        assert file_digest(folder / file["path"]) == file["sha256"]
    rows = {file["path"]: file["rows"] for file in release["files"]}
    assert rows["data/train-00000-of-00001.parquet"] == counts["kept"]
    assert str(tmp_path) not in json.dumps({**release, "recipe": None}), "no path leaves a store"


def test_the_funnel_adds_up_where_rows_are_created_and_merged(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 20)
    load = {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}}
    wired = recipe({"a": load, **WITH_MODEL}, "made")
    release = released(wired, tmp_path / "store").release
    counts = release["counts"]
    assert counts["created"] == 6
    came = counts["in"] + counts["created"]
    assert came == counts["kept"] + sum(counts["dropped"].values()) + counts["failed"]
    assert [(m["stage"], m["option"]) for m in release["models"]] == [
        ("new", "model"), ("judged", "model"),
    ]  # fmt: skip
    assert sum(release["licenses"].values()) >= counts["kept"]


def test_equal_stores_make_equal_releases(tmp_path: Path) -> None:
    one = released(mini(tmp_path), tmp_path / "one").release
    two = released(mini(tmp_path), tmp_path / "two").release
    ignored = {"created": "", "libraries": {}}
    assert {**one, **ignored} == {**two, **ignored}


def test_nothing_changed_is_no_new_release(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    first = released(wired, store)
    assert first.is_new
    again = released(wired, store)
    assert not again.is_new
    assert again.release == first.release
    assert again.why == ["nothing changed since mini@1.0"]
    # Times and libraries are those of another run.
    shutil.rmtree(store / "artifacts")
    for path in store.glob("memo/*"):
        shutil.rmtree(path)
    assert not released(wired, store).is_new
    # So is the order of the lines of the source's file.
    assert versions(Store(store), "mini") == ["1.0"]


def test_other_rows_make_a_minor_and_another_recipe_a_major_version(tmp_path: Path) -> None:
    store = tmp_path / "store"
    released(mini(tmp_path), store)
    pool(tmp_path / "rows.txt", LINES + 3)
    second = released(mini(tmp_path), store)
    assert second.release["version"] == "1.1"
    assert second.release["parent"] == "1.0"
    assert second.why == ["the rows of a, sized, brief changed"]
    third = released(mini(tmp_path, brief={"maximum": 5}), store)
    assert third.release["version"] == "2.0"
    assert third.why[0] == "the recipe changed"
    assert released(mini(tmp_path), store).release["version"] == "3.0", "it changed back"
    opened = Store(store)
    last = latest(opened, "mini")
    assert last
    write_release(opened, {**last, "version": "3.1", "schema": 0})
    assert released(mini(tmp_path), store).release["version"] == "4.0", "another schema"


def test_rows_beside_the_published_ones_make_no_release(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 12)
    pool(tmp_path / "other.txt", 5, start=100)
    stages = {
        "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}},
        "beside": {"uses": "toy.load", "with": {"path": str(tmp_path / "other.txt")}},
        "unlike": {"uses": "toy.unlike", "needs": {"rows": "a", "banned": "beside"}},
    }
    wired = recipe(stages, "two")
    released(wired, tmp_path / "store")
    pool(tmp_path / "other.txt", 6, start=200)
    assert not released(recipe(stages, "two"), tmp_path / "store").is_new


def test_a_comment_makes_no_release_and_a_profile_or_an_override_does(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", LINES)
    path, store = tmp_path / "mini.yaml", tmp_path / "store"
    text = """\
name: mini
profiles: {short: {stages.brief.with.maximum: 30}}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 30}}
"""
    path.write_text(toys(text))
    first = released(Recipe.load(str(path)), store).release
    assert first["recipe"]["text"] == path.read_text()
    path.write_text(toys(text) + "# a comment\n")
    assert not released(Recipe.load(str(path)), store).is_new
    # The rows are the same, but what rebuilds them is not.
    assert released(Recipe.load(str(path), (), "short"), store).release["version"] == "2.0"
    overrides = ["stages.brief.with.maximum=30"]
    third = released(Recipe.load(str(path), overrides), store).release
    assert (third["version"], third["recipe"]["overrides"]) == ("3.0", overrides)


def test_an_explicit_version_is_above_the_last(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    assert released(wired, store, name="other", version="2.5").release["version"] == "2.5"
    assert not released(wired, store, name="other", version="2.5").is_new
    with pytest.raises(UserError, match=r"must be above 2.5, the last of other, got 2.4"):
        released(wired, store, name="other", version="2.4")
    pool(tmp_path / "rows.txt", LINES + 1)
    changed = mini(tmp_path)
    for version in ("2.5", "1.0"):
        with pytest.raises(UserError, match=r"must be above 2.5"):
            released(changed, store, name="other", version=version)
    with pytest.raises(UserError, match=r"versions begin with 1\.0"):
        released(changed, store, name="fresh", version="0.9")
    assert released(changed, store, name="other").release["version"] == "2.6"
    assert released(changed, store, name="other2", version="10.0").release["parent"] is None


def test_stages_that_have_not_run_are_no_release(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    with pytest.raises(UserError, match="4 of 4 stages must run") as missing:
        create(wired, Store(store))
    assert "pipeline run mini" in (missing.value.hint or "")
    run(wired, store)
    stale = mini(tmp_path, brief={"maximum": 3})
    with pytest.raises(UserError, match="brief is stale, shards is unknown"):
        create(stale, Store(store))
    assert releases(Store(store)) == []


def test_incomplete_stages_and_drifted_code_are_no_release(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 12)
    load = {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}}
    judged = {"uses": "toy.judge", "needs": "a", "with": {"model": "toy"}}
    wired, store = recipe({"a": load, "judged": judged}, "judged"), tmp_path / "store"
    assert run(wired, store) is Exit.DONE
    opened = Store(store)
    opened.set_code("tests.support.toys.judge", 1, "0" * 32)
    with pytest.raises(UserError, match="changed under the same version") as drift:
        create(wired, opened)
    assert drift.value.code is Exit.DRIFT
    run(wired, store, accept=True)
    artifact = opened.latest("judged", "judged")
    assert artifact
    manifest = {**artifact.manifest, "incomplete": True}
    write_manifest(artifact.folder, manifest)
    with pytest.raises(UserError, match="judged is incomplete"):
        create(wired, opened)


def test_a_release_is_read_like_a_recipe(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    released(wired, store)
    opened = Store(store)
    of_recipe, of_release = Snapshot.of_recipe(wired, opened), open_snapshot(opened, "mini@1.0")
    for stage in wired.steps:
        for part in ("kept", "dropped", "failed"):
            expected = of_recipe.rows(stage, part)  # type: ignore[arg-type]
            assert of_release.rows(stage, part).equals(expected)  # type: ignore[arg-type]
    (dropped, *_) = of_recipe.rows("brief", "dropped")["id"]
    assert history.explain(of_release, dropped) == history.explain(of_recipe, dropped)
    with pytest.raises(UserError, match="is a release: it cannot be changed by --set"):
        open_snapshot(opened, "mini@1.0", ["a=1"])
    # The recipe goes on; the release does not.
    run(mini(tmp_path, brief={"maximum": 3}), store)
    assert open_snapshot(opened, "mini@1.0").rows("brief").equals(of_recipe.rows("brief"))
    with pytest.raises(UserError, match=r"mini@1.0 has no stage 'breif'"):
        of_release.rows("breif")
    assert of_release.rows("brief", columns=["length"]).columns == ["id", "length"]
    with pytest.raises(UserError, match=r"brief has no column 'lenght'"):
        of_release.rows("brief", columns=["lenght"])


def test_what_is_gone_of_a_release_is_missing(tmp_path: Path) -> None:
    wired, store = mini(tmp_path), tmp_path / "store"
    release = released(wired, store).release
    shutil.rmtree(store / "artifacts" / release["stages"][1]["fingerprint"])
    snapshot = open_snapshot(Store(store), "mini@1.0")
    assert {s.name: s.state for s in snapshot.stages.values()}["sized"] == "missing"
    assert len(snapshot.rows("a")) == LINES
    with pytest.raises(UserError, match="are not in the store"):
        snapshot.rows("sized")


def test_plan_and_status_read_no_release(tmp_path: Path) -> None:
    """A hundred releases cost them nothing: they do not even notice that all are damaged."""
    wired, store = mini(tmp_path), tmp_path / "store"
    release = released(wired, store).release
    opened = Store(store)
    for minor in range(1, 100):
        path = write_release(opened, {**release, "version": f"1.{minor}"})
        path.write_text("damaged")
    assert {p.state for p in plan(wired, Store(store))} == {"cached"}
    status = history.status(Snapshot.of_recipe(wired, Store(store)))
    assert [s["state"] for s in status["stages"]] == ["cached"] * 4


def test_the_verb_says_what_came_of_it(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", LINES)
    path, store = tmp_path / "mini.yaml", str(tmp_path / "store")
    text = "name: mini\nstages:\n  a: {uses: toy.load, with: {path: rows.txt}}\n"
    path.write_text(toys(text))
    early = called("release", str(path), "--store", store)
    assert early.returncode == Exit.MISTAKE
    assert f"run {path}" in early.stderr
    run(Recipe.load(str(path)), tmp_path / "store")
    first = called("release", str(path), "--as", "chat@1.4", "--store", store, "--json")
    assert json.loads(first.stdout)["release"]["version"] == "1.4"
    again = called("release", str(path), "--as", "chat", "--store", store)
    assert again.returncode == Exit.DONE
    assert again.stdout == "nothing changed since chat@1.4: no new release\n"
    for bad in ("../chat@1.0", "chat@latest", "chat@1"):
        with pytest.raises(UserError):
            parse_new(bad)
    listed = json.loads(called("releases", "--store", store, "--json").stdout)
    assert [(e["release"], e["rows"]) for e in listed] == [("chat@1.4", LINES)]


def test_a_kill_leaves_a_whole_release_or_none(tmp_path: Path) -> None:
    """At each change of the file system that the verb makes."""
    pool(tmp_path / "rows.txt", 4)
    path, store = tmp_path / "mini.yaml", tmp_path / "store"
    path.write_text(toys("name: mini\nstages:\n  a: {uses: toy.load, with: {path: rows.txt}}\n"))
    wired = Recipe.load(str(path))
    run(wired, store)
    seen = []
    with killer(store, "release", str(path), "--store", str(store)) as killed_at:
        for number in range(50):
            killed = killed_at(number)
            seen.append(len(releases(Store(store), "mini")))
            if not killed:
                break
            shutil.rmtree(store / "releases" / "mini" / "1.0", ignore_errors=True)
    assert not killed
    assert number > 3, "the kills fell into nothing"
    assert seen[-1] == 1
    assert set(seen) <= {0, 1}
    assert not create(wired, Store(store)).is_new
    assert [p.name for p in (store / "releases" / "mini").iterdir()] == ["1.0"]
    rows = Snapshot.of_release(Store(store), releases(Store(store))[0]).rows("a")
    assert isinstance(rows, pl.DataFrame)
