"""The whole mission as one recipe: `full` with the profile tiny, from seeds to the hub.

Everything is real but the hub, which is the stand-in of the tests.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from schemas.release import Release
from tests.support.fake_hub import TOKEN, FakeHub
from tests.support.publications import reachable
from tests.support.running import command
from tests.test_recipes import run_and_account

MAX_SECONDS = 300
"""Of processor time for all of it: by the clock it takes no longer than that."""

REPOSITORY = "your-name/curated"


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.proof
def test_the_mission_from_seeds_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = processor_seconds()
    run_and_account("full", tmp_path / "store")
    store = ("--store", str(tmp_path / "store"))
    release = released(*store)
    page = tmp_path / "report.html"
    done("report", "full@latest", "-o", str(page), *store)
    assert release["name"] in page.read_text("utf-8")
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as hub:
        for when in ("now", "before"):  # a second time changes nothing
            result = json.loads(done("publish", "full@latest", *store, "--json", **at(hub)))
            assert result["published"] == when
            assert result["rows"] == release["counts"]["kept"] > 0
        assert sorted(hub.read(REPOSITORY)["tags"]) == ["1.0", "latest"]
        assert processor_seconds() - before < MAX_SECONDS
        check_what_users_get(release, tmp_path / "user")


def done(*words: str, **environment: str) -> str:
    """What a command line that must succeed printed."""
    result = command(*words, timeout=300, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def at(hub: FakeHub) -> dict[str, str]:
    """The environment in which commands reach a hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }


def released(*store: str) -> Release:
    """The release; a second one would say the same, and is none."""
    call = ("release", "full", "--profile", "tiny", *store, "--json")
    first, again = json.loads(done(*call)), json.loads(done(*call))
    assert (first["new"], again["new"]) == (True, False)
    release: Release = first["release"]
    return release


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
