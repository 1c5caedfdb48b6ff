"""Refresh releases what is new, says why where it does not, and leaves nothing half done."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.progress import LineProgress
from pipeline.recipe.recipe import Recipe
from pipeline.releases.refresh import refresh
from pipeline.releases.refresh_log import Refreshed, read_log
from pipeline.store.releases import versions
from pipeline.store.store import Store
from tests.support.cli import call
from tests.support.fake_hub import FakeHub, Fault
from tests.support.killing import killer
from tests.support.places import KINDS, place
from tests.support.publications import reachable
from tests.support.running import called, pool, toys

RECIPE = """\
name: weekly
{more}
stages:
  pool: {{uses: load.records, with: {{path: pool*.jsonl, source: pool, license: MIT}}}}
  other: {{uses: load.records, with: {{path: other.jsonl, source: other, license: MIT}}}}
  all: {{uses: load.concat, needs: [pool, other]}}
  chosen: {{uses: select.random, needs: all, with: {{budget: 30, seed: 0}}}}
  shards: {{uses: export.parquet, needs: chosen}}
"""


def rows(path: Path, numbers: range) -> None:
    lines = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}."} for n in numbers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe and its two sources."""
    rows(tmp_path / "pool1.jsonl", range(20))
    rows(tmp_path / "other.jsonl", range(100, 120))
    (tmp_path / "weekly.yaml").write_text(RECIPE.format(more=""), "utf-8")
    return tmp_path


def refreshed(folder: Path, *overrides: str) -> Refreshed:
    path = str(folder / "weekly.yaml")
    return refresh(
        path,
        Store(folder / "store"),
        lambda: Recipe.load(path, overrides),
        lambda recipe: LineProgress(len(recipe.steps), lambda text: None),
    )


def version_names(folder: Path) -> list[str]:
    return versions(Store(folder / "store"), "weekly")


def test_the_same_sources_are_nothing_new_at_once(folder: Path) -> None:
    first = refreshed(folder)
    assert (first.code, first.outcome, first.release) == (0, "released", "weekly@1.0")
    artifacts = sorted((folder / "store" / "artifacts").iterdir())
    began = time.perf_counter()
    again = refreshed(folder)
    assert time.perf_counter() - began < 3
    assert (again.code, again.outcome, again.release) == (0, "nothing new", "weekly@1.0")
    assert sorted((folder / "store" / "artifacts").iterdir()) == artifacts
    # Another modification time is no other content.
    (folder / "other.jsonl").touch()
    assert refreshed(folder).outcome == "nothing new"
    assert version_names(folder) == ["1.0"]


def test_new_rows_are_a_minor_release_and_another_recipe_a_major_one(folder: Path) -> None:
    refreshed(folder)
    rows(folder / "pool2.jsonl", range(20, 25))  # the pattern finds another file
    second = refreshed(folder)
    assert (second.release, second.outcome) == ("weekly@1.1", "released")
    assert any(line.startswith("pool: ") for line in second.why)
    counts = second.rows
    assert counts["after"] == counts["unchanged"] + counts["added"] + counts["changed"]
    assert sum(cause["rows"] for cause in second.causes) == counts["added"] + counts["removed"]
    text = (folder / "weekly.yaml").read_text().replace("budget: 30", "budget: 25")
    (folder / "weekly.yaml").write_text(text)
    third = refreshed(folder)
    assert (third.release, third.why) == ("weekly@2.0", ["the recipe changed"])


def test_what_changes_no_row_makes_no_release(folder: Path) -> None:
    refreshed(folder)
    with (folder / "other.jsonl").open("a") as file:
        file.write("\n")  # other bytes, the same rows
    result = refreshed(folder)
    assert result.code is Exit.DONE
    assert "no new release" in result.outcome
    assert version_names(folder) == ["1.0"]


