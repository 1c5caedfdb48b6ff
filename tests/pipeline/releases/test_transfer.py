"""Artifacts and releases between stores: whole, verified, and never sent twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.plan import plan
from pipeline.releases.transfer import pull_recipe, pull_release, push_recipe, push_release
from pipeline.releases.verify import verify_release
from pipeline.remote.buckets import Bucket, bucket_at
from pipeline.store.releases import read_release
from pipeline.store.store import Store
from tests.pipeline.releases.building import mini, released
from tests.support.places import place
from tests.support.running import called, run, states


@pytest.fixture(params=["s3", "folder"])
def bucket(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "folder":
        yield bucket_at(f"file://{tmp_path}/shared%20disk")
        return
    with place("s3", tmp_path, monkeypatch):
        yield bucket_at("s3://sets/stores/one", seconds=5)


def test_a_recipe_goes_to_another_store_once(bucket: Bucket, tmp_path: Path) -> None:
    wired, here, there = mini(tmp_path), tmp_path / "here", tmp_path / "there"
    with pytest.raises(UserError, match="run it first"):
        push_recipe(wired, Store(here), bucket)
    run(wired, here)
    sent = push_recipe(wired, Store(here), bucket)
    assert (sent.moved, sent.present, sent.missing) == (4, 0, [])
    again = push_recipe(wired, Store(here), bucket)
    assert (again.moved, again.present, again.bytes) == (0, 4, 0)

    fetched = pull_recipe(wired, Store(there), bucket)
    assert (fetched.moved, fetched.bytes) == (4, sent.bytes)
    assert set(states(wired, there).values()) == {"cached"}
    assert pull_recipe(wired, Store(there), bucket).present == 4
    assert run(wired, there) is Exit.DONE
    fingerprints = [[p.fingerprint for p in plan(wired, Store(store))] for store in (here, there)]
    assert fingerprints[0] == fingerprints[1]
    other = mini(tmp_path, brief={"maximum": 9})
    partly = pull_recipe(other, Store(tmp_path / "third"), bucket)
    assert (partly.moved, partly.missing) == (2, ["brief", "shards"])


def test_a_release_goes_with_all_it_needs(bucket: Bucket, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    released(mini(tmp_path), here.root)
    release = read_release(here, "mini@1.0")
    assert push_release(release, here, bucket).release == "mini@1.0"
    with pytest.raises(UserError, match="no release mini"):
        pull_release("mini", "2.0", there, bucket)
    assert pull_release("mini", None, there, bucket).moved == 4
    assert read_release(there, "mini@1.0") == release
    assert not verify_release(there, "mini@1.0").damages
    assert pull_release("mini", "1.0", there, bucket).moved == 0


def test_what_is_damaged_there_is_not_taken(tmp_path: Path) -> None:
    bucket = bucket_at(f"file://{tmp_path}/shared")
    wired, there = mini(tmp_path), tmp_path / "there"
    run(wired, tmp_path / "here")
    push_recipe(wired, Store(tmp_path / "here"), bucket)
    file = next((tmp_path / "shared").rglob("kept.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="not what its manifest says"):
        pull_recipe(wired, Store(there), bucket)
    assert not [p for p in (there / "artifacts").iterdir() if p.name.startswith(".")]
    assert not [*(there / "work").iterdir()]

    # A call that was cut: the manifest comes last, so nobody takes half of an artifact.
    shutil.copytree(tmp_path / "here" / "artifacts", tmp_path / "shared" / "artifacts",
                    dirs_exist_ok=True)  # fmt: skip
    for manifest in [*(tmp_path / "shared").rglob("manifest.json")][1:]:
        manifest.unlink()
    assert pull_recipe(wired, Store(tmp_path / "fourth"), bucket).moved <= 1
    assert push_recipe(wired, Store(tmp_path / "here"), bucket).bytes == 0
    assert pull_recipe(wired, Store(there), bucket).missing == []


def test_other_code_under_the_same_version_is_not_taken(tmp_path: Path) -> None:
    bucket = bucket_at(f"file://{tmp_path}/shared")
    wired, there = mini(tmp_path), Store(tmp_path / "there")
    run(wired, tmp_path / "here")
    push_recipe(wired, Store(tmp_path / "here"), bucket)
    first = next(iter(wired.steps.values())).stage
    there.set_code(first.name, first.version, "0" * 32)
    with pytest.raises(UserError, match="other code"):
        pull_recipe(wired, there, bucket)


@pytest.mark.parametrize("address", ["gs://a/b", "file:///", "folder", "s3://"])
def test_a_place_that_cannot_be_one_is_refused(address: str, tmp_path: Path) -> None:
    result = called("store", "push", "mini@1.0", address, "--store", str(tmp_path))
    assert result.returncode == Exit.MISTAKE
    assert "must be s3://BUCKET/PREFIX or file:///FOLDER" in result.stderr


def test_the_verbs_say_what_they_did(tmp_path: Path) -> None:
    store = tmp_path / "here"
    released(mini(tmp_path), store)
    pushed = called("store", "push", "mini@1.0", f"file://{tmp_path}/s", "--store", str(store))
    assert "mini@1.0: 4 artifacts sent (" in pushed.stdout
    there = str(tmp_path / "there")
    pulled = called("store", "pull", "mini@1.0", f"file://{tmp_path}/s", "--store", there)
    assert "mini@1.0: 4 artifacts fetched (" in pulled.stdout
    assert called("releases", "--store", there).stdout.startswith("release")
