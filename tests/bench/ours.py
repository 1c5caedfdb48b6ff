"""Our contestants: each stage as a plain function, on a frame that is in memory already.

What is timed begins with the records (or vectors) and ends with the stage's verdicts
and evidence, as the runner gets them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.context import Context

Run = Callable[[], dict[str, np.ndarray]]


def _context(folder: Path) -> Context:
    return Context.scratch(Path(tempfile.mkdtemp(dir=folder)))


def _kept(verdicts: pl.DataFrame) -> dict[str, np.ndarray]:
    return {"kept": verdicts["drop_reason"].is_null().to_numpy()}


def _embedded(folder: Path, file: str) -> pl.DataFrame:
    """A row for each vector, with an id that keeps their order."""
    vectors = np.load(folder / file)
    ids = pl.Series("id", [f"{i:07d}" for i in range(len(vectors))])
    return pl.DataFrame([ids, pl.Series("vector", vectors).cast(pl.List(pl.Float32))])


def novelty(folder: Path, file: str, **options: Any) -> Run:
    """dedup.novelty by ROUGE-L: `kept` as a mask."""
    from stages.dedup.novelty import RougeL
    from stages.dedup.novelty import novelty as stage

    rows, ctx = pl.read_parquet(folder / file), _context(folder)
    return lambda: _kept(stage(ctx, rows, method=RougeL(**options)))


def minhash(folder: Path, file: str, **options: Any) -> Run:
    """dedup.minhash: `kept` as a mask."""
    from stages.dedup.minhash import minhash as stage

    rows, ctx = pl.read_parquet(folder / file), _context(folder)
    return lambda: _kept(stage(ctx, rows, **options))


def jaccard(folder: Path, file: str, **options: Any) -> Run:
    """dedup.jaccard: `kept` as a mask."""
    from stages.dedup.jaccard import jaccard as stage

    rows, ctx = pl.read_parquet(folder / file), _context(folder)
    return lambda: _kept(stage(ctx, rows, **options))


def ngrams(folder: Path, file: str, benchmarks: str, method: str = "gpt3-13") -> Run:
    """decontaminate.ngram: `kept` as a mask."""
    from stages.decontaminate import _rules
    from stages.decontaminate.ngram import ngram as stage

    rows, ctx = pl.read_parquet(folder / file), _context(folder)
    items = pl.read_parquet(folder / benchmarks)

    def run() -> dict[str, np.ndarray]:
        _rules.index_of.cache_clear()  # each run builds the index anew
        return _kept(stage(ctx, rows, items, method=_rules.METHODS[method]()))

    return run


def kmeans(folder: Path, file: str, k: int, seed: int) -> Run:
    """The k-means of select.clusters: `labels`."""
    from stages._vectors.arrays import as_matrix, to_device
    from stages._vectors.kmeans import kmeans as kernel

    rows = _embedded(folder, file)
    return lambda: {"labels": kernel(to_device(as_matrix(rows["vector"])), k, seed).labels}


def semantic(folder: Path, file: str, **options: Any) -> Run:
    """dedup.semantic: `kept` as a mask."""
    from stages.dedup.semantic import semantic as stage

    rows, ctx = _embedded(folder, file), _context(folder)
    return lambda: _kept(stage(ctx, rows, **options))


def diverse(folder: Path, file: str, scores: str | None = None, **options: Any) -> Run:
    """select.diverse: `kept` as a mask, and the rows `chosen` in their order.

    scores: a file of one score for each row, read as the column `score`.
    options: those of the stage as a recipe writes them.
    """
    from pipeline.recipe.discovery import find
    from pipeline.recipe.options import bind

    stage = find("select.diverse")
    bound, problems = bind(stage, options, {}, folder)
    assert not problems, problems

    rows, ctx = _embedded(folder, file), _context(folder)
    if scores:
        rows = rows.with_columns(pl.Series("score", np.load(folder / scores)))

    def run() -> dict[str, np.ndarray]:
        verdicts = stage.function(ctx, rows, **vars(bound))
        rank = verdicts["gain_rank"].fill_null(0).to_numpy()
        return {**_kept(verdicts), "chosen": np.argsort(rank, kind="stable")[(rank == 0).sum() :]}

    return run