def test_a_lost_source_is_told_and_nothing_released(folder: Path) -> None:
    (folder / "other.jsonl").rename(folder / "kept.jsonl")
    assert refreshed(folder).code is Exit.MISTAKE  # it was never there
    (folder / "kept.jsonl").rename(folder / "other.jsonl")
    refreshed(folder)
    (folder / "other.jsonl").unlink()
    lost = refreshed(folder)
    assert lost.code is Exit.SOURCE_LOST
    assert any("other.jsonl" in line for line in lost.why)
    assert lost.release == "weekly@1.0"
    assert version_names(folder) == ["1.0"]


@pytest.mark.parametrize(("left", "code"), [(16, Exit.DONE), (15, Exit.SOURCE_LOST)])
def test_a_source_may_shrink_by_a_fifth(folder: Path, left: int, code: Exit) -> None:
    refreshed(folder)
    rows(folder / "other.jsonl", range(100, 100 + left))
    result = refreshed(folder)
    assert result.code is code
    assert len(version_names(folder)) == (2 if code is Exit.DONE else 1)
    if code is Exit.SOURCE_LOST:
        assert any("other: 20 -> 15 rows" in line for line in result.why)
        assert refreshed(folder, "refresh.shrink=30%").release == "weekly@1.1"


def test_failed_rows_are_not_released_until_they_are_mended(folder: Path) -> None:
    refreshed(folder)
    rows(folder / "pool2.jsonl", range(20, 25))
    with (folder / "pool2.jsonl").open("a") as file:
        file.write("no row\n")
    for _ in range(2):
        result = refreshed(folder)
        assert result.code is Exit.ROWS_FAILED
        assert result.why[0] == "pool: 1 failed rows"
        assert version_names(folder) == ["1.0"]
    rows(folder / "pool2.jsonl", range(20, 25))
    assert refreshed(folder).release == "weekly@1.1"


def test_the_gate_is_passed_before_a_release_is_made(folder: Path) -> None:
    more = f"publish: {{to: 'file://{folder}/out'}}"
    (folder / "weekly.yaml").write_text(RECIPE.format(more=more), "utf-8")
    result = refreshed(folder)
    assert result.code is Exit.REFUSED
    assert any("certificate" in line for line in result.why)
    assert version_names(folder) == []
    assert not (folder / "out").exists()


def test_a_release_is_published_once_also_when_the_place_did_not_answer(folder: Path) -> None:
    target = folder / "out"
    more = f"publish: {{to: 'file://{target}', gate: {{certificate: false}}}}"
    (folder / "weekly.yaml").write_text(RECIPE.format(more=more), "utf-8")
    target.write_text("no folder can be made here")
    failed = refreshed(folder)
    assert failed.code is not Exit.DONE
    assert failed.published is None
    assert version_names(folder) == ["1.0"]
    target.unlink()
    second = refreshed(folder)
    assert (second.code, second.release, second.published) == (0, "weekly@1.0", f"file://{target}")
    shards = sorted(target.rglob("*.parquet"))
    assert sum(len(pl.read_parquet(shard)) for shard in shards) == 30
    third = refreshed(folder)
    assert (third.outcome, third.published) == ("nothing new", f"file://{target}")
    assert version_names(folder) == ["1.0"]


def flip(path: Path, position: int = -9) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: flip(next(store.glob("artifacts/*/files/data/*.parquet"))),
        lambda store: next(store.glob("artifacts/*/files/data/*.parquet")).unlink(),
        lambda store: [flip(path) for path in store.glob("artifacts/*/kept.parquet")],
        lambda store: flip(next(store.glob("artifacts/*/manifest.json"))),
        lambda store: shutil.rmtree(next(store.glob("artifacts/*/files/data")).parents[1]),
    ],
    ids=["flipped shard", "lost shard", "flipped rows", "flipped manifest", "lost artifact"],
)
def test_what_is_damaged_in_the_store_is_computed_again(
    folder: Path, damage: Callable[[Path], Any]
) -> None:
    """Nothing is new then, and `verify` agrees."""
    refreshed(folder)
    damage(folder / "store")
    at = ("--store", str(folder / "store"))
    assert call("verify", "weekly", *at).code == 2
    mended = refreshed(folder)
    assert (mended.code, mended.release) == (0, "weekly@1.0"), mended
    assert "computed again" in mended.outcome
    assert any("damaged" in line for line in mended.why)
    assert call("verify", "weekly", *at).code == 0
    assert refreshed(folder).outcome == "nothing new"


