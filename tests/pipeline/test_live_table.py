"""The live table of a run, as a terminal shows it."""

from __future__ import annotations

import io
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from pipeline.execution.live_table import DRAWN_PER_SECOND, LiveTable
from pipeline.execution.progress import StartedStep
from tests.support.running import pool, toys
from tests.support.terminals import in_terminal

TEXT = """\
name: live
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 20}}
"""


def drawn(table: LiveTable, columns: int = 80, lines: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_it_shows_what_each_step_does_and_what_the_run_has_used() -> None:
    table = LiveTable(["pool", "judged", "chosen"])
    table.reuse(1, "2,500 kept")
    paid = "24 requests, 2,162 tokens, money 0.5 of 2"
    step = StartedStep(2, "judged", "score.judge", ["qwen"], lambda: "3 failed", lambda: paid)
    table._live = Live(console=Console(file=io.StringIO()))
    table.start(step)
    assert drawn(table)[2].rstrip() == " judged  running   0 s, 3 failed  qwen"
    table.update(900, 1000)
    assert drawn(table) == [
        f"1 of 3 stages, 0 s, {paid}",
        " pool    cached    2,500 kept",
        " judged  running   ━━━━━━━━━━━━ 900/1,000 (3 failed)  qwen",
        " chosen  waiting   ",
    ]
    table.finish("990 kept, 10 dropped, 4.2 s")
    assert drawn(table)[2] == " judged  done      990 kept, 10 dropped, 4.2 s"


@given(
    st.lists(st.text(max_size=40), min_size=1, max_size=60),
    st.integers(20, 200),
    st.integers(5, 60),
    st.data(),
)
def test_it_fits_the_terminal_and_shows_the_running_step(
    names: list[str], columns: int, lines: int, data: st.DataObject
) -> None:
    """Whatever the names are, and however small the terminal."""
    at = data.draw(st.integers(1, len(names)))
    table = LiveTable(names)
    table._live = Live(console=Console(file=io.StringIO()))
    for number in range(1, at):
        table.reuse(number, "9 kept " * 30)
    table.start(StartedStep(at, names[at - 1], "toy.length", ["m" * 50]))
    table.update(1, 3)
    shown = drawn(table, columns, lines)
    assert len(shown) < lines
    assert max(map(cell_len, shown)) <= columns
    assert sum("running" in line for line in shown) == 1 or columns < 40


def test_drawing_costs_less_than_a_hundredth_of_a_run() -> None:
    table = LiveTable([f"stage{i}" for i in range(40)])
    for number in range(1, 20):
        table.reuse(number, "2,500 kept, 12 dropped, 0.4 s")
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=60)
    with Live(table, console=console, auto_refresh=False) as live:
        live.refresh()
        begin = time.process_time()
        for _ in range(20):
            live.refresh()
        seconds = (time.process_time() - begin) / 20
    assert seconds * DRAWN_PER_SECOND < 0.01


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    pool(tmp_path / "rows.txt", 400)
    (tmp_path / "live.yaml").write_text(toys(TEXT))
    return str(tmp_path / "live.yaml")


def test_a_run_that_ends_leaves_its_result_alone(recipe: str, tmp_path: Path) -> None:
    shown = in_terminal("run", recipe, "--store", str(tmp_path / "s"), TOY_NAP="0.002")
    assert shown.code == 0
    assert "of 3 stages" in shown.raw
    last = shown.raw[shown.raw.rindex("\x1b[2K") :]
    assert last.count("of 3 stages") == 0, "the table is wiped"
    assert "too_long" in last, "the funnel stays"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_the_terminal_whole(
    recipe: str, tmp_path: Path, stop: signal.Signals
) -> None:
    shown = in_terminal(
        "run", recipe, "--store", str(tmp_path / "s"),
        interrupt_at="sized  \x1b[1;36mrunning", stop=stop, TOY_NAP="0.05",
    )  # fmt: skip
    assert shown.code == 130
    assert "Traceback" not in shown.raw
    assert shown.raw.rindex("\x1b[?25h") > shown.raw.rindex("\x1b[?25l"), "the cursor is there"
    after = shown.raw[shown.raw.rindex("of 3 stages") :]
    assert after.index("running") < after.index("interrupted"), "the table says where it stood"
    assert after.rstrip().splitlines()[-1].strip().startswith("python -m pipeline run")


def test_a_killed_run_leaves_the_cursor_visible(recipe: str, tmp_path: Path) -> None:
    shown = in_terminal(
        "run", recipe, "--store", str(tmp_path / "s"),
        interrupt_at="sized  \x1b[1;36mrunning", stop=signal.SIGKILL, TOY_NAP="0.05",
    )  # fmt: skip
    assert shown.code == -signal.SIGKILL
    assert shown.raw.rindex("\x1b[?25h") > shown.raw.rindex("\x1b[?25l")


def test_a_terminal_without_control_sequences_gets_lines(recipe: str, tmp_path: Path) -> None:
    shown = in_terminal("run", recipe, "--store", str(tmp_path / "s"), TERM="dumb")
    assert shown.code == 0
    assert "\x1b" not in shown.raw
    assert "[2/3] sized: 400 kept" in shown.raw
