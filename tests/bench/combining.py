"""compose.combine without a model: rows a second, with budgets that the tokenizer confirms."""

from __future__ import annotations

import time
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.compose.combine import combine
from stages.compose.combine.mosaic import Mosaic
from stages.compose.combine.sequence import SequenceMethod
from stages.tag.tokens import tokens
from tests.bench import ROOT
from tests.bench.data import Data
from tests.bench.table import Line

_ROWS = 20_000
DEMANDED = 20_000
"""Rows a second; with mosaic, each row once for each epoch."""


def measure(data: Data) -> list[Line]:
    """Both methods on rows of the pool, of which rows of one request and one answer are used."""
    ctx = Context.scratch(data.folder / "combining")
    model = LanguageModel(model=str(ROOT / "data/models/tinylm"))
    rows = data.rows.head(_ROWS)  # in the order of ids, which is any order
    combine(ctx, rows.head(10), model=model)  # loads the tokenizer
    return [
        _measured(ctx, rows, model, method, uses)
        for method, uses in ((Mosaic(), len(rows) * Mosaic().epochs), (SequenceMethod(), len(rows)))
    ]


def _measured(
    ctx: Context, rows: pl.DataFrame, model: LanguageModel, method: Any, uses: int
) -> Line:
    began, used = time.perf_counter(), time.process_time()
    new = combine(ctx, rows, model=model, method=method)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    kept = new.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())
    counted = tokens(ctx, kept, model=model)["tokens"].to_list()
    assert counted == kept["tokens"].to_list(), "the tokens of new rows differ from tag.tokens"
    rate = uses / seconds
    return Line(
        f"compose.combine {method.name}, {uses:,} rows in {len(kept):,}",
        f"{seconds:.2f} s, {rate:,.0f} rows/s, {1e6 * cpu / uses:.0f} us of CPU a row",
        demanded=f">= {DEMANDED:,} rows/s",
        outcome="tokens equal those of tag.tokens",
        met=rate >= DEMANDED,
    )