def test_what_the_stages_of_today_do_not_make_is_not_said_to_be_computed_again(
    folder: Path,
) -> None:
    """The version of a stage was raised since: the same rows lie in another artifact."""
    refreshed(folder)
    store, path = Store(folder / "store"), str(folder / "weekly.yaml")
    artifact = store.latest("weekly", "chosen")
    assert artifact is not None
    flip(artifact.folder / "kept.parquet")

    def raised() -> Recipe:
        recipe = Recipe.load(path)
        step = recipe.steps["chosen"]
        stage = dataclasses.replace(step.stage, version=step.stage.version + 1)
        recipe.steps["chosen"] = dataclasses.replace(step, stage=stage)
        return recipe

    done = refresh(path, store, raised, lambda recipe: LineProgress(9, lambda text: None))
    assert (done.code, done.release) == (0, "weekly@1.0")
    assert "stays damaged" in done.outcome
    assert ["damaged" in line for line in done.why] == [True]


def test_a_release_is_never_made_of_damaged_rows(folder: Path) -> None:
    path = folder / "weekly.yaml"
    at = ("--store", str(folder / "store"))
    assert call("run", str(path), *at).code == 0
    kept = next((folder / "store").glob("artifacts/*/kept.parquet"))
    flip(kept)
    done = call("release", str(path), *at)
    assert (done.code, str(kept) in done.stderr) == (2, True), done.stderr
    assert not (folder / "store" / "releases").exists()
    assert call("run", str(path), *at).code == 0
    assert call("release", str(path), *at).code == 0


def test_one_table_shows_the_whole_refresh(folder: Path) -> None:
    """Sources run first; their lines and those of the rest are numbered as one run."""
    lines: list[str] = []
    path = str(folder / "weekly.yaml")

    def progress(recipe: Recipe) -> LineProgress:
        lines.append("table")
        return LineProgress(len(recipe.steps), lines.append)

    refresh(path, Store(folder / "store"), lambda: Recipe.load(path), progress)
    assert lines.count("table") == 1
    numbered = [line.split(" ")[:2] for line in lines[1:] if not line.endswith("s")]
    assert numbered == [
        [f"[{number}/5]", name]
        for number, name in enumerate(["pool", "other", "all", "chosen", "shards"], 1)
    ]


