"""Only what is really new is computed, and `why` says what changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import tables
from pipeline.errors import Exit, UserError
from pipeline.execution import history
from pipeline.execution.differences import differences
from pipeline.execution.plan import select_steps
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.store.hashing import digest
from pipeline.store.manifests import write_manifest
from pipeline.store.store import Store
from tests.support.running import MODEL, TOY, artifact, planned_steps, pool, recipe, run, states


def chain(folder: Path, **options: Any) -> Recipe:
    """load -> length -> at most -> distinct -> export."""
    return recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(folder / "a.txt")}},
            "sized": {"uses": "toy.length", "needs": "a", "with": options.get("sized", {})},
            "brief": {
                "uses": "toy.at_most",
                "needs": "sized",
                "with": {"maximum": options.get("maximum", 20)},
            },
            "unique": {"uses": "toy.distinct", "needs": "brief"},
            "out": {"uses": "toy.export", "needs": "unique"},
        }
    )


def why(wired: Recipe, store: Path, step: str) -> list[str]:
    stages = tables.reasons(wired, Store(store), step)["stages"]
    return next(t["causes"] for t in stages if t["name"] == step)


def test_a_store_goes_from_missing_to_cached(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 30)
    wired, store = chain(tmp_path), tmp_path / "store"
    assert list(states(wired, store).values()) == ["missing"] + ["unknown"] * 4
    assert planned_steps(wired, store)["brief"].causes == ["unknown until sized has run"]
    assert not store.exists() or not (store / "artifacts").exists()
    run(wired, store, "sized")
    assert list(states(wired, store).values()) == ["cached"] * 2 + ["missing"] + ["unknown"] * 2
    assert run(wired, store) is Exit.DONE
    assert set(states(wired, store).values()) == {"cached"}


def test_another_threshold_recomputes_that_stage_and_its_dependents(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 30)
    before, after, store = chain(tmp_path), chain(tmp_path, maximum=10), tmp_path / "store"
    run(before, store)
    assert list(states(after, store).values()) == ["cached"] * 2 + ["stale"] + ["unknown"] * 2
    assert why(after, store, "brief") == ["option maximum: 20 -> 10"]
    prints = {name: planned.fingerprint for name, planned in planned_steps(before, store).items()}
    run(after, store)
    again = {name: planned.fingerprint for name, planned in planned_steps(after, store).items()}
    assert [name for name in prints if prints[name] != again[name]] == ["brief", "unique", "out"]
    assert why(after, store, "brief") == [
        "changed since the artifact before: option maximum: 20 -> 10"
    ]
    assert why(after, store, "unique") == [
        "changed since the artifact before: input rows: other rows come from brief"
    ]
    assert why(after, store, "a") == ["nothing changed since its only artifact"]
    assert set(states(before, store).values()) == {"cached"}, "the old artifacts are still there"
    assert set(states(after, store).values()) == {"cached"}


def test_equal_values_stop_the_recomputation(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("q\tone\nr\tthree\n")
    store = tmp_path / "store"

    def wired(plus: int, maximum: int) -> Recipe:
        return recipe(
            {
                "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}},
                "sized": {"uses": "toy.length", "needs": "a", "with": {"plus": plus}},
                "even": {"uses": "toy.parity", "needs": "sized"},
                "odd": {
                    "uses": "toy.at_most",
                    "needs": "even",
                    "with": {"maximum": maximum, "column": "even"},
                },
            }
        )

    run(wired(0, 0), store)
    run(wired(2, 0), store)  # the lengths differ, their parities do not
    assert artifact(wired(2, 0), store, "sized").fingerprint != (
        planned_steps(wired(0, 0), store)["sized"].fingerprint
    )
    first = planned_steps(wired(0, 0), store)["odd"].fingerprint
    assert planned_steps(wired(2, 0), store)["odd"].fingerprint == first
    assert planned_steps(wired(2, 0), store)["even"].fingerprint != (
        planned_steps(wired(0, 0), store)["even"].fingerprint
    )
    assert "column length of sized changed" in why(wired(2, 0), store, "even")[0]


def test_a_column_that_is_not_read_changes_nothing(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 10)
    before, after = chain(tmp_path, maximum=90), chain(tmp_path, sized={"plus": 1}, maximum=90)
    run(before, tmp_path / "store")
    run(after, tmp_path / "store", "sized")
    after_states = states(after, tmp_path / "store")
    assert after_states["brief"] == "stale", "it reads the length"
    run(after, tmp_path / "store", "brief")
    assert states(after, tmp_path / "store")["unique"] == "cached", "it reads the messages only"


def test_files_enter_by_content(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 10)
    (tmp_path / "moved").mkdir()
    store = tmp_path / "store"
    run(chain(tmp_path), store)
    shutil.move(tmp_path / "a.txt", tmp_path / "moved/a.txt")
    assert set(states(chain(tmp_path / "moved"), store).values()) == {"cached"}
    pool(tmp_path / "moved/a.txt", 11)
    assert states(chain(tmp_path / "moved"), store)["a"] == "stale"
    assert why(chain(tmp_path / "moved"), store, "a") == ["the files of option path changed"]


def test_a_copied_store_is_as_good(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 10)
    run(chain(tmp_path), tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    shutil.rmtree(tmp_path / "store")
    assert set(states(chain(tmp_path), tmp_path / "copy").values()) == {"cached"}
    texts = [p.read_bytes() for p in (tmp_path / "copy").rglob("*") if p.is_file()]
    assert not any(str(tmp_path).encode() in text for text in texts), "a path was stored"


def test_another_name_for_a_column_is_another_artifact(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 10)
    store = tmp_path / "store"

    def wired(name: str) -> Recipe:
        return recipe(
            {
                "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}},
                "sized": {"uses": "toy.length", "needs": "a", "as": {"length": name}},
            }
        )

    run(wired("one"), store)
    assert why(wired("two"), store, "sized") == ["as: {'length': 'one'} -> {'length': 'two'}"]
    assert Snapshot.of_recipe(wired("two"), Store(store)).rows("sized", "kept").columns[-1] == "one"
    run(wired("two"), store)
    assert Snapshot.of_recipe(wired("two"), Store(store)).rows("sized", "kept").columns[-1] == "two"
    assert artifact(wired("two"), store, "sized").manifest["computed"] == 0, "values are remembered"


def test_a_hundred_new_rows_cost_a_hundred(tmp_path: Path) -> None:
    store = tmp_path / "store"
    pool(tmp_path / "a.txt", 5_000)
    wired = chain(tmp_path)
    run(wired, store)
    for name in ("sized", "brief"):
        assert artifact(wired, store, name).manifest["computed"] >= 1
    assert artifact(wired, store, "sized").manifest["computed"] == 5_000
    pool(tmp_path / "a.txt", 5_100)
    run(wired, store)
    sized = artifact(wired, store, "sized").manifest
    assert sized["counts"]["in"] == 5_100
    assert sized["computed"] == 100
    assert sized["used"] == {"rows": 100}
    fresh = tmp_path / "fresh"
    run(wired, fresh)
    assert (
        artifact(wired, fresh, "out").manifest["digest"]
        == (artifact(wired, store, "out").manifest["digest"])
    )


def test_equal_values_of_a_column_are_computed_once(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 200)
    wired = chain(tmp_path)
    run(wired, tmp_path / "store")
    lengths = artifact(wired, tmp_path / "store", "sized").read("kept")["length"]
    brief = artifact(wired, tmp_path / "store", "brief").manifest
    assert brief["computed"] == lengths.n_unique()
    assert brief["counts"]["kept"] == (lengths <= 20).sum()


def test_a_row_scope_stage_depends_on_the_whole_of_its_other_inputs(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 20)
    (tmp_path / "b.txt").write_text("q\t0\n")
    steps = {
        "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}},
        "b": {"uses": "toy.load", "with": {"path": str(tmp_path / "b.txt")}},
        "fine": {"uses": "toy.unlike", "needs": {"rows": "a", "banned": "b"}},
    }
    wired, store = recipe(steps), tmp_path / "store"
    run(wired, store)
    assert artifact(wired, store, "fine").manifest["counts"]["dropped"] == {"banned": 1}
    (tmp_path / "b.txt").write_text("q\t0\nq\tx1\n")
    run(wired, store)
    assert artifact(wired, store, "fine").manifest["counts"]["dropped"] == {"banned": 2}
    assert artifact(wired, store, "fine").manifest["computed"] == 20


def test_models_enter_by_identity(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 5)
    steps = {
        "a": {"uses": f"{TOY}.load", "with": {"path": str(tmp_path / "a.txt")}},
        "judged": {"uses": f"{TOY}.judge", "needs": "a", "with": {"model": "toy"}},
    }

    def wired(**more: Any) -> Recipe:
        return Recipe.of("models", steps, {"toy": {**MODEL["toy"], **more}})

    store = tmp_path / "store"
    run(wired(), store)
    for same in ({"device": "cpu"}, {"model": "elsewhere"}):
        assert states(wired(**same), store)["judged"] == "cached"
    for other in ({"id": "toy-2"}, {"dtype": "bfloat16"}):
        assert states(wired(**other), store)["judged"] == "stale"
        assert why(wired(**other), store, "judged") == ["model model changed"]
    absent = Recipe.of("models", steps, {"toy": {"model": str(tmp_path / "absent")}})
    with pytest.raises(UserError, match="model must be a folder or a name on the hub") as caught:
        states(absent, store)
    assert "judged" in str(caught.value)


def test_a_model_that_a_stage_made_is_an_input(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 25)
    store = tmp_path / "store"

    def wired(steps: int) -> Recipe:
        stages = {
            "a": {"uses": f"{TOY}.load", "with": {"path": str(tmp_path / "a.txt")}},
            "trained": {"uses": f"{TOY}.train", "needs": "a", "with": {"steps": steps}},
            "applied": {"uses": f"{TOY}.apply", "needs": "a", "with": {"model": "mine"}},
            "size": {"uses": f"{TOY}.sizes", "needs": "trained"},
        }
        return Recipe.of("train", stages, {"mine": {"from": "trained"}})

    assert states(wired(1), store)["applied"] == "unknown"
    assert list(wired(1).steps) == ["a", "trained", "applied", "size"]
    assert [s.name for s in select_steps(wired(1), ["applied"])] == ["a", "trained", "applied"]
    run(wired(1), store)
    assert artifact(wired(1), store, "applied").read("kept")["rows_seen"].unique().to_list() == [2]
    run(wired(2), store, "trained")
    assert states(wired(2), store)["applied"] == "cached", "other log, equal weights"
    assert states(wired(2), store)["size"] == "stale"
    pool(tmp_path / "a.txt", 31)
    run(wired(2), store)
    assert artifact(wired(2), store, "applied").read("kept")["rows_seen"].unique().to_list() == [3]
    assert "model model changed" in "".join(why(wired(2), store, "applied"))


def test_rows_of_a_stale_stage_are_never_mixed_with_those_of_another_run(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 12)
    wired, store = chain(tmp_path, maximum=90), tmp_path / "store"
    run(wired, store)
    changed = chain(tmp_path, maximum=3)
    kept = Snapshot.of_recipe(changed, Store(store)).rows("brief", "kept")
    assert len(kept) == 12, "stale, but its input is as it was: the last run's rows"
    pool(tmp_path / "a.txt", 12, start=100)
    run(wired, store, "a")
    for step in ("sized", "brief"):
        with pytest.raises(UserError, match="made from other rows"):
            Snapshot.of_recipe(wired, Store(store)).rows(step, "kept")
    run(wired, store)
    kept = Snapshot.of_recipe(wired, Store(store)).rows("brief", "kept")
    lengths = kept["messages"].list.last().struct.field("content").str.len_chars()
    assert lengths.to_list() == kept["length"].to_list()


def test_prompts_that_only_moved_are_said_to_have_moved(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 3)
    wired, store = chain(tmp_path), tmp_path / "store"
    run(wired, store, "sized")
    planned = planned_steps(wired, store)["sized"]
    assert planned.parts is not None
    old = {**planned.parts, "prompts": {"old/a": "1", "old/b": "2"}}
    moved = {**planned.parts, "prompts": {"new/b": "2", "new/a": "1"}}
    changed = {**planned.parts, "prompts": {"old/a": "1", "old/b": "3"}}
    assert differences(old, moved, planned.step) == ["prompts moved to other files"]
    assert differences(old, changed, planned.step) == ["prompts changed: b"]


OLD_PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another stage": lambda parts: {**parts, "stage": "toy.older", "version": 7},
    "other options": lambda parts: {**parts, "options": {"older": {"a": [1]}}},
    "another edge": lambda parts: {**parts, "inputs": {"older": parts["inputs"]["rows"]}},
    "an input of files": lambda parts: {**parts, "inputs": {"rows": [{"files": "0"}]}},
    "no inputs": lambda parts: {**parts, "inputs": {}},
    "fewer parts": lambda parts: {"stage": parts["stage"]},
}


@pytest.mark.parametrize("old", OLD_PARTS)
def test_an_artifact_of_older_code_can_be_looked_at(tmp_path: Path, old: str) -> None:
    """Only its parts differ: an artifact's columns and rows are what they were."""
    pool(tmp_path / "a.txt", 12)
    before, store = chain(tmp_path, sized={"plus": 1}), tmp_path / "store"
    run(before, store)
    for name in ("sized", "brief", "unique"):
        latest = artifact(before, store, name)
        parts = {**OLD_PARTS[old](latest.manifest["parts"]), "of": name}
        folder = latest.folder.rename(latest.folder.with_name(digest(parts)))
        manifest = {**latest.manifest, "parts": parts, "fingerprint": folder.name}
        write_manifest(folder, manifest)
        Store(store).set_latest(before.name, name, folder.name)
    now, opened = chain(tmp_path), Store(store)
    assert states(now, store)["sized"] == "stale"
    assert why(now, store, "sized")
    assert history.status(Snapshot.of_recipe(now, opened))["stages"][1]["kept"] == 12
    record = artifact(now, store, "a").read("kept")["id"][0]
    events = [
        event["stage"]
        for event in history.explain(Snapshot.of_recipe(now, opened), record)["history"]
    ]
    assert events[:2] == ["a", "sized"]
    assert len(Snapshot.of_recipe(now, opened).rows("a", "kept")) == 12
    if old in ("another stage", "other options", "another edge"):
        assert len(Snapshot.of_recipe(now, opened).rows("sized", "kept")) == 12
    else:
        with pytest.raises(UserError, match="made from other rows"):
            Snapshot.of_recipe(now, opened).rows("sized", "kept")


