"""Kill a run at any instant: artifacts are complete, and the next run changes no result."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import Exit
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import open_artifact
from tests.support.running import artifact, contents, pool, run, started, toys

SLOW = """\
name: slow
models: {m: {engine: transformers, model: nowhere, id: m1}}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 30}}
  new: {uses: toy.invent, needs: brief, with: {model: m, count: 30}}
  all: {uses: toy.merge, needs: [brief, new]}
  clean: {uses: toy.unlike, needs: {rows: all, banned: new}}
  judged: {uses: toy.judge, needs: clean, with: {model: m}}
  unique: {uses: toy.distinct, needs: judged}
  out: {uses: toy.export, needs: unique}
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    pool(tmp_path / "rows.txt", 300)
    (tmp_path / "slow.yaml").write_text(toys(SLOW))
    return tmp_path / "slow.yaml"


def processes(store: Path) -> list[int]:
    """Living processes that belong to a run on the store, workers included."""
    running = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            identity = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if str(store).encode() in identity and not dead and int(folder.name) != os.getpid():
            running.append(int(folder.name))
    return running


def gone(store: Path, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while processes(store) and time.monotonic() < end:
        time.sleep(0.02)
    return not processes(store)


def check_artifacts(store: Path) -> None:
    """Every visible artifact is complete, and its files can be read."""
    for folder in (store / "artifacts").glob("[!.]*"):
        seen = open_artifact(folder)
        assert seen is not None, folder
        for part in ("kept", "dropped", "failed"):
            seen.read(part)


def kill(process: subprocess.Popen[str]) -> None:
    """End the runner alone: its workers must notice by themselves."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def arguments(recipe: Path, store: Path, *more: str) -> list[str]:
    return ["run", str(recipe), "--store", str(store), *more]


def finish(recipe: Path, store: Path) -> None:
    """A last run without disturbance, in this process."""
    assert run(Recipe.load(str(recipe)), store) is Exit.DONE
    assert not list((store / "artifacts").glob(".*"))
    assert not list((store / "work").iterdir())


def kill_at_random(recipe: Path, kills: int, nap: str, workers: str, longest: float) -> None:
    wired = Recipe.load(str(recipe))
    undisturbed, store = recipe.parent / "undisturbed", recipe.parent / "store"
    run(wired, undisturbed)
    chance = random.Random(kills)
    killed = 0
    for _ in range(kills):
        process = started(
            *arguments(recipe, store, "--workers", workers), TOY_NAP=nap, TOY_STORE=str(store)
        )
        try:
            process.wait(timeout=0.6 + chance.random() * longest)
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            killed += 1
            kill(process)
        assert gone(store), f"processes outlive their run: {processes(store)}"
        check_artifacts(store)
    assert killed > kills / 2, "too little to do for so many kills"
    finish(recipe, store)
    assert contents(store, wired) == contents(undisturbed, wired)


def test_random_kills_change_nothing(slow: Path) -> None:
    kill_at_random(slow, kills=4, nap="0.01", workers="1", longest=2.0)


@pytest.mark.proof
def test_many_random_kills_change_nothing(slow: Path) -> None:
    kill_at_random(slow, kills=20, nap="0.02", workers="1", longest=2.0)


@pytest.mark.proof
def test_many_random_kills_of_runs_with_workers_change_nothing(slow: Path) -> None:
    kill_at_random(slow, kills=12, nap="0.1", workers="2", longest=12.0)


def kill_in_commits(recipe: Path, kills: int) -> None:
    """Kill while a stage's staging folder holds files and is not renamed yet."""
    wired, store = Recipe.load(str(recipe)), recipe.parent / "store"
    undisturbed = recipe.parent / "undisturbed"
    run(wired, undisturbed)
    caught = 0
    for attempt in range(20 * kills):
        before = set((store / "artifacts").glob("[!.]*"))
        process = started(*arguments(recipe, store, "--workers", "1"))
        awaited = ("kept.parquet", "manifest.json")[attempt % 2]
        seen: set[Path] = set()
        while process.poll() is None and not seen:
            seen = {p.parent for p in (store / "artifacts").glob(f".*/{awaited}")}
        kill(process)
        caught += any(folder.exists() for folder in seen)
        check_artifacts(store)
        after = set((store / "artifacts").glob("[!.]*"))
        assert before <= after, "an artifact has gone"
        if caught >= kills:
            break
        if process.returncode == 0:
            shutil.rmtree(store)
    assert caught >= kills, "no kill fell into a commit"
    finish(recipe, store)
    assert contents(store, wired) == contents(undisturbed, wired)


def test_a_kill_inside_a_commit_leaves_nothing_half_done(slow: Path) -> None:
    kill_in_commits(slow, kills=1)


@pytest.mark.proof
def test_kills_inside_many_commits_leave_nothing_half_done(slow: Path) -> None:
    kill_in_commits(slow, kills=8)


def test_a_kill_between_the_renames_of_a_successor_loses_no_artifact(slow: Path) -> None:
    wired, store = Recipe.load(str(slow)), slow.parent / "store"
    run(wired, store)
    target = artifact(wired, store, "judged").folder
    target.rename(target.with_name(f".{target.name}-01234567.old"))
    run(wired, store, "a")
    assert open_artifact(target) is not None
    assert not list((store / "artifacts").glob(".*"))


def wide(folder: Path, rows: int) -> Path:
    """A recipe whose row-wise stages are worth several processes."""
    pool(folder / "rows.txt", rows)
    text = """\
name: wide
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  clean: {uses: toy.unlike, needs: {rows: sized, banned: a}}
"""
    (folder / "wide.yaml").write_text(toys(text))
    return folder / "wide.yaml"


def workers_of(process: subprocess.Popen[str], store: Path) -> list[int]:
    """Wait until the run has started workers that compute."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        others = [pid for pid in processes(store) if pid != process.pid]
        spawned = [p for p in others if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
        if len(spawned) >= 2:
            return others
        time.sleep(0.05)
    raise AssertionError(f"no workers were started: {process.communicate()[1]}")


@pytest.mark.parametrize("moment", [0.0, pytest.param(4.0, marks=pytest.mark.proof)])
def test_no_worker_outlives_a_killed_run(tmp_path: Path, moment: float) -> None:
    recipe, store = wide(tmp_path, 1500), tmp_path / "store"
    mark = {"TOY_NAP": "0.02", "TOY_STORE": str(store)}
    process = started(*arguments(recipe, store, "--workers", "2"), **mark)
    assert workers_of(process, store)
    time.sleep(moment)
    kill(process)
    assert gone(store), f"processes outlive their run: {processes(store)}"
    assert run(Recipe.load(str(recipe)), store) is Exit.DONE


def test_results_are_those_of_any_number_of_workers_and_chunk_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = wide(tmp_path, 900)
    wired = Recipe.load(str(recipe))
    monkeypatch.setattr("pipeline.execution.workers.MIN_PARALLEL_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.execution.workers.MIN_RATE_SECONDS", 0.0)
    monkeypatch.setenv("TOY_NAP", "0.001")
    run(wired, tmp_path / "two", workers=2)
    monkeypatch.setenv("TOY_NAP", "0")
    used = artifact(wired, tmp_path / "two", "sized").manifest["used"]
    assert used == {"rows": 900}, "what workers count is counted"
    for chunk in (7, 100_000):
        monkeypatch.setattr("pipeline.execution.workers.FIRST_CHUNK", chunk)
        run(wired, tmp_path / f"chunk{chunk}")
    assert contents(tmp_path / "chunk7", wired) == contents(tmp_path / "two", wired)
    assert contents(tmp_path / "chunk100000", wired) == contents(tmp_path / "two", wired)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_says_how_to_go_on(tmp_path: Path, workers: str) -> None:
    recipe, store = wide(tmp_path, 1500), tmp_path / "store"
    mark = {"TOY_NAP": "0.02", "TOY_STORE": str(store)}
    process = started(*arguments(recipe, store, "--workers", workers), **mark)
    if workers == "2":
        workers_of(process, store)
    else:
        while not list((store / "memo").glob("*/*.parquet")):
            time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"python -m pipeline run {recipe} --store {store} --workers {workers}" in err
    assert gone(store), f"processes outlive their run: {processes(store)}"
    assert run(Recipe.load(str(recipe)), store) is Exit.DONE
    assert artifact(Recipe.load(str(recipe)), store, "sized").manifest["computed"] < 1500
