"""The certificate says what was compared, what came in past it, and shows some convictions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import ROOT
from stages.publish.certificate import MAX_CHARACTERS, certificate
from tests.support.planted import planted_keys
from tests.support.releasing import pool_of, questions, released

EXAMS = {"uses": "load.benchmarks", "with": {"names": ["gsm8k", "humaneval"]}}
CLEAN = {"uses": "decontaminate.ngram", "needs": {"rows": "pool", "benchmarks": "exams"}}
KEY = planted_keys(5)["github"][1]


def leaks(count: int) -> list[tuple[str, str]]:
    text = gzip.decompress((ROOT / "data/benchmarks/gsm8k_test.jsonl.gz").read_bytes())
    items = [json.loads(line) for line in text.splitlines()[:count]]
    return [(f"{item['question']} Use {KEY}.", f"It is {i}.") for i, item in enumerate(items)]


def stages(folder: Path) -> dict[str, Any]:
    return {
        "exams": EXAMS,
        "pool": pool_of(folder / "pool.jsonl", [*questions(0, 5), *leaks(8)]),
        "clean": CLEAN,
        "shards": {"uses": "export.parquet", "needs": "clean"},
    }


def test_it_names_benchmarks_methods_and_convictions(tmp_path: Path) -> None:
    done = released(tmp_path, stages(tmp_path), {"gate": {"precision_sample": 3}})
    result = done.release["certificate"]
    assert result is not None
    assert result == certificate(done.snapshot)
    assert result["complete"]
    assert {n: b["items"] for n, b in result["benchmarks"].items()} == {
        "gsm8k": 1319,
        "humaneval": 164,
    }
    (stage,) = result["stages"]
    assert (stage["rows"], stage["convicted"]) == (13, {"gsm8k": 8, "humaneval": 0})
    assert stage["options"]["method"]["name"] == "gpt3-13"
    assert stage["unseen"]
    assert len(result["sample"]) == 3
    dropped = done.snapshot.rows("clean", "dropped")
    for pair in result["sample"]:
        assert pair["row"] in dropped["id"].to_list()
        assert pair["item_text"][:60] in pair["row_text"]
        assert len(pair["row_text"]) <= MAX_CHARACTERS + 6
    assert KEY not in json.dumps(done.release["certificate"])


@pytest.mark.parametrize(
    ("last", "past"),
    [
        ({"uses": "load.concat", "needs": ["clean", "late"]}, ["late"]),
        ({"uses": "load.concat", "needs": ["clean", "pool"]}, ["pool"]),
        ({"uses": "rewrite.redact", "needs": "clean"}, []),
        ({"uses": "tag.surface", "needs": "clean"}, []),
    ],
)
def test_the_graph_tells_which_rows_came_in_past_it(
    tmp_path: Path, last: dict[str, Any], past: list[str]
) -> None:
    recipe = stages(tmp_path) | {
        "late": pool_of(tmp_path / "late.jsonl", questions(10, 12)),
        "last": last,
        "shards": {"uses": "export.parquet", "needs": "last"},
    }
    result = released(tmp_path, recipe).release["certificate"]
    assert result is not None
    assert [b["bypassed_by"] for b in result["benchmarks"].values()] == [past, past]
    assert result["complete"] == (not past)


def test_without_such_a_stage_there_is_none(tmp_path: Path) -> None:
    recipe = stages(tmp_path)
    recipe["shards"]["needs"] = "pool"  # the check is there, and published rows do not pass it
    assert released(tmp_path, recipe).release["certificate"] is None


def test_what_was_not_compared_is_said(tmp_path: Path) -> None:
    recipe = stages(tmp_path)
    options = {"view": "content", "fields": ["question", "prompt"]}
    recipe["clean"] = CLEAN | {"with": options}
    (stage,) = released(tmp_path, recipe).release["certificate"]["stages"]  # type: ignore[index]
    assert "reasoning and tool calls" in stage["unseen"]
    assert any("question, prompt" in what for what in stage["unseen"])


def test_what_a_certificate_stage_measured_is_part_of_it(tmp_path: Path) -> None:
    recipe = stages(tmp_path) | {
        "measured": {
            "uses": "decontaminate.certificate",
            "needs": {"before": "pool", "after": "clean", "benchmarks": "exams"},
        }
    }
    result = released(tmp_path, recipe).release["certificate"]
    assert result is not None
    counts = result["measured"]["measured"]["benchmarks"]["gsm8k"]["rules"]["gpt3-13"]
    assert (counts["before"]["rows"], counts["after"]["rows"]) == (8, 0)
