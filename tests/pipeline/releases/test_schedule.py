"""Schedules are tested in the form in which they run: by cron's environment and systemd's eyes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline import DEFAULT_STORE
from pipeline.errors import UserError
from pipeline.releases.schedule import FORMS, Every, Moment, schedule
from tests.conftest import ROOT
from tests.support.running import called

WORKFLOW = ROOT / ".github" / "workflows" / "refresh.yml"
EVERY: tuple[Every, ...] = ("hourly", "daily", "weekly", "monthly")
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def is_cron(text: str) -> bool:
    """Whether five fields are a moment, as far as schedules here use the form."""
    fields = text.split(" ")
    return len(fields) == 5 and all(
        field == "*" or (field.isdecimal() and low <= int(field) <= high)
        for field, (low, high) in zip(fields, FIELDS, strict=True)
    )


@given(st.text(min_size=1), st.sampled_from(EVERY))
def test_every_moment_is_one_of_cron(name: str, every: Every) -> None:
    moment = Moment.of(name, every)
    assert is_cron(moment.cron)
    assert moment == Moment.of(name, every)
    times = {"hourly": 24 * 30, "daily": 30, "weekly": 4, "monthly": 1}
    assert moment.cron.count("*") == {720: 4, 30: 3, 4: 2, 1: 2}[times[every]]


def test_a_bad_minute_is_caught() -> None:
    assert not is_cron("77 3 * * 0")
    assert not is_cron("7 3 * *")
    assert is_cron("7 3 * * 0")


def toy(folder: Path) -> Path:
    """A recipe whose names need quoting."""
    folder = folder / "it's 100% here"
    folder.mkdir()
    rows = [{"prompt": "Why?", "completion": "So."}, {"prompt": "How?", "completion": "Thus."}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "toy.yaml"
    path.write_text(
        "name: toy\nstages:\n"
        "  pool: {uses: load.records, with: {path: rows.jsonl, source: toy, license: MIT}}\n"
        "  shards: {uses: export.parquet, needs: pool}\n"
    )
    return path


def test_the_crontab_line_runs_in_crons_environment(tmp_path: Path) -> None:
    recipe, store = toy(tmp_path), tmp_path / "store"
    printed = called("schedule", str(recipe), "--daily", "--store", str(store))
    assert printed.returncode == 0, printed.stderr
    (line,) = printed.stdout.splitlines()
    fields = line.split(" ", 5)
    assert is_cron(" ".join(fields[:5]))
    # Of the command, cron takes what stands before the first bare % and unescapes the others.
    shell = re.split(r"(?<!\\)%", fields[5])[0].replace(r"\%", "%")
    environment = {"HOME": str(tmp_path), "LOGNAME": "root", "PATH": "/usr/bin:/bin",
                   "SHELL": "/bin/sh", "PWD": str(tmp_path)}  # fmt: skip
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "release: toy@1.0" in done.stdout


def test_the_shipped_workflow_is_the_one_that_the_verb_prints() -> None:
    printed = called("schedule", "quickstart", "--form", "github").stdout
    assert printed == WORKFLOW.read_text("utf-8")


def checked_workflow(path: Path) -> subprocess.CompletedProcess[str]:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    return subprocess.run(
        [*checker, "vendor.github-workflows", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_workflow_is_valid_and_asks_for_little(tmp_path: Path) -> None:
    assert checked_workflow(WORKFLOW).returncode == 0
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text("utf-8").replace("runs-on", "runs_on"))
    assert checked_workflow(wrong).returncode != 0
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    triggers = workflow[True]  # YAML 1.1 reads `on` so
    assert all(is_cron(entry["cron"]) for entry in triggers["schedule"])
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", action) for action in actions)
    assert "secrets." not in WORKFLOW.read_text("utf-8")


def test_the_workflow_keeps_the_store_whatever_stops_the_refresh() -> None:
    """A budget, failed rows, a hub that cannot be reached: what is paid for is not lost."""
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    steps = {step.get("uses", step.get("run", "")).split("@")[0]: step for step in job["steps"]}
    names = list(steps)
    restored, saved = steps["actions/cache/restore"], steps["actions/cache/save"]
    (refreshed,) = (name for name in names if "pipeline refresh" in name)
    order = ["actions/cache/restore", refreshed, "actions/cache/save"]
    assert [name for name in names if name in order] == order
    assert saved["if"] == "always()"
    assert saved["with"]["path"] == restored["with"]["path"] == str(DEFAULT_STORE.relative_to(ROOT))
    # A cache is written once: each attempt has a name of its own, and reads the last one's.
    assert saved["with"]["key"].endswith("${{ github.run_id }}-${{ github.run_attempt }}")
    assert saved["with"]["key"].startswith(restored["with"]["restore-keys"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_the_timer_is_one_of_systemd(tmp_path: Path) -> None:
    recipe = toy(tmp_path)
    text = called("schedule", str(recipe), "--form", "systemd").stdout
    service, timer = re.split(r"(?m)^(?=# .*\.timer\n)", text, maxsplit=1)
    units = [tmp_path / "refresh-toy.service", tmp_path / "refresh-toy.timer"]
    for unit, content in zip(units, (service, timer), strict=True):
        unit.write_text(content)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "refresh-toy" not in done.stderr, done.stderr
    for every in EVERY:
        calendar = Moment.of("toy", every).calendar
        assert subprocess.run(["systemd-analyze", "calendar", calendar], check=False,
                              capture_output=True).returncode == 0  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_no_schedule_can_hold_is_refused(form: str) -> None:
    moment = Moment.of("toy", "weekly")
    for word in ("a\nb", "${{ secrets.TOKEN }}"):
        with pytest.raises(UserError, match="without line breaks"):
            schedule(form, "toy", ["quickstart", "--set", word], moment)


def test_one_rhythm_and_one_known_form() -> None:
    assert (
        "one of --daily, --weekly" in called("schedule", "quickstart", "--daily", "--weekly").stderr
    )
    assert "--form must be" in called("schedule", "quickstart", "--form", "launchd").stderr


@pytest.mark.proof
@pytest.mark.skipif(
    shutil.which("cron") is None or os.geteuid() != 0, reason="needs cron, and to be root"
)
def test_cron_itself_refreshes(tmp_path: Path) -> None:
    recipe, store = toy(tmp_path), tmp_path / "store"
    line = called("schedule", str(recipe), "--hourly", "--store", str(store)).stdout.strip()
    shell = line.split(" ", 5)[5]
    entry = Path("/etc/cron.d/gristmill-test")
    mail = tmp_path / "mail"
    entry.write_text(f"* * * * * root {shell} > '{mail}' 2>&1\n")
    daemon = subprocess.Popen(["cron", "-f"])
    try:
        for _ in range(180):
            if (tmp_path / "mail").exists() and "release: toy@1.0" in (
                tmp_path / "mail"
            ).read_text():
                break
            subprocess.run(["sleep", "1"], check=True)
        else:
            raise AssertionError("cron did not refresh within three minutes")
    finally:
        entry.unlink()
        daemon.terminate()
        daemon.wait()
