"""The gate refuses what its options say, names the rows, and lets everything else pass."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.releases.findings import Finding
from pipeline.stage import ROOT
from stages.publish.gate import check
from tests.support.planted import planted_keys
from tests.support.releasing import Released, pool_of, questions, released

KEY = planted_keys(3)["github"][1]
GSM8K = ROOT / "data/benchmarks/gsm8k_test.jsonl.gz"
OFF = {"certificate": False}
SHARDS = {"uses": "export.parquet", "needs": "all"}


def gated(done: Released) -> list[Finding]:
    return check(done.store, done.release, done.snapshot, done.recipe.publish)


def single(folder: Path, texts: list[tuple[str, str]], gate: dict[str, Any], **more: Any) -> Any:
    """What the gate says of a release of one pool."""
    stages = {"all": pool_of(folder / "rows.jsonl", texts, **more), "shards": SHARDS}
    done = released(folder, stages, {"gate": OFF | gate})
    return done, gated(done)


def rules(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.rule) for finding in findings]


def test_a_good_release_passes(tmp_path: Path) -> None:
    _, findings = single(tmp_path, questions(0, 5), {})
    assert findings == []


def test_secrets_refuse_and_personal_data_warns(tmp_path: Path) -> None:
    texts = [*questions(0, 3), ("Sign in.", f"With {KEY}."), ("Whom?", "ada@analytical.org")]
    done, findings = single(tmp_path, texts, {})
    assert rules(findings) == [("refuse", "secrets"), ("warn", "personal")]
    first = findings[0]
    (row,) = first.rows
    messages = done.snapshot.rows("shards").filter(id=row)["messages"].item()
    assert KEY in messages[1]["content"]
    assert "github-pat in 1 row" in first.message
    assert KEY not in str(first)
    assert "rewrite.redact" in str(first.hint)


@pytest.mark.parametrize("level", ["refuse", "warn", "ignore"])
def test_levels_are_those_of_the_recipe(tmp_path: Path, level: str) -> None:
    texts = [("Sign in.", f"With {KEY}."), ("Whom?", "ada@analytical.org")]
    gate = {"secrets": level, "personal": level, "passwords": level}
    _, findings = single(tmp_path, texts, gate)
    expected = [(level, "secrets"), (level, "personal")]
    assert sorted(rules(findings)) == sorted([] if level == "ignore" else expected)


def test_a_redacted_release_passes(tmp_path: Path) -> None:
    texts = [("Sign in.", f"With {KEY}."), ("Whom?", "ada@analytical.org")]
    stages = {
        "pool": pool_of(tmp_path / "rows.jsonl", texts),
        "all": {"uses": "rewrite.redact", "needs": "pool"},
        "shards": SHARDS,
    }
    assert gated(released(tmp_path, stages, {"gate": OFF})) == []


@pytest.mark.parametrize(
    ("license", "gate", "expected"),
    [
        ("unknown", {}, [("refuse", "licenses")]),
        ("my own terms", {}, [("refuse", "licenses")]),
        ("my own terms", {"licenses": ["my own terms"]}, []),
        ("my own terms", {"unknown_license": "warn"}, [("warn", "licenses")]),
        ("Apache-2.0", {"licenses": ["MIT"]}, [("refuse", "licenses")]),
        ("MIT OR Apache-2.0", {"licenses": ["MIT"]}, []),
        ("MIT AND Apache-2.0", {"licenses": ["MIT"]}, [("refuse", "licenses")]),
        ("CC-BY-NC-4.0", {}, [("warn", "licenses")]),
        ("CC-BY-ND-4.0", {}, [("refuse", "licenses")]),
    ],
)
def test_licenses(
    tmp_path: Path, license: str, gate: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    _, findings = single(tmp_path, questions(0, 3), gate, license=license)
    assert rules(findings) == expected
    assert all(len(f.rows) == 3 for f in findings if f.level == "refuse")


def test_a_mixture_that_has_no_whole_is_refused_with_its_rows(tmp_path: Path) -> None:
    names = {"a": "CC-BY-SA-4.0", "b": "CC-BY-NC-4.0", "c": "MIT"}
    pools = {
        name: pool_of(tmp_path / f"{name}.jsonl", questions(i * 3, i * 3 + 2), license=license)
        for i, (name, license) in enumerate(names.items())
    }
    stages = {**pools, "all": {"uses": "load.concat", "needs": [*pools]}, "shards": SHARDS}
    (finding,) = gated(released(tmp_path, stages, {"gate": OFF}))
    assert finding.level == "refuse"
    assert "CC-BY-NC-4.0 forbids commercial use" in finding.message
    assert len(finding.rows) == 4


def test_the_certificate_must_be_there_and_cover_all_rows(tmp_path: Path) -> None:
    _, findings = single(tmp_path, questions(0, 3), {"certificate": True})
    assert rules(findings) == [("refuse", "certificate")]
    stages = {
        "exams": {"uses": "load.benchmarks", "with": {"names": ["gsm8k"]}},
        "pool": pool_of(tmp_path / "pool.jsonl", questions(0, 3)),
        "late": pool_of(tmp_path / "late.jsonl", questions(5, 7)),
        "clean": {
            "uses": "decontaminate.ngram",
            "needs": {"rows": "pool", "benchmarks": "exams"},
        },
        "all": {"uses": "load.concat", "needs": ["clean", "late"]},
        "shards": SHARDS,
    }
    done = released(tmp_path / "b", stages)
    (finding,) = gated(done)
    assert finding.message == "rows of late were not compared with gsm8k"
    assert {*finding.rows} == {*done.snapshot.rows("late")["id"]}


def test_failed_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    stages = {"all": pool_of(path, questions(0, 3)), "shards": SHARDS}
    path.write_text(path.read_text() + "{broken\n")
    (finding,) = gated(released(tmp_path, stages, {"gate": OFF}))
    assert (finding.level, finding.rule) == ("refuse", "failed")
    assert finding.rows == ("rows.jsonl:4",)


HELD = "The quick brown fox jumps over the lazy dog while seven wizards brew a potion together"


def _with_held_out(folder: Path, published: str, match: str = "near") -> list[Finding]:
    stages = {
        "pool": pool_of(folder / "pool.jsonl", questions(0, 4)),
        "exam": pool_of(folder / "exam.jsonl", [("Tell me a story.", HELD)]),
        "train": {
            "uses": "select.except",
            "needs": {"rows": "pool", "except": "exam"},
            "with": {"match": match},
        },
        "more": pool_of(folder / "more.jsonl", [("Tell me a story.", published)]),
        "all": {"uses": "load.concat", "needs": ["train", "more"]},
        "shards": SHARDS,
    }
    return gated(released(folder, stages, {"gate": OFF}))


@pytest.mark.parametrize(
    ("published", "match", "why"),
    [
        (HELD, "id", "1 row are rows of exam"),
        ("Once upon a time.", "prompt", "1 row have prompts of rows of exam"),
        ("Once upon a time.", "id", None),
    ],
)
def test_held_out_rows_are_refused_as_near_as_the_recipe_excepts_them(
    tmp_path: Path, published: str, match: str, why: str | None
) -> None:
    findings = _with_held_out(tmp_path, published, match)
    assert [f.rule for f in findings] == ([] if why is None else ["held_out"])
    if why:
        assert findings[0].message.startswith(why)


def test_a_run_of_words_of_a_named_step_is_near(tmp_path: Path) -> None:
    stages = {
        "exam": pool_of(tmp_path / "exam.jsonl", [("Tell me a story.", HELD)]),
        "all": pool_of(tmp_path / "pool.jsonl", [*questions(0, 2), ("Say this", f"So: {HELD}!")]),
        "shards": SHARDS,
    }
    (finding,) = gated(released(tmp_path, stages, {"gate": OFF | {"held_out": ["exam"]}}))
    assert "share a run of 13 words with rows of exam" in finding.message
    assert len(finding.rows) == 1


def test_the_other_part_of_a_split_must_not_come_back(tmp_path: Path) -> None:
    parts = {"parts": {"train": "rest", "heldout": 4}, "threshold": None, "shared_ngram_size": None}
    pool = pool_of(tmp_path / "pool.jsonl", questions(0, 12))
    stages = {
        "pool": pool,
        "train": {
            "uses": "select.split",
            "needs": "pool",
            "with": parts | {"keep": "train"},
            "as": {"split": "part"},
        },
        "all": {"uses": "load.concat", "needs": ["train", "pool"]},
        "shards": SHARDS,
    }
    (finding,) = gated(released(tmp_path / "a", stages, {"gate": OFF}))
    assert finding.message.startswith("4 rows are rows of the other parts of train")
    stages["all"] = {"uses": "load.concat", "needs": ["train"]}
    assert gated(released(tmp_path / "b", stages, {"gate": OFF})) == []


def test_rows_on_the_take_down_list_and_what_was_made_of_them(tmp_path: Path) -> None:
    stages = {
        "pool": pool_of(tmp_path / "pool.jsonl", [*questions(0, 3), ("Sign in.", f"By {KEY}.")]),
        "all": {"uses": "rewrite.redact", "needs": "pool"},
        "shards": SHARDS,
    }
    listed = tmp_path / "list.txt"
    listed.write_text("pool#3\npool#0\n")
    publish = {"gate": OFF, "takedown": str(listed)}
    done = released(tmp_path / "a", stages, publish)
    (finding,) = gated(done)
    assert finding.rule == "takedown"
    assert len(finding.rows) == 2
    # What a stage had dropped from the graph names its children still.
    (original,) = {*done.snapshot.rows("pool")["id"]} - {*done.snapshot.rows("all")["id"]}
    listed.write_text(original + "\n")
    (finding,) = gated(released(tmp_path / "b", stages, publish))
    assert len(finding.rows) == 1
    stages["all"] = {"uses": "rewrite.redact", "needs": "allowed"}
    path = {"path": str(listed)}
    stages["allowed"] = {"uses": "select.takedown", "needs": "pool", "with": path}
    done = released(tmp_path / "c", stages, publish)
    assert gated(done) == []
    assert done.release["counts"]["dropped"] == {"allowed: taken_down": 1}


def test_a_convicted_row_that_the_certificate_shows_is_on_the_take_down_list(
    tmp_path: Path,
) -> None:
    """Its text would be sent in the certificate although no published row has it."""
    item = json.loads(gzip.decompress(GSM8K.read_bytes()).splitlines()[0])
    listed = tmp_path / "list.txt"
    listed.write_text("pool#3\n")
    stages = {
        "exams": {"uses": "load.benchmarks", "with": {"names": ["gsm8k"]}},
        "pool": pool_of(tmp_path / "pool.jsonl", [*questions(0, 3), (item["question"], "Four.")]),
        "all": {"uses": "decontaminate.ngram", "needs": {"rows": "pool", "benchmarks": "exams"}},
        "shards": SHARDS,
    }
    publish = {"takedown": str(listed)}
    done = released(tmp_path / "a", stages, publish)
    (finding,) = gated(done)
    (pair,) = done.release["certificate"]["sample"]
    assert (finding.level, finding.rule, finding.rows) == ("refuse", "takedown", (pair["row"],))
    path = {"path": str(listed)}
    stages["allowed"] = {"uses": "select.takedown", "needs": "pool", "with": path}
    stages["all"]["needs"]["rows"] = "allowed"
    done = released(tmp_path / "b", stages, publish)
    assert gated(done) == []
    assert done.release["certificate"]["sample"] == []
    stages["all"]["needs"]["rows"] = "pool"
    publish["gate"] = {"precision_sample": 0}
    assert gated(released(tmp_path / "c", stages, publish)) == []


@pytest.mark.parametrize(
    ("gate", "is_refused"),
    [
        ({"min_rows": 4}, True),
        ({"min_rows": 3}, False),
        ({"max_rows": 2}, True),
        ({"max_rows": 3}, False),
        ({"max_bytes": 100}, True),
        ({"max_file_bytes": 100}, True),
        ({"max_bytes": 10_000_000, "max_file_bytes": 10_000_000}, False),
    ],
)
def test_sizes(tmp_path: Path, gate: dict[str, Any], is_refused: bool) -> None:
    _, findings = single(tmp_path, questions(0, 3), gate)
    assert {*rules(findings)} == ({("refuse", "size")} if is_refused else set())


def test_a_finding_names_as_many_rows_as_it_is_asked_to(tmp_path: Path) -> None:
    texts = [(f"Sign in {i}.", f"With {planted_keys(i)['github'][1]}.") for i in range(8)]
    _, (finding,) = single(tmp_path, texts, {"examples": 3})
    assert len(finding.rows) == 3
    assert "in 8 rows" in finding.message
    assert json.dumps(finding.rows)


def test_pairs_are_held_against_conversations(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pairs = [
        {"prompt": f"What follows {i}?", "chosen": answer, "rejected": "No idea."}
        for i, answer in enumerate(["One.", f"So: {HELD}!", f"With {KEY}."])
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    options = {"path": str(path), "source": "p", "license": "MIT"}
    stages = {
        "exam": pool_of(tmp_path / "exam.jsonl", [("Tell me a story.", HELD)]),
        "all": {"uses": "load.pairs", "with": options},
        "shards": {"uses": "export.pairs", "needs": "all"},
    }
    findings = gated(released(tmp_path, stages, {"gate": OFF | {"held_out": ["exam"]}}))
    assert rules(findings) == [("refuse", "secrets"), ("refuse", "held_out")]
    assert [len(finding.rows) for finding in findings] == [1, 1]
    assert "chosen.content" in findings[0].message
