"""Every row that differs is told once, with the stage and reason that really did it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.releases.diff import changed_rows, diff
from pipeline.store.store import Store
from tests.support.running import called, run

TOPICS = ["the sea", "iron", "a long winter", "bread", "the moon", "trade", "glass", "bees"]


def conversation(question: str, answer: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def curation(folder: Path, **options: Any) -> Recipe:
    """load -> near-duplicates -> tags -> random choice -> shards."""
    source = {"path": str(folder / "rows.jsonl"), "source": "toy", "license": "MIT"}
    stages = {
        "pool": {"uses": "load.records", "with": source},
        "unique": {"uses": "dedup.exact", "needs": "pool"},
        "sized": {"uses": "score.heuristics", "needs": "unique"},
        "chosen": {
            "uses": "select.random",
            "needs": "sized",
            "with": {"budget": options.get("budget", 20), "seed": options.get("seed", 0)},
        },
        "shards": {"uses": "export.parquet", "needs": "chosen"},
    }
    return Recipe.of("toy", stages)


def rows_of(seed: int, count: int = 40) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = [
        conversation(f"Tell me of {rng.choice(TOPICS)}, part {n}.", f"{rng.random()} it was.")
        for n in range(count)
    ]
    return [*rows, *rng.sample(rows, 5), conversation("No answer?", "")]


def released(recipe: Recipe, store: Path) -> Snapshot:
    run(recipe, store)
    return Snapshot.of_release(Store(store), create(recipe, Store(store)).release)


def published(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in snapshot.rows("shards").to_dicts()}


def fate(snapshot: Snapshot, identity: str) -> tuple[str, str] | None:
    """The last stage that dropped a row, read stage by stage from what `cat` gives."""
    for name in ("shards", "chosen", "unique"):
        dropped = snapshot.rows(name, "dropped")
        reasons = dropped.filter(pl.col("id") == identity)["drop_reason"]
        if len(reasons):
            return name, reasons[0]
    return None


@pytest.mark.parametrize("seed", range(3))
def test_every_row_that_differs_is_told_with_what_did_it(tmp_path: Path, seed: int) -> None:
    rng, store = random.Random(seed), tmp_path / "store"
    rows = rows_of(seed)
    write(tmp_path / "rows.jsonl", rows)
    before = released(curation(tmp_path, seed=seed), store)
    # Some rows go, some come, some have another answer.
    rng.shuffle(rows)
    edited = [conversation(r["messages"][0]["content"], "It is another.") for r in rows[5:15]]
    write(tmp_path / "rows.jsonl", [*edited, *rows[15:], *rows_of(seed + 100, 8)])
    after = released(curation(tmp_path, seed=seed + 1, budget=24), store)
    old, new = published(before), published(after)

    lines = changed_rows(before, after).to_dicts()
    ids = [line["id"] for line in lines] + [line["replaces"] for line in lines if line["replaces"]]
    assert sorted(ids) == sorted(set(old) ^ set(new))
    assert {line["change"] for line in lines} >= {"added", "removed"}
    for line in lines:
        missing = line["replaces"] or line["id"]
        side = after if line["change"] != "added" else before
        otherwise = "new" if line["change"] == "added" else "no longer there"
        assert (line["stage"], line["reason"]) == (fate(side, missing) or ("pool", otherwise))
        if line["change"] == "changed":
            assert old[line["replaces"]]["messages"][0] == new[line["id"]]["messages"][0]
    # What is told as added and removed has no prompt in common: it would be a change.
    prompts = {
        change: {
            side[line["id"]]["messages"][0]["content"] for line in lines if line["change"] == change
        }
        for change, side in (("added", new), ("removed", old))
    }
    assert not prompts["added"] & prompts["removed"]


def test_sums_balance_and_equal_snapshots_do_not_differ(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(tmp_path / "rows.jsonl", rows_of(0))
    before = released(curation(tmp_path), store)
    same = diff(before, before)
    assert same["rows"]["unchanged"] == same["rows"]["before"] == same["rows"]["after"] > 0
    assert not any(same[part] for part in ("causes", "options", "models", "sources", "stages"))
    assert not [shift for shift in same["shifts"] if shift["p"] < 1]
    after = released(curation(tmp_path, budget=10, seed=3), store)
    result = diff(before, after)
    counts = result["rows"]
    assert counts["before"] == counts["unchanged"] + counts["removed"] + counts["changed"]
    assert counts["after"] == counts["unchanged"] + counts["added"] + counts["changed"]
    assert sum(line["rows"] for line in result["causes"]) == (
        counts["added"] + counts["removed"] + counts["changed"]
    )
    assert {(o["stage"], o["option"]) for o in result["options"]} == {
        ("chosen", "budget"),
        ("chosen", "seed"),
    }
    json.dumps(result)


def test_other_files_are_another_source_and_other_stages_are_named(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(tmp_path / "rows.jsonl", rows_of(0))
    before = released(curation(tmp_path), store)
    write(tmp_path / "rows.jsonl", rows_of(0)[:30])
    shorter = curation(tmp_path)
    after = released(shorter, store)
    (source,) = diff(before, after)["sources"]
    assert (source["stage"], source["before"], source["after"]) == ("pool", 41, 30)
    stages = diff(after, released(_without_exact(tmp_path), store))["stages"]
    assert [(s["stage"], s["after"]) for s in stages] == [("unique", None)]


def _without_exact(folder: Path) -> Recipe:
    source = {"path": str(folder / "rows.jsonl"), "source": "toy", "license": "MIT"}
    stages = {
        "pool": {"uses": "load.records", "with": source},
        "sized": {"uses": "score.heuristics", "needs": "pool"},
        "chosen": {"uses": "select.random", "needs": "sized", "with": {"budget": 20, "seed": 0}},
        "shards": {"uses": "export.parquet", "needs": "chosen"},
    }
    return Recipe.of("toy", stages)


def test_rows_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows_of(0))
    before = released(curation(tmp_path), tmp_path / "store")
    with pytest.raises(UserError, match="has not run yet"):
        diff(before, Snapshot.of_recipe(curation(tmp_path), Store(tmp_path / "other")))


def test_the_verb_compares_with_the_latest_release_and_writes_rows(tmp_path: Path) -> None:
    recipe, store = tmp_path / "weekly.yaml", str(tmp_path / "store")
    write(tmp_path / "rows.jsonl", rows_of(0))
    recipe.write_text(
        "name: weekly\nstages:\n"
        "  pool: {uses: load.records, with: {path: rows.jsonl, source: toy, license: MIT}}\n"
        "  chosen: {uses: select.random, needs: pool, with: {budget: 20, seed: 0}}\n"
        "  shards: {uses: export.parquet, needs: chosen}\n",
        "utf-8",
    )
    nothing = called("diff", str(recipe), "--store", store)
    assert nothing.returncode == 2
    assert "no earlier release" in nothing.stderr
    for verb in ("run", "release"):
        assert called(verb, str(recipe), "--store", store).returncode == 0
    other = ("--set", "stages.chosen.with.seed=5", "--store", store)
    assert called("run", str(recipe), *other).returncode == 0
    shown = called("diff", str(recipe), *other)
    assert shown.returncode == 0, shown.stderr
    assert "weekly@1.0 (" in shown.stdout
    assert "not_selected" in shown.stdout
    stale = called("diff", str(recipe), "--store", store, "--set", "stages.chosen.with.seed=9")
    assert "chosen" in stale.stderr
    assert "would run anew" in stale.stderr
    written = tmp_path / "rows-that-differ.jsonl"
    assert called("diff", str(recipe), *other, "-o", str(written)).returncode == 0
    as_json = json.loads(called("diff", str(recipe), *other, "--json").stdout)
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(lines) == sum(cause["rows"] for cause in as_json["causes"])
    nowhere = called("diff", str(recipe), *other, "-o", str(tmp_path / "no" / "page.html"))
    assert nowhere.returncode == 2
    assert "there is no folder" in nowhere.stderr
