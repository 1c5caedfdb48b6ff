"""compose.constraints without a model, and tag.refusal by phrases: rows a second."""

from __future__ import annotations

import time
from typing import Any

import polars as pl

from pipeline.context import Context
from stages.compose.constraints import constraints
from stages.compose.constraints.drawn import Drawn
from stages.compose.constraints.methods import Lengths, LengthTokens, Rules
from stages.evaluate.constraints import constraints as evaluated
from stages.tag.refusal import refusal
from stages.tag.refusal.phrases import tag_phrases
from tests.bench.data import Data
from tests.bench.table import Line

DEMANDED = 20_000
"""Rows a second, on two cores."""

_ROWS = 20_000
_FEW = 1_000


def measure(data: Data) -> list[Line]:
    """Each method on rows of the pool, after a run on a few that loads what it needs."""
    ctx = Context.scratch(data.folder / "constraining")
    rows = data.rows.head(_ROWS)  # in the order of ids, which is any order
    methods = (Rules(), LengthTokens(), Lengths(), Drawn())
    lines = [_measured(ctx, rows, method) for method in methods]
    return [*lines, _tagged(ctx, rows)]


def _measured(ctx: Context, rows: pl.DataFrame, method: Any) -> Line:
    few = constraints(ctx, rows.head(_FEW), method=method)
    began, used = time.perf_counter(), time.process_time()
    new = constraints(ctx, rows, method=method)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    kept = new.filter(pl.col("drop_reason").is_null())
    if not isinstance(method, Drawn):  # whose answers are yet to come
        followed = evaluated(ctx, kept)["constraints_followed"]
        assert followed.all(), "a new row's answer does not follow its constraints"
    parents = few["parents"].list.first().to_list()
    same = new.filter(pl.col("parents").list.first().is_in(parents))
    if not isinstance(method, LengthTokens):  # a token's quota is that of all rows
        ids = [sorted(frame["id"].to_list()) for frame in (same, few)]
        assert ids[0] == ids[1], "other rows change a row"
    rate = len(rows) / seconds
    return Line(
        f"compose.constraints {method.name}, {len(rows):,} rows in {len(kept):,}",
        f"{seconds:.2f} s, {rate:,.0f} rows/s, {1e6 * cpu / len(rows):.0f} us of CPU a row",
        demanded=f">= {DEMANDED:,} rows/s",
        outcome="all constraints hold of the final text",
        met=rate >= DEMANDED,
    )


def _tagged(ctx: Context, rows: pl.DataFrame) -> Line:
    refusal(ctx, rows.head(_FEW))
    began = time.perf_counter()
    tags = refusal(ctx, rows)
    seconds = time.perf_counter() - began
    last = refusal(ctx, rows, answers="last")
    answers = rows["messages"].list.last().struct.field("content").fill_null("")
    one_by_one = pl.concat([tag_phrases(part) for part in _parts(answers)])["kind"]
    ends = rows["messages"].list.last().struct.field("role") == "assistant"
    said = answers.str.contains(r"\S") & ends
    assert last["refusal_kind"].filter(said).equals(one_by_one.filter(said)), "batches differ"
    rate = len(rows) / seconds
    return Line(
        f"tag.refusal phrases, {len(rows):,} rows, {tags['refusal_kind'].n_unique()} kinds",
        f"{seconds:.2f} s, {rate:,.0f} rows/s",
        demanded=f">= {DEMANDED:,} rows/s",
        outcome="equal whatever the batches",
        met=rate >= DEMANDED,
    )


def _parts(answers: pl.Series) -> list[pl.Series]:
    return [answers.slice(start, _FEW) for start in range(0, len(answers), _FEW)]