def publishing_to(folder: Path, to: str) -> None:
    more = f"publish: {{to: '{to}', gate: {{certificate: false}}}}"
    (folder / "weekly.yaml").write_text(RECIPE.format(more=more), "utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_lost_a_release_is_noticed(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent again by itself: somebody may have erased it."""
    path, at = str(folder / "weekly.yaml"), ("--store", str(folder / "store"))
    with place(kind, folder, monkeypatch) as there:
        to = there.to
        publishing_to(folder, to)
        first = refreshed(folder)
        assert (first.release, first.published) == ("weekly@1.0", to), first
        began = time.process_time()
        again = refreshed(folder)
        assert time.process_time() - began < 3
        assert (again.outcome, again.published) == ("nothing new", to)
        there.lose()
        lost = refreshed(folder)
        assert (lost.code, lost.published) == (Exit.MISTAKE, None), lost
        assert lost.outcome == "weekly@1.0 was published and is not there any more"
        assert any("publish" in line for line in lost.why)
        assert call("publish", path, *at).code == 0
        assert refreshed(folder).outcome == "nothing new"


def test_two_refreshes_of_a_recipe_exclude_each_other(folder: Path) -> None:
    refreshed(folder)
    with (folder / "store" / "releases" / ".weekly.refresh").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another refresh") as raised:
            refreshed(folder)
        assert raised.value.code is Exit.TRY_AGAIN
    rows(folder / "pool2.jsonl", range(20, 25))
    with Store(folder / "store").locked():  # a run of somebody else's
        assert refreshed(folder).code is Exit.TRY_AGAIN
    assert refreshed(folder).release == "weekly@1.1"


def test_the_time_limit_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool(tmp_path / "rows.txt", 40)
    text = (
        "name: weekly\nrefresh: {max_hours: 0.0005}\nstages:\n"
        "  a: {uses: toy.load, with: {path: rows.txt}}\n"
        "  sized: {uses: toy.length, needs: a}\n"
    )
    (tmp_path / "weekly.yaml").write_text(toys(text), "utf-8")
    monkeypatch.setenv("TOY_NAP", "0.2")
    result = refreshed(tmp_path)
    assert result.code is Exit.BUDGET, result
    assert version_names(tmp_path) == []
    monkeypatch.setenv("TOY_NAP", "0")
    assert refreshed(tmp_path, "refresh.max_hours=1").release == "weekly@1.0"


def test_every_refresh_is_a_line_of_the_log(folder: Path) -> None:
    refreshed(folder)
    refreshed(folder)
    (folder / "other.jsonl").unlink()
    refreshed(folder)
    store = Store(folder / "store")
    with (store.root / "refresh.log.jsonl").open("a") as file:
        file.write('{"cut off')
    entries = read_log(store)
    assert [entry["code"] for entry in entries] == [0, 0, 8]
    assert [entry["outcome"] for entry in entries[:2]] == ["released", "nothing new"]
    assert all(entry["time"] and entry["recipe"] == "weekly" for entry in entries)


def test_the_verb_prints_ten_lines_and_exits_as_it_should(folder: Path) -> None:
    call = ("refresh", str(folder / "weekly.yaml"), "--store", str(folder / "store"))
    first = called(*call)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("weekly: released")
    assert "release: weekly@1.0" in first.stdout
    assert len(first.stdout.splitlines()) <= 10
    as_json = json.loads(called(*call, "--json").stdout)
    assert (as_json["code"], as_json["outcome"]) == (0, "nothing new")
    (folder / "other.jsonl").unlink()
    assert called(*call).returncode == 8


def test_options_of_the_section_are_checked(folder: Path) -> None:
    for more, what in (
        ("refresh: {shrink: much}", "shrink must be a number"),
        ("refresh: {shrink: x%}", "must be a share such as 20% or 0.2"),
        ("refresh: {shrink: 2}", "shrink must be"),
        ("refresh: {shrnk: 0.1}", "did you mean 'shrink'?"),
        ("refresh: {max_hours: 0}", "max_hours must be"),
    ):
        (folder / "weekly.yaml").write_text(RECIPE.format(more=more), "utf-8")
        result = refreshed(folder)
        assert result.code is Exit.MISTAKE
        assert any(what in line for line in result.why), (more, result)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as running:
        yield running


def hub_recipe(folder: Path) -> None:
    text = (
        "name: weekly\nstages:\n  pool: {uses: load.records, "
        "with: {dataset: org/pool, source: pool, license: MIT}}\n"
        "  shards: {uses: export.parquet, needs: pool}\n"
    )
    (folder / "weekly.yaml").write_text(text, "utf-8")


def push(hub: FakeHub, numbers: range) -> None:
    """A commit with a file of rows on the main branch of org/pool."""
    lines = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in numbers]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    hub.add_commit("org/pool", "main", "rows", {"rows.jsonl": hub.entry(content, lfs=False)})


def test_a_branch_of_the_hub_is_resolved_to_its_commit(tmp_path: Path, hub: FakeHub) -> None:
    hub.create("org/pool")
    push(hub, range(5))
    hub_recipe(tmp_path)
    first = refreshed(tmp_path)
    assert (first.code, first.rows.get("after")) == (0, 5), first
    assert refreshed(tmp_path).outcome == "nothing new"
    push(hub, range(8))
    second = refreshed(tmp_path)
    assert (second.release, second.rows["after"]) == ("weekly@1.1", 8), second


