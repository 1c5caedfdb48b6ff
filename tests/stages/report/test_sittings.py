"""A leaderboard over several sittings: killed twice on its way, and nothing is trained twice."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.support.running import command, started

ARMS, SEEDS = ("kmeans_10", "longest_10", "random"), 2
SMALLER = (
    "stages.sample.with.budget=60", "stages.board_10.needs.selected=[kmeans_10, longest_10]",
    "stages.board_10.with.arms=[random]", "stages.board_10.with.num_tokens=768",
    "stages.exams.with.names=[truthfulqa]", "stages.board_10.with.max_documents=2",
)  # fmt: skip


def results(store: Path) -> dict[str, int]:
    """Finished trainings, and when they were written."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in (store / "trainings").glob("*/result.json")
    }


@pytest.mark.proof
def test_a_leaderboard_goes_on_where_it_was(tmp_path: Path) -> None:
    sets = [word for override in SMALLER for word in ("--set", override)]
    call = ("run", "leaderboard", "board_10", "--profile", "tiny", "--store", str(tmp_path), *sets)
    before: dict[str, int] = {}
    for number in (2, 4):
        sitting = started(*call)
        until = time.monotonic() + 900
        while len(results(tmp_path)) < number and sitting.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        sitting.send_signal(signal.SIGKILL)
        assert sitting.wait() == -signal.SIGKILL
        now = results(tmp_path)
        assert before.items() <= now.items()
        before = now
    assert number <= len(before) < 1 + len(ARMS) * SEEDS
    done = command(*call, timeout=900)
    assert done.returncode == 0, done.stderr
    assert before.items() <= results(tmp_path).items()
    assert len(results(tmp_path)) == 1 + len(ARMS) * SEEDS
    (file,) = tmp_path.glob("**/ablation.json")
    report = json.loads(file.read_text("utf-8"))
    assert [(r["arm"], r["seed"]) for r in report["runs"]] == [(a, s) for a in ARMS for s in (0, 1)]
    assert report["benchmarks"]["tasks"]["truthfulqa"]["documents"] == 2
