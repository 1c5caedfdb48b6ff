"""The rows of a release, and what `latest` means for a recipe that reads its own releases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.plan import plan
from pipeline.execution.snapshot import open_snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import Created, create
from pipeline.store.store import Store
from stages.load.release import release
from tests.support.running import TOY, artifact, pool, recipe, run, states

BUDGET = 8


def weekly(folder: Path, budget: int = BUDGET, name: str = "weekly") -> Recipe:
    """Some rows at random; those of the last release keep their place."""
    before = {"uses": "load.release", "with": {"name": name, "optional": True}}
    chosen = {"uses": "select.random", "needs": {"rows": "sized", "held": "before"}}
    return recipe(
        {
            "before": before,
            "a": {"uses": "toy.load", "with": {"path": str(folder / "rows.txt")}},
            "sized": {"uses": "toy.length", "needs": "a"},
            "chosen": {**chosen, "with": {"budget": budget}},
            "shards": {"uses": "export.parquet", "needs": "chosen"},
        },
        name,
    )


def reader(**options: Any) -> Recipe:
    return recipe({"old": {"uses": "load.release", "with": options}}, "reader")


def published(wired: Recipe, store: Path) -> Created:
    run(wired, store)
    return create(wired, Store(store))


def ids(store: Path, reference: str) -> set[str]:
    return set(open_snapshot(Store(store), reference).rows("shards")["id"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pool(tmp_path / "rows.txt", 20)
    assert published(weekly(tmp_path), tmp_path / "store").release["version"] == "1.0"
    return tmp_path / "store"


def test_rows_come_as_they_were_released(store: Path) -> None:
    wired = reader(name="weekly", columns={"length": "integer"})
    run(wired, store)
    rows = artifact(wired, store, "old").read("kept")
    expected = open_snapshot(Store(store), "weekly@1.0").rows("shards", columns=rows.columns[1:])
    assert rows.equals(expected.with_columns(pl.col("length").cast(pl.Int64)))
    counts = artifact(wired, store, "old").manifest["counts"]
    assert (counts["in"], counts["kept"]) == (BUDGET, BUDGET)


def test_a_release_makes_its_own_recipe_not_stale(store: Path, tmp_path: Path) -> None:
    wired = weekly(tmp_path)
    assert set(states(wired, store).values()) == {"cached"}
    assert not published(wired, store).is_new
    assert not published(wired, store).is_new


def test_weekly_releases_keep_their_rows(store: Path, tmp_path: Path) -> None:
    released = ["1.0"]
    for week in (1, 2, 3):
        pool(tmp_path / "rows.txt", 20 + 20 * week)
        result = published(weekly(tmp_path), store)
        assert result.is_new
        released.append(result.release["version"])
        assert ids(store, f"weekly@{released[-1]}") == ids(store, "weekly@1.0")
        assert set(states(weekly(tmp_path), store).values()) == {"cached"}
    assert released == ["1.0", "1.1", "1.2", "1.3"]
    larger = published(weekly(tmp_path, BUDGET + 4), store).release
    assert larger["version"] == "2.0"
    assert ids(store, "weekly@2.0") > ids(store, "weekly@1.3")
    # A row that is convicted, here by its source, has no place to keep.
    pool(tmp_path / "rows.txt", 15)
    published(weekly(tmp_path, BUDGET + 4), store)
    there = set(open_snapshot(Store(store), "weekly@2.1").rows("a")["id"])
    assert ids(store, "weekly@2.0") & there <= ids(store, "weekly@2.1")
    assert len(ids(store, "weekly@2.1")) == BUDGET + 4


def test_running_again_what_made_a_release_gives_it(store: Path, tmp_path: Path) -> None:
    """Nothing but the releases before it, the sources and the recipe decides."""
    pool(tmp_path / "rows.txt", 60, start=5)
    result = published(weekly(tmp_path), store).release
    assert result["version"] == "1.1"
    digests = {stage["name"]: stage["digest"] for stage in result["stages"]}
    for name in ("before", "chosen", "shards"):
        shutil.rmtree(artifact(weekly(tmp_path), store, name).folder)
    run(weekly(tmp_path), store)
    for name, digest in digests.items():
        assert artifact(weekly(tmp_path), store, name).manifest["digest"] == digest


def test_another_recipes_release_makes_stale_by_its_rows_alone(store: Path, tmp_path: Path) -> None:
    wired = reader(name="weekly")
    run(wired, store)
    assert states(wired, store) == {"old": "cached"}
    pool(tmp_path / "rows.txt", 40)
    published(weekly(tmp_path), store)
    (planned,) = plan(wired, Store(store))
    assert planned.state == "stale"
    assert "option version: '1.0' -> '1.1'" in planned.causes
    assert planned.parts
    assert (planned.parts["options"]["version"], planned.parts["options"]["store"]) == ("1.1", None)
    pinned = reader(name="weekly", version="1.0")
    assert states(pinned, store) == {"old": "cached"}


def test_a_release_of_another_store(store: Path, tmp_path: Path) -> None:
    wired, here = reader(name="weekly", store=str(store)), tmp_path / "here"
    run(wired, here)
    assert len(artifact(wired, here, "old").read("kept")) == BUDGET
    moved = tmp_path / "moved"
    store.rename(moved)
    assert states(reader(name="weekly", store=str(moved)), here) == {"old": "cached"}


def test_two_names_of_one_recipe_that_reads_both(tmp_path: Path) -> None:
    """Which release is the latest of one name does not hang on that of the other."""
    pool(tmp_path / "rows.txt", 9)
    loads = {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}}
    olds = {
        name: {"uses": "load.release", "with": {"name": name, "optional": True}}
        for name in ("one", "two")
    }
    wired, store = recipe({**olds, "a": loads}, "both"), tmp_path / "store"
    run(wired, store)
    for name in olds:
        create(wired, Store(store), name)
    assert set(states(wired, store).values()) == {"cached"}


def test_mistakes(store: Path, tmp_path: Path) -> None:
    for options, text in [
        ({"name": "weekli"}, "did you mean 'weekly'"),
        ({"name": "weekly", "version": "9.9"}, "weekly has no version 9.9"),
        ({"name": "weekly", "store": "nowhere"}, "there is no release 'weekly'"),
    ]:
        with pytest.raises(UserError, match=text):
            plan(reader(**options), Store(store))
    with pytest.raises(UserError, match="have no column 'lenght'"):
        run(reader(name="weekly", columns={"lenght": "integer"}), store)
    with pytest.raises(UserError, match="of another type"):
        run(reader(name="weekly", columns={"split": "texts"}), store)
    assert len(release(Context.scratch(tmp_path / "c"), name="w", version=None)) == 0


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"name": "../x"}, "name must be that of a release"),
        ({"name": "x", "version": "1"}, "version must be latest or MAJOR"),
        ({"name": "x", "columns": {"messages": "text"}}, "columns must be beside"),
        ({"name": "x", "columns": {"a": "float"}}, "columns"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises((RecipeErrors, UserError), match=where):
        run(reader(**options), tmp_path / "store")


def preferences(folder: Path, budget: int = 4, form: str = "dpo") -> Recipe:
    """Pairs of two sides, or one, of which some are chosen; those of the last release stay."""
    return recipe(
        {
            "before": {"uses": "load.release_pairs",
                       "with": {"name": "liked", "optional": True}},
            "a": {"uses": "load.pairs", "with": {"path": str(folder / "pairs.jsonl"),
                                                 "source": "s", "license": "MIT"}},
            "chosen": {"uses": "select.pairs", "needs": {"rows": "a", "held": "before"},
                       "with": {"budget": budget, "order": "random"}},
            "shards": {"uses": "export.pairs", "needs": "chosen", "with": {"form": form}},
        },
        "liked",
    )  # fmt: skip


def write_pairs(path: Path, count: int, one_sided: bool) -> None:
    rows = []
    for n in range(count):
        row = {"prompt": f"What is {n}?"}
        sides = {"completion": f"It is {n}.", "label": n % 2 == 0}
        row |= sides if one_sided else {"chosen": f"It is {n}.", "rejected": "No idea."}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("form", ["dpo", "kto"])
def test_a_release_of_pairs_is_an_input_and_its_pairs_are_held(tmp_path: Path, form: str) -> None:
    store, held = tmp_path / "store", []
    for week in (1, 2, 3):
        write_pairs(tmp_path / "pairs.jsonl", 10 * week, form == "kto")
        result = published(preferences(tmp_path, form=form), store)
        assert result.is_new
        held.append(ids(store, f"liked@{result.release['version']}"))
        assert set(states(preferences(tmp_path, form=form), store).values()) == {"cached"}
    assert held[0] == held[1] == held[2]
    reads = recipe({"old": {"uses": "load.release_pairs", "with": {"name": "liked"}}}, "reader")
    run(reads, store)
    rows = artifact(reads, store, "old").read("kept")
    assert set(rows["id"]) == held[0]
    expected = open_snapshot(Store(store), "liked").rows("shards", columns=rows.columns[1:])
    assert rows.equals(expected.select(rows.columns))
    with pytest.raises(UserError, match="must hold records, got pairs") as raised:
        run(reader(name="liked"), store)
    assert raised.value.hint == "uses: load.release_pairs loads them"


def test_documents_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    texts = {"uses": f"{TOY}.texts", "with": {"path": str(tmp_path / "texts.txt")}}
    published(recipe({"t": texts}, "texts"), tmp_path / "store")
    with pytest.raises(UserError, match=r"must hold records, got documents"):
        run(reader(name="texts"), tmp_path / "store")
