"""The whole mission as one recipe: `full` with the profile tiny, from seeds to the hub.

Everything is real but the hub, which is the stand-in of the tests.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.publication import Publish
from pipeline.recipe.recipe import Recipe
from pipeline.releases.plugins import plugin
from pipeline.releases.publication import prepare
from pipeline.releases.publish import publish
from pipeline.releases.registry import read_release
from pipeline.store.store import Store
from schemas.release import Release
from tests.support.fake_hub import FakeHub
from tests.support.publications import reachable
from tests.support.running import command
from tests.test_recipes import run_and_account

MAX_SECONDS = 300
"""Of processor time for running it: by the clock it takes no longer than that."""

REPOSITORY = "your-name/curated"


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.proof
def test_the_mission_from_seeds_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = processor_seconds()
    run_and_account("full", tmp_path / "store")
    assert processor_seconds() - before < MAX_SECONDS
    release = released(tmp_path / "store")
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as hub:
        rows = published(tmp_path / "store", release, tmp_path / "staged")
        assert rows == release["counts"]["kept"] > 0
        assert sorted(hub.read(REPOSITORY)["tags"]) == ["1.0", "latest"]
        check_what_users_get(release, tmp_path / "user")


def released(store: Path) -> Release:
    """The release; a second one would say the same, and is none."""
    call = ("release", "full", "--profile", "tiny", "--store", str(store), "--json")
    first, again = command(*call), command(*call)
    assert first.returncode == 0, first.stderr
    assert [json.loads(done.stdout)["new"] for done in (first, again)] == [True, False]
    return read_release(Store(store), "full@1.0")


def published(folder: Path, release: Release, staged: Path) -> int:
    """Gate, card and transport; the number of rows that were read back from the hub."""
    store, options = Store(folder), Recipe.load("full", profile="tiny").publish
    assert isinstance(options, Publish)
    snapshot = Snapshot.of_release(store, release)
    findings = plugin("check")(store, release, snapshot, options)
    assert not [finding for finding in findings if finding.level == "refuse"]
    staged.mkdir()
    card = plugin("card")(store, release, snapshot, None, options)
    croissant = plugin("croissant")(store, release, snapshot, options)
    publication = prepare(store, release, staged, card=card, croissant=croissant)
    assert options.to == f"hf://{REPOSITORY}"
    return publish(publication, options.to)[1]


def check_what_users_get(release: Release, folder: Path) -> None:
    """The card's own line of code loads the rows, and so does its description in Croissant."""
    import datasets
    import mlcroissant
    from huggingface_hub import DatasetCard, snapshot_download

    local = Path(
        snapshot_download(REPOSITORY, repo_type="dataset", revision="1.0", cache_dir=folder)
    )
    loaded = datasets.load_dataset(REPOSITORY, revision="1.0", cache_dir=str(folder / "cache"))
    fields = DatasetCard.load(local / "README.md").data.to_dict()
    assert "synthetic" in fields["tags"]
    assert fields["license"] == "apache-2.0"
    for split in fields["dataset_info"]["splits"]:
        rows = loaded[split["name"]]
        assert len(rows) == split["num_examples"]
        assert rows.features == datasets.Features._from_yaml_list(
            fields["dataset_info"]["features"]
        )
        described = mlcroissant.Dataset(jsonld=local / "croissant.json").records(split["name"])
        ids = [record[f"{split['name']}/id"].decode() for record in described]
        assert ids == list(rows["id"])
    assert sum(map(len, loaded.values())) == release["counts"]["kept"]