def test_a_step_whose_stage_made_rows_before_is_not_mixed_with_its_input(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 6)
    load = {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}}
    store = tmp_path / "store"
    run(recipe({"a": load, "b": {"uses": "toy.merge", "needs": ["a"]}}), store)
    now = recipe({"a": load, "b": {"uses": "toy.length", "needs": "a"}})
    assert history.status(Snapshot.of_recipe(now, Store(store)))["stages"][1]["kept"] == 6
    with pytest.raises(UserError, match="made from other rows"):
        Snapshot.of_recipe(now, Store(store)).rows("b", "kept")


def test_the_stage_itself_may_change(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 5)
    load = {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}}
    run(recipe({"a": load, "b": {"uses": "toy.length", "needs": "a"}}), tmp_path / "store")
    other = recipe({"a": load, "b": {"uses": "toy.distinct", "needs": "a"}})
    causes = why(other, tmp_path / "store", "b")
    assert causes[0] == f"stage: {TOY}.length -> {TOY}.distinct"


def test_wrong_options_are_reported_before_anything_runs(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 5)
    load = {"uses": "toy.load", "with": {"path": str(tmp_path / "a.txt")}}
    bad = {"uses": "toy.typed", "needs": "a", "with": {"maximum": -1}}
    wired = recipe({"a": load, "b": bad, "c": bad})
    with pytest.raises(UserError, match="maximum is below 0") as caught:
        run(wired, tmp_path / "store")
    assert str(caught.value).count("below 0") == 2
    assert states(wired, tmp_path / "store")["a"] == "missing"


def test_status_lists_all_stages(tmp_path: Path) -> None:
    pool(tmp_path / "a.txt", 30)
    wired, store = chain(tmp_path, maximum=10), Store(tmp_path / "store")
    run(wired, store.root)
    status = json.loads(json.dumps(history.status(Snapshot.of_recipe(wired, store))))
    assert status["recipe"] == "toys"
    keys = "name uses state fingerprint rows_in created kept dropped failed seconds"
    for stage in status["stages"]:
        assert set(keys.split()) | {"peak_memory_bytes"} <= set(stage)
        assert stage["peak_memory_bytes"] > 1_000_000
    brief = status["stages"][2]
    assert brief["rows_in"] == 30 == brief["kept"] + brief["dropped"]["too_long"]
