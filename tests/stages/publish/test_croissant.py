"""`croissant.json` by the validator and reader of MLCommons, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import polars as pl
import pytest

from tests.stages.publish.conftest import HOSTILE_NAME
from tests.support.publishing import Released, conversations, pool, released

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"


def valid(folder: Path) -> mlc.Dataset:
    dataset = mlc.Dataset(jsonld=folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    assert str(dataset.metadata.ctx.conforms_to.value) == CONFORMS_TO
    return dataset


def text(value: Any) -> Any:
    """What the reader gives, with bytes as text and without the ids of record sets."""
    if isinstance(value, dict):
        return {key.rpartition("/")[2]: text(v) for key, v in value.items()}
    if isinstance(value, list):
        return [text(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", ["curated", "hostile"])
def test_records_are_those_of_the_shards(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    release: Released = request.getfixturevalue(name)
    folder = release.written(tmp_path)
    dataset = valid(folder)
    sets = [record_set.id for record_set in dataset.metadata.record_sets]
    assert sets
    for split in sets:
        shards = pl.read_parquet(f"{folder}/data/{split}-*.parquet")
        assert [text(record) for record in dataset.records(split)] == shards.to_dicts()


def test_several_configs_with_tools(several: Released, tmp_path: Path) -> None:
    folder = several.written(tmp_path)
    dataset = valid(folder)
    sets = {record_set.id for record_set in dataset.metadata.record_sets}
    assert sets == {"shards/train", "shards/validation", "preferences/train"}
    for record_set in sets:
        config, split = record_set.split("/")
        shards = pl.read_parquet(folder / config / f"data/{split}-*.parquet")
        records = [text(record) for record in dataset.records(record_set)]
        assert [record["id"] for record in records] == shards["id"].to_list()
        if config == "shards":
            assert [record["tools"] for record in records] == shards["tools"].to_list()
            turns = shards["messages"].to_list()
            assert [[t["content"] for t in record["messages"]] for record in records] == [
                [turn["content"] for turn in row] for row in turns
            ]


def test_json_lines_alone(tmp_path: Path) -> None:
    path = conversations(tmp_path / "rows.jsonl", ["one", "two", "three"])
    lines = {"uses": "export.jsonl", "needs": "pool"}
    folder = released(tmp_path, {"pool": pool(path), "lines": lines}).written(tmp_path / "out")
    records = [text(record) for record in valid(folder).records("train")]
    assert sorted(r["messages"][0]["content"] for r in records) == ["one", "three", "two"]


def test_every_source_and_stage_is_in_the_provenance(curated: Released) -> None:
    described = curated.croissant()
    assert described["conformsTo"] == CONFORMS_TO
    entities = {e["prov:label"]: e for e in described["prov:wasDerivedFrom"]}
    assert {name: e["license"] for name, e in entities.items()} == {
        "selfbehave": "Apache-2.0",
        "oasst": "CC-BY-4.0",
    }
    activities = {a["@id"]: a for a in described["prov:wasGeneratedBy"]}
    assert set(activities) == {f"#stage-{s['name']}" for s in curated.release["stages"]} - {
        "#stage-certified"
    }
    for entity in entities.values():
        (origin,) = entity["prov:wasGeneratedBy"]
        assert activities[origin["@id"]]["prov:label"].startswith("load.records version")
        assert len(entity["sha256"][0]) == 64
    for activity in activities.values():
        assert all(i["@id"] in activities for i in activity.get("prov:wasInformedBy", []))


def test_files_have_their_digests(curated: Released) -> None:
    files = {d["@id"]: d for d in curated.croissant()["distribution"] if "sha256" in d}
    stated = {f["path"]: f["sha256"] for f in curated.release["files"] if f["path"] != "README.md"}
    assert {name: file["sha256"] for name, file in files.items()} == stated


def test_what_a_source_is_called_is_a_text(hostile: Released) -> None:
    described = json.loads(json.dumps(hostile.croissant()))
    (entity,) = described["prov:wasDerivedFrom"]
    assert entity["prov:label"] == HOSTILE_NAME
    assert entity["@id"] == "#source-1"
