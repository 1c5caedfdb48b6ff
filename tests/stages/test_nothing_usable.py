"""A model whose answers are of no use: every stage that writes says what became of all of it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from tests.support.cases import CASES, NAMES, Case
from tests.support.scripted import Answer, scripted
from tests.support.teacher import saying, teacher

WRITING = [
    pytest.param(case, id=name)
    for case, name in zip(CASES, NAMES, strict=True)
    if case.found.creates
]
USELESS: dict[str, Answer] = {
    "empty": ("", "stop"),
    "blank": (" \n\t\n ", "stop"),
    "noise": ("}{ %% \x00 [[ ]( `` <|x|> \ufffd", "stop"),
    "cut": ("1. The", "length"),
    "failed": ("the server is on fire", "error"),
}


@pytest.mark.parametrize("answer", USELESS)
@pytest.mark.parametrize("case", WRITING)
def test_what_came_to_nothing_is_told(
    case: Case, answer: str, ctx: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = scripted(ctx, saying(USELESS[answer]))
    options = case.all_options(tmp_path)
    options |= {"max_requests": 9} if "max_requests" in options else {}
    made = case.found.function(context, **case.edges, **options)
    assert context.engine.asked
    assert len(made), "an empty table says nothing"
    kept = made.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())
    assert made.filter(pl.col("drop_reason").is_not_null())["evidence"].null_count() == 0
    if answer in ("empty", "blank", "failed"):
        assert not len(kept)
    if not len(kept):
        reasons = {*made["drop_reason"].drop_nulls()} or {"failed"}
        assert "none of" in caplog.text
        assert all(reason in caplog.text for reason in reasons), (reasons, caplog.text)
    if answer == "failed":
        assert "the server is on fire" in set(made["error"].drop_nulls())


@pytest.mark.parametrize("case", WRITING)
def test_a_model_that_is_of_use_leaves_rows(case: Case, ctx: Context, tmp_path: Path) -> None:
    """So that it is the answers, and not the case, that comes to nothing above."""
    if case.method == "mammoth2":
        pytest.skip("pairs must stand in the text, and the teacher's do not")
    made = case.found.function(scripted(ctx, teacher), **case.edges, **case.all_options(tmp_path))
    assert len(made.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null()))
