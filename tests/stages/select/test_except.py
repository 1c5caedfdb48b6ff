"""select.except: all rows but those of the other edge, and what is near to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit
from pipeline.recipe.recipe import Recipe
from stages.report._overlaps import refuse_overlaps
from stages.select.except_ import except_
from tests.stages._selection.binding import problems_of
from tests.stages.select.test_split import RELATION, TEXTS
from tests.support.related_rows import relations, rows_of
from tests.support.rows import conversations, kept, sample
from tests.support.running import artifact, run

CTX = Context(Path(), Path(), Path())
STRONGEST = ["id", "prompt", "near_duplicate", "shared_ngram"]
READ = {"id": STRONGEST[:1], "prompt": STRONGEST[:2], "near": STRONGEST}


@given(TEXTS, TEXTS, st.sampled_from(["id", "prompt", "near"]))
def test_the_loop_over_pairs(texts: list[list[str]], others: list[list[str]], match: Any) -> None:
    rows, excepted = conversations([*texts, *others[:2]]), conversations(others)
    options = RELATION if match == "near" else {}
    result = except_(CTX, rows, excepted, match=match, **options)
    for row, reason, evidence in zip(
        rows_of(rows), result["drop_reason"], result["evidence"], strict=True
    ):
        reasons = {
            other[0]: [
                why for why in relations(row, other, *RELATION.values()) if why in READ[match]
            ]
            for other in rows_of(excepted)
        }
        related = {key: whys for key, whys in reasons.items() if whys}
        assert reason == ("excepted" if related else None)
        if related:
            cause = json.loads(evidence)
            assert cause["match"] in related[cause["excepted"]]
            strongest = ["id", "prompt", "near_duplicate", "shared_ngram"]
            assert cause["match"] == min(
                (w for ws in related.values() for w in ws), key=strongest.index
            )


def test_evidence_names_the_row_and_why() -> None:
    heldout = conversations(
        [("Name the longest river of Asia", "Yangtze"), ("Sing", "one two three four five six")]
    )
    ids = {row["messages"][0]["content"]: row["id"] for row in heldout.iter_rows(named=True)}
    rows = conversations(
        [
            ("Name the longest river of Asia", "Yangtze"),
            ("Name the longest river of Asia", "The Yangtze"),
            ("Name the longest river of Asia please", "The Yangtze"),
            ("Count", "zero one two three four five six seven"),
            ("Dance", "No"),
        ]
    )
    result = except_(
        CTX, rows, heldout, match="near", threshold=0.7, ngram_size=2, shared_ngram_size=6
    )
    causes = {
        row["messages"][0]["content"] + "|" + row["messages"][1]["content"]: json.loads(
            text or "{}"
        )
        for row, text in zip(rows.iter_rows(named=True), result["evidence"], strict=True)
    }
    river, song = ids["Name the longest river of Asia"], ids["Sing"]
    assert causes == {
        "Name the longest river of Asia|Yangtze": {"excepted": river, "match": "id"},
        "Name the longest river of Asia|The Yangtze": {"excepted": river, "match": "prompt"},
        "Name the longest river of Asia please|The Yangtze": {
            "excepted": river, "match": "near_duplicate", "jaccard": 5 / 6,
        },
        "Count|zero one two three four five six seven": {
            "excepted": song, "match": "shared_ngram", "ngram": "one two three four five six",
        },
        "Dance|No": {},
    }  # fmt: skip


def test_what_the_ablation_refuses_is_what_near_takes_out() -> None:
    rows = sample("self_instruct.jsonl.gz")
    heldout = rows.gather_every(40)
    with pytest.raises(Exception, match="the arms contain evaluation rows"):
        refuse_overlaps({"pool": rows}, {"eval_rows": heldout})
    left = kept(pl.concat([rows, except_(CTX, rows, heldout, match="near")], how="horizontal"))
    assert len(rows) - 2 * len(heldout) < len(left) <= len(rows) - len(heldout)
    refuse_overlaps({"pool": left}, {"eval_rows": heldout})


def test_no_rows_on_either_edge() -> None:
    rows = conversations([("Sing", "La")])
    for one, other in ((rows.clear(), rows), (rows, rows.clear()), (rows.clear(), rows.clear())):
        result = except_(CTX, one, other, match="near")
        assert result.schema == {"drop_reason": pl.String, "evidence": pl.String}
        assert result["drop_reason"].to_list() == [None] * len(one)


@pytest.mark.proof
def test_two_lines_of_a_recipe_make_rows_that_the_ablation_accepts(tmp_path: Path) -> None:
    """A hold-out of the pool itself, and the pool without it and without all that is near it."""
    lines = [
        {"prompt": f"What is {i}?", "completion": f"It is number {i} of all {i % 7} kinds."}
        for i in range(60)
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pool = {"path": str(tmp_path / "pool.jsonl"), "source": "made", "license": "CC0-1.0"}
    training = {"model": "tiny", "num_seeds": 2, "num_tokens": 256, "max_length": 64}
    parts = {"parts": {"heldout": 9, "train": "rest"}, "keep": "heldout"}
    wired = Recipe.of(
        "heldout",
        {
            "pool": {"uses": "load.records", "with": pool},
            "heldout": {"uses": "select.split", "needs": "pool", "with": parts},
            "trainable": {
                "uses": "select.except",
                "needs": {"rows": "pool", "except": "heldout"},
                "with": {"match": "near"},
            },
            "chosen": {"uses": "select.random", "needs": "trainable", "with": {"budget": 10}},
            "verdict": {
                "uses": "report.ablation",
                "needs": {"pool": "trainable", "selected": "chosen", "eval_rows": "heldout"},
                "with": {**training, "gradient_accumulation_steps": 2},
            },
        },
        {"tiny": {"engine": "transformers", "model": "data/models/tinylm"}},
    )
    assert run(wired, tmp_path / "store") is Exit.DONE
    report = artifact(wired, tmp_path / "store", "verdict").files / "ablation.json"
    counts = json.loads(report.read_text())["counts"]
    assert (counts["eval_rows"]["heldout"]["rows"], counts["pool"]["rows"]) == (9, 51)


@pytest.mark.parametrize("name", ["threshold", "ngram_size", "field", "shared_ngram_size"])
def test_options_of_near_are_refused_elsewhere(name: str) -> None:
    value = {"threshold": 0.7, "ngram_size": 3, "field": "response", "shared_ngram_size": 8}[name]
    assert problems_of("select.except", match="near", **{name: value}) == []
    (message,) = problems_of("select.except", match="prompt", **{name: value})
    assert f"{name} must be left out with match: prompt" in message
