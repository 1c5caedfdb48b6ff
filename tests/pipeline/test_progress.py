"""What a run says while it runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.progress import LineProgress, Speed, StartedStep, duration


@given(st.integers(0, 10_000), st.floats(0.1, 100), st.integers(2, 50))
def test_the_time_left_is_right_whatever_was_done_before(
    known: int, rate: float, steps: int
) -> None:
    """Of a stage that is as fast all the time, reported after a resume that knew some answers."""
    speed, total = Speed(), known + 100 * steps
    for step in range(1, steps):
        speed.update(known + 100 * step, total, now=1000 + 100 * step / rate)
    remaining = duration(100 / rate)
    if steps > 2:
        assert speed.text() == f"{rate:,.1f}/s, {remaining} left"
    else:
        assert speed.text() == "", "one report is no measure"


def test_a_part_of_a_stage_is_measured_by_itself() -> None:
    speed = Speed()
    for now, (done, total) in enumerate([(10, 20), (20, 20), (1, 500), (6, 500)]):
        speed.update(done, total, float(now))
    assert speed.text() == "5.0/s, 1 min 39 s left"


def test_lines_say_the_stage_its_model_money_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("pipeline.execution.progress.LOG_EVERY", 0.0)
    progress = LineProgress(12, lines.append)
    usage = "money 1.25 of 5, 3 failed"
    progress.start(StartedStep(3, "judged", "score.judge", ["qwen"], lambda: usage))
    progress.update(900, 1000)
    progress.finish("9 kept")
    assert lines == [
        "[ 3/12] judged (score.judge, qwen)",
        "[ 3/12] judged: 900/1,000 (money 1.25 of 5, 3 failed)",
        "[ 3/12] judged: 9 kept",
    ]