def test_a_damaged_record_of_commits_is_refused_by_name(tmp_path: Path, hub: FakeHub) -> None:
    hub.create("org/pool")
    push(hub, range(5))
    hub_recipe(tmp_path)
    assert refreshed(tmp_path).release == "weekly@1.0"
    record = tmp_path / "store" / "sources.json"
    record.write_bytes(record.read_bytes()[:-5])
    result = refreshed(tmp_path)
    assert result.code is Exit.MISTAKE
    assert any("sources.json" in line for line in result.why)
    record.unlink()
    assert refreshed(tmp_path).outcome == "nothing new"


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_local_data_set_is_a_source_by_content(tmp_path: Path, is_relative: bool) -> None:
    """A relative folder is one beside the recipe, wherever the command is given."""
    folder = tmp_path / "pool"
    folder.mkdir()
    rows(folder / "rows.jsonl", range(6))
    text = (
        "name: weekly\nstages:\n  pool: {uses: load.records, "
        f"with: {{dataset: '{'pool' if is_relative else folder}', source: pool, license: MIT}}}}\n"
        "  shards: {uses: export.parquet, needs: pool}\n"
    )
    (tmp_path / "weekly.yaml").write_text(text, "utf-8")
    assert refreshed(tmp_path).rows["after"] == 6
    assert refreshed(tmp_path).outcome == "nothing new"
    rows(folder / "rows.jsonl", range(7))
    assert refreshed(tmp_path).rows["after"] == 7
    manifests = (tmp_path / "store" / "artifacts").glob("*/manifest.json")
    assert not any(str(tmp_path) in manifest.read_text() for manifest in manifests)


def test_a_name_that_no_release_can_have_is_told_before_anything_runs(folder: Path) -> None:
    text = (folder / "weekly.yaml").read_text().replace("name: weekly", "name: my weekly rows")
    (folder / "weekly.yaml").write_text(text)
    result = refreshed(folder)
    assert result.code is Exit.MISTAKE
    assert "a release's name must be" in result.outcome
    assert not (folder / "store" / "artifacts").exists()


def test_a_hub_that_does_not_answer_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_recipe(tmp_path)
    with reachable(FakeHub(tmp_path / "hub"), monkeypatch) as hub:
        hub.create("org/pool")
        push(hub, range(5))
        assert refreshed(tmp_path).release == "weekly@1.0"
        for kind in ("cut before", 503, 429):
            hub.faults.append(Fault("info", kind, times=9))
            assert refreshed(tmp_path).code is Exit.TRY_AGAIN
            hub.faults.clear()
        assert refreshed(tmp_path).outcome == "nothing new"
    with reachable(FakeHub(tmp_path / "empty"), monkeypatch):
        assert refreshed(tmp_path).code is Exit.SOURCE_LOST  # the data set has gone
    assert version_names(tmp_path) == ["1.0"]


@pytest.mark.proof
def test_a_refresh_that_is_killed_anywhere_is_finished_by_the_next(folder: Path) -> None:
    more = f"publish: {{to: 'file://{folder}/out', gate: {{certificate: false}}}}"
    (folder / "weekly.yaml").write_text(RECIPE.format(more=more), "utf-8")
    call = ("refresh", str(folder / "weekly.yaml"), "--store", str(folder / "store"))
    kills = 0
    with killer(folder / "store", *call) as killed_at:
        number = 1
        while killed_at(number):
            kills += 1
            number += 3
    assert kills > 10
    assert refreshed(folder).code is Exit.DONE
    assert version_names(folder) == ["1.0"]
    entry = read_log(Store(folder / "store"))[-1]
    assert (entry["release"], entry["published"]) == ("weekly@1.0", f"file://{folder}/out")
    shards: Any = sorted((folder / "out").rglob("*.parquet"))
    assert sum(len(pl.read_parquet(shard)) for shard in shards) == 30
