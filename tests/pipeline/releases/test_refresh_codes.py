"""Every exit code of refresh, through the verb: each with its message, its log, and no release."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import Exit
from pipeline.models.engines.registry import close_engines
from pipeline.releases.refresh_log import read_log
from pipeline.store.releases import versions
from pipeline.store.store import Store
from tests.conftest import ROOT
from tests.pipeline.test_flips import answer
from tests.support.cli import Done, call
from tests.support.running import environment
from tests.support.serving import NAME, FakeServer, listening

RECIPE = """\
name: weekly
{more}
stages:
  a: {{uses: load.records, with: {{path: "pool*.jsonl", source: s, license: MIT}}}}
  chosen: {{uses: select.random, needs: a, with: {{budget: 8, seed: 0}}}}
  shards: {{uses: export.parquet, needs: chosen}}
"""
STOPPING = """\
import os

import polars as pl

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.stage import Records, stage


@stage(version=1, scope="row", reads=["messages"], adds={"size": pl.Int64})
def stopping(ctx: Context, rows: Records) -> pl.DataFrame:
    if code := os.environ.get("STOP_WITH"):
        raise UserError("this stage stops", code=Exit(int(code)))
    return pl.DataFrame({"size": [1] * len(rows)})
"""


def write_rows(path: Path, count: int, broken: int = 0) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(count)]
    lines = [json.dumps(row) for row in rows] + ["no row"] * broken
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe with a release, and rows that are new since."""
    (tmp_path / "weekly.yaml").write_text(RECIPE.format(more=""), "utf-8")
    write_rows(tmp_path / "pool1.jsonl", 20)
    assert refreshed(tmp_path).code == Exit.DONE
    write_rows(tmp_path / "pool1.jsonl", 30)
    return tmp_path


def refreshed(folder: Path, *words: str) -> Done:
    return call("refresh", str(folder / "weekly.yaml"), "--store", str(folder / "store"),
                "--workers", "1", *words)  # fmt: skip


def check(folder: Path, done: Done, code: Exit | int, message: str, logged: bool = True) -> None:
    """A refresh that released nothing says why in a mail's length, and in the log."""
    assert done.code == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) <= 10
    assert versions(Store(folder / "store"), "weekly") == ["1.0"]
    entry = read_log(Store(folder / "store"))[-1]
    assert (entry["code"] == code) is logged
    assert not logged or f"exit code {int(code)}" in done.stdout


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "weekly.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_0_released_and_nothing_new(folder: Path) -> None:
    assert refreshed(folder).stdout.startswith("weekly: released")
    assert refreshed(folder).stdout.startswith("weekly: nothing new")
    assert versions(Store(folder / "store"), "weekly") == ["1.0", "1.1"]


def test_2_a_mistake_in_the_recipe(folder: Path) -> None:
    change(folder, "budget: 8", "budgte: 8")
    check(folder, refreshed(folder), Exit.MISTAKE, "did you mean 'budget'")
    missing = call("refresh", str(folder / "weekli.yaml"), "--store", str(folder / "store"))
    assert (missing.code, "there is no recipe" in missing.stderr) == (Exit.MISTAKE, True)


def test_3_code_that_changed_under_its_version(folder: Path) -> None:
    record = next((folder / "store/code").glob("select.random*"))
    record.write_text(json.dumps("0" * 32))
    check(folder, refreshed(folder), Exit.DRIFT, "changed under the same version")


def test_4_rows_that_failed(folder: Path) -> None:
    write_rows(folder / "pool1.jsonl", 30, broken=2)
    done = refreshed(folder)
    check(folder, done, Exit.ROWS_FAILED, "a: 2 failed rows")
    assert "cat" in done.stdout, "the command that shows them"
    write_rows(folder / "pool1.jsonl", 30)
    assert refreshed(folder).code == Exit.DONE


def test_5_a_budget_and_a_time_limit(folder: Path) -> None:
    with listening(FakeServer(answer)) as port:
        url = f"http://127.0.0.1:{port}/v1"
        sections = f"models: {{m: {{engine: openai, model: '{NAME}', base_url: '{url}'}}}}\n"
        change(folder, "stages:", f"budget: {{requests: 3}}\n{sections}stages:")
        change(folder, "needs: a,", "needs: new,")
        new = "  new: {uses: generate.respond, needs: a, with: {models: [m]}}\n"
        change(folder, "  chosen", f"{new}  chosen")
        check(folder, refreshed(folder), Exit.BUDGET, "is reached")
        more = refreshed(folder, "--set", "budget.requests=99")
        assert (more.code, "released" in more.stdout) == (Exit.DONE, True), more.stdout
    close_engines()


@pytest.mark.parametrize("code", [5, 6, 7, 9])
def test_the_code_of_whatever_stops_a_stage_is_that_of_the_refresh(
    folder: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "stopping_stage.py").write_text(STOPPING)
    change(folder, "needs: a,", "needs: own,")
    change(folder, "  chosen", "  own: {uses: stopping_stage, needs: a}\n  chosen")
    monkeypatch.setenv("STOP_WITH", str(code))
    check(folder, refreshed(folder), code, "this stage stops")
    monkeypatch.delenv("STOP_WITH")
    assert refreshed(folder).code == Exit.DONE


def test_7_a_gate_that_refuses(folder: Path) -> None:
    change(folder, "name: weekly", f"name: weekly\npublish: {{to: 'file://{folder}/out'}}")
    check(folder, refreshed(folder), Exit.REFUSED, "certificate")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("how", ["vanished", "shrank"])
def test_8_a_source_that_vanished_or_shrank(folder: Path, how: str) -> None:
    if how == "vanished":
        (folder / "pool1.jsonl").unlink()
    else:
        write_rows(folder / "pool1.jsonl", 15)
    check(folder, refreshed(folder), Exit.SOURCE_LOST, how)


@contextmanager
def held_by_another(folder: Path, lock: str) -> Iterator[None]:
    with (folder / "store" / lock).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("holder", ["refresh", "run", "hub"])
def test_9_try_again(folder: Path, holder: str) -> None:
    message, logged = "uses this store", True
    with ExitStack() as stack:
        if holder == "refresh":
            message, logged = "another refresh of weekly is running", False
            stack.enter_context(held_by_another(folder, "releases/.weekly.refresh"))
        elif holder == "run":
            stack.enter_context(held_by_another(folder, "lock"))
        else:
            message = "the hub cannot be reached"
            change(folder, 'path: "pool*.jsonl"', "dataset: org/pool")
        check(folder, refreshed(folder), Exit.TRY_AGAIN, message, logged)


def test_130_an_interruption_leaves_what_is_finished(folder: Path) -> None:
    """Cron's `timeout` ends a refresh so; the next one releases."""
    (folder / "stopping_stage.py").write_text(
        STOPPING.replace("    if code", "    import time\n\n    time.sleep(60)\n    if code")
    )
    change(folder, "needs: a,", "needs: own,")
    change(folder, "  chosen", "  own: {uses: stopping_stage, needs: a}\n  chosen")
    words = ["refresh", str(folder / "weekly.yaml"), "--store", str(folder / "store")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words, "--workers", "1"], cwd=ROOT, text=True,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if "own (stopping_stage)" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED
    assert versions(Store(folder / "store"), "weekly") == ["1.0"]
    change(folder, "  own: {uses: stopping_stage, needs: a}\n", "")
    change(folder, "needs: own,", "needs: a,")
    assert refreshed(folder).code == Exit.DONE
