"""Rows as a person reads them: `sample` and `cat --table`."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pipeline.cli import row_cards
from pipeline.cli.row_cards import cards_text
from pipeline.execution.row_parts import MAX_CHARACTERS, row_parts
from pipeline.execution.sampled_rows import sampled
from pipeline.html_view import cards_html
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from tests.support.cli import call
from tests.support.running import environment, pool, run, toys
from tests.support.terminals import in_terminal

TEXT = """\
name: look
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  unique: {uses: toy.distinct, needs: sized}
  brief: {uses: toy.at_most, needs: unique, with: {maximum: 20}}
  out: {uses: toy.export, needs: brief}
"""
CALL = {"id": "1", "name": "search", "arguments": '{"query": "Rome"}'}
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\x9b]0;owned\x07<img src=x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A recipe that has run, and its store."""
    folder = tmp_path_factory.mktemp("sample")
    pool(folder / "rows.txt", 60)
    with (folder / "rows.txt").open("a") as file:
        file.write("other question\txx2\nno tab\n")
    (folder / "look.yaml").write_text(toys(TEXT))
    run(Recipe.load(str(folder / "look.yaml")), folder / "store")
    return [str(folder / "look.yaml"), "--store", str(folder / "store")]


def shown(ran: list[str], verb: str, stage: str, *more: str) -> str:
    recipe, *store = ran
    done = call(verb, recipe, stage, *more, *store)
    assert done.code == 0, done.stderr
    return done.stdout


def test_a_sample_is_the_same_every_time_and_grows(ran: list[str]) -> None:
    five, ten = shown(ran, "sample", "a"), shown(ran, "sample", "a", "-n", "10")
    assert five == shown(ran, "sample", "a")
    assert five != shown(ran, "sample", "a", "--seed", "1")
    assert five.startswith("5 of 61 rows kept in a\n1 of 5  ")
    cards = [line.split("  ")[1] for line in ten.splitlines() if " of 10  " in line]
    assert len(set(cards)) == 10
    assert [line.split("  ")[1] for line in five.splitlines() if " of 5  " in line] == cards[:5]


@given(st.sets(st.text(alphabet="0123456789abcdef", min_size=4), min_size=1), st.data())
def test_rows_that_come_leave_the_rest_of_a_sample(ids: set[str], data: st.DataObject) -> None:
    before = pl.DataFrame({"id": data.draw(st.lists(st.sampled_from(sorted(ids)), unique=True))},
                          schema={"id": pl.String})  # fmt: skip
    after = pl.DataFrame({"id": sorted(ids)})
    number = data.draw(st.integers(1, 20))
    first = sampled(before, number)["id"].to_list()
    second = sampled(after, number)["id"].to_list()
    assert [name for name in second if name in before["id"]] == first[: len(second)][
        : sum(name in before["id"] for name in second)
    ]


def test_dropped_rows_stand_beside_what_their_evidence_names(ran: list[str]) -> None:
    text = shown(ran, "sample", "unique", "--dropped")
    assert "1 of 1 rows dropped by unique" in text
    assert "dropped=duplicate  duplicate_of=" in text
    (line,) = [line for line in text.splitlines() if "question 2" in line]
    assert "other question" in line, "side by side"
    assert (
        shown(ran, "sample", "unique", "--reason", "duplicate").splitlines()[1:]
        == (text.splitlines()[1:])
    )
    failed = shown(ran, "sample", "a", "--failed")
    assert "error=no tab in 'no tab'  file=rows.txt  line=62" in failed


def test_a_reason_that_nothing_was_dropped_for_names_those_that_there_are(ran: list[str]) -> None:
    recipe, *store = ran
    done = call("sample", recipe, "brief", "--reason", "to_long", *store)
    assert done.code == 2
    assert "brief dropped no row for the reason 'to_long'" in done.stderr
    assert "too_long (" in done.stderr
    assert "did you mean 'too_long'?" in done.stderr
    files = call("sample", recipe, "out", *store)
    assert files.code == 2
    assert "gives files, not rows" in files.stderr
    both = call("sample", recipe, "a", "--failed", "--dropped", *store)
    assert (both.code, both.stdout) == (2, "")


