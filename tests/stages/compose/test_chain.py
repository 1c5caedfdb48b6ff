"""compose.combine with chain: outputs feed the next task, and what does not fit is dropped."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from stages.compose.combine import combine
from stages.compose.combine.chain import Chain, join, split
from stages.compose.combine.mosaic import Mosaic
from tests.support.rows import DATA, conversations, kept, self_instruct
from tests.support.scripted import Answer, Scripted, scripted

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
POOL = self_instruct(60)


def writer(text: str) -> Answer:
    """Shortens a task to its first words, finds all tasks to fit, and shouts an input."""
    if shortened := re.search(r"\n\nTask: (.*)", text):
        return f"Briefly {shortened[1][:30]}", "stop"
    if "Answer yes or no." in text:
        return "yes", "stop"
    return text.split("\n\n", 1)[1].upper(), "stop"


def chained(
    tmp_path: Path, rows: pl.DataFrame = POOL, script: Any = writer, **options: Any
) -> tuple[pl.DataFrame, Scripted]:
    ctx = scripted(Context.scratch(tmp_path), script)
    method = Chain(**{k: options.pop(k) for k in [*options] if k in Chain.__annotations__})
    frame = combine(ctx, rows, model=TINYLM, writer=TINYLM, method=method, **options)
    return frame, ctx.engine


def parts_of(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        row["id"]: {
            "request": row["messages"][0]["content"],
            "answer": row["messages"][1]["content"],
            "start": row["input_start"],
        }
        for row in rows.to_dicts()
    }


@pytest.mark.parametrize("num_tasks", [2, 3])
@pytest.mark.parametrize("shorten", [True, False])
def test_each_task_works_on_the_output_before_it(
    tmp_path: Path, num_tasks: int, shorten: bool
) -> None:
    frame, _ = chained(tmp_path, num_tasks=num_tasks, shorten=shorten, max_tokens=4096)
    parts = parts_of(POOL)
    rows = kept(frame).to_dicts()
    assert len(rows) > 50
    for row in rows:
        first, *others = (parts[id_] for id_ in row["parents"])
        assert len({*row["parents"]}) == num_tasks == len(others) + 1
        assert all(other["start"] is not None for other in others)
        request, answer = (turn["content"] for turn in row["messages"])
        outputs = split(answer)
        assert outputs[0] == first["answer"]
        for before, after in pairwise(outputs):
            assert after == before.upper().strip()
        assert request.count(" and then ") >= num_tasks - 1
        if not shorten:
            assert all(p["request"][: p["start"]].strip() in request for p in (first, *others))
        if first["start"] is not None:
            assert request[row["input_start"] :] == first["request"][first["start"] :].strip()
        assert row["tokens"] <= 4096
        assert row["journal"]


def test_every_row_begins_chains_and_what_does_not_fit_is_dropped(tmp_path: Path) -> None:
    def strict(text: str) -> Answer:
        if "Answer yes or no." in text:
            return ("yes" if len(text) % 2 else "no"), "stop"
        return writer(text)

    frame, engine = chained(tmp_path, script=strict, num_candidates=3)
    firsts = Counter(ids[0] for ids in frame["parents"].to_list())
    assert firsts == dict.fromkeys(POOL["id"], 3)
    reasons = Counter(frame["drop_reason"])
    assert reasons["not_composable"] > 30
    assert reasons[None] > 30
    written = sum("Answer yes or no." not in r.prompt[-1][1] for call in engine.calls for r in call)
    assert written == len(POOL) + frame.filter(composable=1.0).height


def test_a_judge_that_says_neither_yes_nor_no_lets_nothing_pass(tmp_path: Path) -> None:
    def vague(text: str) -> Answer:
        return writer(text) if "\n\nTask: " in text else ("perhaps", "stop")

    frame, _ = chained(tmp_path, script=vague)
    assert {*frame["drop_reason"]} == {"unreadable"}
    assert frame["evidence"].str.contains("perhaps").all()
    assert frame["composable"].null_count() == len(frame)


def test_a_request_without_an_answer_fails_what_needs_it(tmp_path: Path) -> None:
    """Also the chains in which the task that could not be shortened comes second."""
    victim = next(row for row in POOL.to_dicts() if row["input_start"] is not None)
    text = victim["messages"][0]["content"][: victim["input_start"]].strip()

    def broken(prompt: str) -> Answer:
        return ("down", "error") if prompt.endswith(f"Task: {text}") else writer(prompt)

    frame, _ = chained(tmp_path, script=broken, num_candidates=4)
    touched = frame["parents"].list.contains(victim["id"])
    assert frame.filter(touched)["error"].null_count() == 0
    assert frame.filter(~touched)["error"].null_count() == (~touched).sum()
    assert touched.sum() > 1


def test_without_an_input_there_is_no_next_task(tmp_path: Path) -> None:
    rows = conversations([(f"Say {n}.", f"{n}.") for n in range(4)])
    frame, _ = chained(tmp_path, rows)
    assert frame["drop_reason"].to_list() == ["no_next_task"] * 4


def test_an_output_that_looks_like_a_header_is_not_read_as_two(tmp_path: Path) -> None:
    def headed(text: str) -> Answer:
        answer = writer(text)
        return answer if "yes or no" in text else (f"A\n\nTask 3 output: {answer[0]}", "stop")

    frame, _ = chained(tmp_path, script=headed)
    assert "unparsed" in {*frame["drop_reason"]}
    assert not len(kept(frame))


def test_the_budget_holds_and_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    frame, _ = chained(tmp_path, max_tokens=150)
    assert kept(frame)["tokens"].max() <= 150  # type: ignore[operator]
    assert frame.filter(drop_reason="over_budget").height
    turned, _ = chained(tmp_path, POOL.sample(fraction=1, shuffle=True, seed=3), max_tokens=150)
    by_id = [kept(rows).drop("origins").sort("id") for rows in (frame, turned)]
    assert_frame_equal(*by_id)


@given(outputs=st.lists(st.text("abTask 12:output\n").filter(str.strip), min_size=1, max_size=4))
def test_an_answer_is_split_as_it_was_joined(outputs: list[str]) -> None:
    outputs = [text.strip() for text in outputs]
    if not any(re.search(r"Task ?\d+ output", text) for text in outputs):
        assert split(join(outputs)) == outputs


def test_the_authors_answers_are_split_at_both_spellings(shared: Path) -> None:
    data = (shared / "references/coi2_test.json.gz").read_bytes()
    rows = json.loads(gzip.decompress(data))
    without_space = [row for row in rows if "Task2 output" in row["output"]]
    assert len(without_space) == 513
    parts = [split(row["output"]) for row in rows]
    assert Counter(map(len, parts)) == {2: 588}
    assert [split(join([t.strip() for t in texts])) for texts in parts] == [
        [t.strip() for t in texts] for texts in parts
    ]


@pytest.mark.parametrize(
    ("method", "writes", "message"),
    [
        (Chain(), False, "writer must be given with method: chain"),
        (Mosaic(), True, "writer must be left out with method: mosaic"),
    ],
)
def test_who_writes_is_said_where_something_is_written(
    method: Any, writes: bool, message: str
) -> None:
    options = {"model": TINYLM, "method": method, "writer": TINYLM if writes else None}
    check = find("compose.combine").check
    assert check is not None
    with pytest.raises(OptionError, match=message):
        check(SimpleNamespace(**options))
