"""What a cluster costs on one machine: a stage of a minute on Ray and in processes, two cores.

The chunks are cut alike and the results compared first. What is timed is the stage; how long it
takes until workers compute a first chunk is told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.execution.backends import Backend, StageCall
from pipeline.execution.backends.named import backend_named
from pipeline.execution.backends.processes import Processes
from pipeline.execution.workers import WorkerPool
from pipeline.recipe.discovery import find
from tests.bench.data import Data
from tests.bench.race import Contestant, race
from tests.bench.table import Line, bound

SECONDS = 60.0
WORKERS = 2
MOST = 1.25
STAGE = "tag.secrets"


def measure(data: Data) -> list[Line]:
    """tag.secrets on so many rows of the pool that two processes need a minute."""
    rows = data.rows.select("id", "messages", "tools", "extra")
    sample = rows.sample(20_000, seed=0)
    call = _call(data.folder)
    ctx = Context.scratch(data.folder / "rate")
    call(ctx, sample.head(20))  # imports
    began = time.process_time()
    call(ctx, sample)
    needed = int(SECONDS * WORKERS * len(sample) / (time.process_time() - began))
    repeated = pl.concat([rows] * (needed // len(rows) + 1)).head(needed)
    ids = pl.int_range(needed).cast(pl.String).str.zfill(9).alias("id")
    repeated.with_columns(ids).write_parquet(data.folder / "clusters.parquet")
    options = {"file": "clusters.parquet"}
    results = race(
        data.folder,
        [
            Contestant("processes", f"{__name__}:on", {**options, "backend": None}),
            Contestant("ray", f"{__name__}:on", {**options, "backend": "ray"}),
        ],
    )
    here, there = results["processes"], results["ray"]
    assert np.array_equal(here.outcome["digest"], there.outcome["digest"]), "other results on Ray"
    what = f"{STAGE}, {needed:,} rows, {WORKERS} workers: Ray against processes"
    started = f"start {there.outcome['start'][0]:.1f} s, {here.outcome['start'][0]:.1f} s"
    outcome = f"equal results; {there.seconds:.1f} s, {here.seconds:.1f} s; {started}"
    return [bound(what, there.seconds / here.seconds, "x", MOST, outcome)]


def _call(folder: Path) -> StageCall:
    stage = find(STAGE)
    options = {option.name: option.default for option in stage.options}
    return StageCall(stage, SimpleNamespace(**options), {}, folder)


def on(folder: Path, file: str, backend: str | None) -> Callable[[], dict[str, Any]]:
    """The stage by a backend: a digest of its results, and the seconds until it was started."""
    rows = pl.read_parquet(folder / file)
    call = _call(folder)
    began = time.perf_counter()
    started = backend_named(backend, WORKERS) or Processes(WORKERS)
    _first_chunks(started, call, rows)
    start = time.perf_counter() - began

    def run() -> dict[str, Any]:
        context = Context.scratch(folder / "clusters")
        chunks = WorkerPool(started).run(call, [rows], len(rows), context)
        done = pl.concat([result.with_columns(chunk["id"]) for chunk, result in chunks])
        digest = done.sort("id").hash_rows(seed=0).to_numpy()
        return {"digest": digest, "start": np.array([start])}

    return run


def _first_chunks(backend: Backend, call: StageCall, rows: pl.DataFrame) -> None:
    """Have every worker compute something: it has then imported what the stage needs."""
    prepared = backend.prepare(call, 8)
    handles = [backend.submit(prepared, rows.slice(8 * i, 8)) for i in range(4 * WORKERS)]
    while handles:
        for handle in backend.wait(handles, 1.0):
            handles.remove(handle)
            backend.result(handle)