def test_cat_shows_all_rows_as_cards(ran: list[str], tmp_path: Path) -> None:
    text = shown(ran, "cat", "brief", "--table")
    rows = shown(ran, "cat", "brief").splitlines()
    assert f"1 of {len(rows)}  " in text
    assert f"{len(rows)} of {len(rows)}  " in text
    assert "length=" in text
    assert shown(ran, "cat", "unique", "--dropped", "--table").startswith("1 of 1")
    recipe, *store = ran
    assert call("cat", recipe, "a", "--table", "-o", str(tmp_path / "x.csv"), *store).code == 2
    for name in ("x.csv", "x.xlsx"):
        assert shown(ran, "cat", "brief", "-o", str(tmp_path / name)) == ""
    assert pl.read_csv(tmp_path / "x.csv")["id"].to_list() == [json.loads(r)["id"] for r in rows]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_gets_colours_and_no_line_is_too_long(ran: list[str], columns: int) -> None:
    recipe, *store = ran
    drawn = in_terminal("sample", recipe, "unique", "--dropped", *store, columns=columns)
    assert drawn.code == 0
    assert "\x1b[1;36muser" in drawn.raw
    plain = in_terminal("sample", recipe, "a", *store, columns=columns, NO_COLOR="1")
    assert "\x1b[1;36m" not in plain.raw
    lines = re.sub(r"\x1b\[[0-9;]*m", "", plain.raw).splitlines()
    assert max(map(cell_len, lines)) <= columns


def test_the_reader_of_a_pipe_may_go(ran: list[str]) -> None:
    recipe, *store = ran
    command = [sys.executable, "-m", "pipeline", "cat", recipe, "a", "--table", *store]
    writer = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr is not None
    assert (writer.wait(), writer.stderr.read()) == (0, b"")


def conversation(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "a" * 32, "messages": list(turns), **more}


def test_reasoning_calls_and_tools_are_shown() -> None:
    row = conversation(
        {"role": "user", "content": "Where is the pope?"},
        {"role": "assistant", "content": None, "reasoning": "I must look.", "tool_calls": [CALL]},
        {"role": "tool", "content": "In Rome.", "tool_call_id": "1", "name": "search"},
        {"role": "assistant", "content": "In Rome.", "train": True},
        tools='[{"type": "function", "function": {"name": "search"}}]',
        origins=[{"source": "web", "index": 1234, "license": "MIT"}] * 3,
        vector=[0.1] * 128,
        ifd=0.123456,
    )
    text = cards_text([row_parts(row, {})], 1)
    for part in (
        "1 of 1  aaaaaaaaaaaa  web 1,234, MIT  and 2 more", "tools\n  search", "I must look.",
        "assistant: reasoning", "assistant: call search\n  query: Rome", "tool (search)",
        "assistant, trained on", "ifd=0.1235", "vector=128 numbers",
    ):  # fmt: skip
        assert part in text, part


@given(st.text(min_size=1, max_size=3000))
def test_a_text_that_is_cut_says_how_much_is_left(content: str) -> None:
    (part,) = row_parts(conversation({"role": "user", "content": content}), {}).texts
    assert content.startswith(part.text)
    assert len(part.text) + part.remaining == len(content)
    assert len(part.text) <= MAX_CHARACTERS
    (whole,) = row_parts(conversation({"role": "user", "content": content}), {}, full=True).texts
    assert (whole.text, whole.remaining) == (content, 0)


def test_long_conversations_are_cut_in_the_middle() -> None:
    turns = [{"role": "user", "content": f"turn {i}"} for i in range(20)]
    texts = [part.text or part.label for part in row_parts(conversation(*turns), {}).texts]
    between = "... 14 turns between ..."
    assert texts == [*(f"turn {i}" for i in range(4)), between, "turn 18", "turn 19"]
    assert len(row_parts(conversation(*turns), {}, full=True).texts) == 20


def hostile_row() -> dict[str, Any]:
    turn = {
        "role": "assistant", "content": HOSTILE, "reasoning": HOSTILE, "name": HOSTILE,
        "tool_calls": [{"id": HOSTILE, "name": HOSTILE, "arguments": HOSTILE}],
    }  # fmt: skip
    return conversation(
        turn, {"role": "user", "content": HOSTILE}, tools=json.dumps([HOSTILE]), title=HOSTILE,
        origins=[{"source": HOSTILE, "index": 0, "license": HOSTILE}], extra=HOSTILE,
        drop_reason=HOSTILE, evidence=json.dumps({HOSTILE: "b" * 32}), **{HOSTILE: HOSTILE},
    )  # fmt: skip


def test_no_text_of_a_row_is_ever_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a terminal's control sequences nor markup of HTML."""
    row = hostile_row()
    others = {"b" * 32: conversation({"role": "user", "content": HOSTILE})}
    for width in (60, 100):
        monkeypatch.setattr(row_cards, "READABLE", width)
        text = cards_text([row_parts(row, others)], 1)
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(text)
        assert text.count(r"\u001b[31m") > 5 or width == 60
    html = cards_html([row_parts(row, others)], HOSTILE)
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(html)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") > 8


@given(st.text(), st.integers(30, 200))
def test_any_text_fits_any_width(content: str, width: int) -> None:
    from rich.console import Console

    row = conversation({"role": "user", "content": content}, note=content[:50])
    console = Console(file=io.StringIO(), width=width)
    (text,) = row_cards._drawn([row_parts(row, {})], 1, console)
    assert all(cell_len(line) <= width for line in text.split("\n"))
