"""A model whose answers are useless: every stage that writes says why each row is lost.

Among the useless answers are those of a model that runs away and fills its answer with one
thing up to the limit; they must be parsed in no time.
"""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from tests.support.cases import CASES, NAMES, Case, few_rows
from tests.support.scripted import Answer, scripted
from tests.support.teacher import saying, teacher

WRITING = [
    pytest.param(case, id=name)
    for case, name in zip(CASES, NAMES, strict=True)
    if case.resolved.creates
]
USELESS: dict[str, Answer] = {
    "empty": ("", "stop"),
    "blank": (" \n\t\n ", "stop"),
    "noise": ("}{ %% \x00 [[ ]( `` <|x|> \ufffd", "stop"),
    "cut": ("1. The", "length"),
    "failed": ("the server is on fire", "error"),
}
LENGTH = 30_000
RUNS = ("\n", "\n ", " ", "* ", "**", "\t", "#", "```\n", "[", "{", "1")
SECONDS = 4.0
"""For one answer; patterns that try every beginning against every end take minutes for one."""


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        # Each way to write meets one of the answers; the others are proofs.
        pytest.param(
            *case.values,
            answer,
            id=f"{case.id}-{answer}",
            marks=[pytest.mark.proof] * ((number + index) % len(USELESS) != 0),
        )
        for index, case in enumerate(WRITING)
        for number, answer in enumerate(USELESS)
    ],
)
def test_every_useless_answer_is_accounted_for(
    case: Case, answer: str, ctx: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = scripted(ctx, saying(USELESS[answer]))
    options = case.all_options(tmp_path)
    options |= {"max_requests": 9} if "max_requests" in options else {}
    rows = case.resolved.function(context, **case.edges, **options)
    assert context.engine.calls
    assert len(rows), "an empty table says nothing"
    kept = rows.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())
    assert rows.filter(pl.col("drop_reason").is_not_null())["evidence"].null_count() == 0
    if answer in ("empty", "blank", "failed"):
        # A revision leaves the rows that came as they were.
        came = [edge["id"] for edge in case.edges.values()]
        assert not len(kept.filter(~pl.col("id").is_in(pl.concat(came) if came else [])))
    if not len(kept):
        reasons = {*rows["drop_reason"].drop_nulls()} or {"failed"}
        assert "none of" in caplog.text
        assert all(reason in caplog.text for reason in reasons), (reasons, caplog.text)
    if answer == "failed":
        assert "the server is on fire" in set(rows["error"].drop_nulls())


@pytest.mark.parametrize("case", WRITING)
def test_a_useful_model_leaves_rows(case: Case, ctx: Context, tmp_path: Path) -> None:
    """So that the answers, and not the case, are the reason for the losses above."""
    if case.method == "mammoth2":
        pytest.skip("pairs must stand in the text, and the teacher's do not")
    rows = case.resolved.function(
        scripted(ctx, teacher), **case.edges, **case.all_options(tmp_path)
    )
    assert len(rows.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null()))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(*case.values, id=case.id, marks=[pytest.mark.proof] * (index % 3 != 0))
        for index, case in enumerate(WRITING)
    ],
)
def test_a_runaway_answer_is_parsed_in_no_time(case: Case, ctx: Context, tmp_path: Path) -> None:
    text = "\n".join(run * (LENGTH // len(run)) for run in RUNS)
    context = scripted(ctx, saying((text, "stop")))
    options = case.all_options(tmp_path)
    options |= {"max_requests": 1} if "max_requests" in options else {}
    edges = few_rows(case, 2)
    start = time.process_time()
    rows = case.resolved.function(context, **edges, **options)
    num_requests = sum(len(requests) for requests in context.engine.calls)
    assert len(rows)
    assert time.process_time() - start < SECONDS * max(1, num_requests)
