"""Growth: time and memory at up to 1,000,000 short rows, each size in a process of its own.

The rows are instructions, each there 20 times with seeded edits, so that the share of
near-duplicates is the same at each size. Vectors are those of the real rows, repeated
with seeded noise. The least time of three runs is fitted as c * n^e; the exponent that
stands beside it is what n log n would have from the smallest size to the largest.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from tests.bench.data import Data
from tests.bench.pools import edited_pool, records
from tests.bench.race import Contestant, race
from tests.bench.table import Line

SIZES = (125_000, 250_000, 500_000, 1_000_000)
SMALL = (5_000, 10_000, 20_000, 40_000)
REPEATS = 20
LIMIT = 4.0
TOLERANCE = 0.1
"""How far the fitted exponent may lie above that of n log n: four measurements are noisy."""


def measure(data: Data) -> list[Line]:
    """Near-duplicates by both methods, n-grams, k-means."""
    sizes = SIZES if data.complete else SMALL
    files = {size: _rows(data, size) for size in sizes}
    vectors = {size: _vectors(data, size) for size in sizes}
    ours = "tests.bench.ours"
    works = {
        "dedup.jaccard": [Contestant("ours", f"{ours}:jaccard", {"file": files[n]}) for n in sizes],
        "dedup.minhash": [Contestant("ours", f"{ours}:minhash", {"file": files[n]}) for n in sizes],
        "decontaminate.ngram": [
            Contestant("ours", f"{ours}:ngrams", {"file": files[n], "benchmarks": data.exams})
            for n in sizes
        ],
        "k-means, 384 dimensions, k = 161": [
            Contestant("ours", f"{ours}:kmeans", {"file": vectors[n], "k": 161, "seed": 0})
            for n in sizes
        ],
    }
    lines = []
    for work, contestants in works.items():
        print(f"  {work}", flush=True)
        done = [race(data.folder, [one])["ours"] for one in contestants]
        lines += _lines(work, sizes, [one.least for one in done], max(one.gib for one in done))
    return lines


def _lines(work: str, sizes: tuple[int, ...], seconds: list[float], gib: float) -> list[Line]:
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    growth = math.log(math.log(sizes[-1]) / math.log(sizes[0]), sizes[-1] / sizes[0])
    shown = ", ".join(f"{n // 1000}k {t:.1f} s" for n, t in zip(sizes, seconds, strict=True))
    what = f"{work}, {sizes[-1]:,} rows"
    return [
        Line(what, f"{gib:.2f} GiB", demanded=f"<= {LIMIT:g} GiB", met=gib <= LIMIT),
        Line(
            what, f"n^{exponent:.2f}", demanded=f"<= n^{1 + growth:.2f} (n log n)",
            outcome=shown, met=exponent <= 1 + growth + TOLERANCE,
        ),
    ]  # fmt: skip


def _rows(data: Data, count: int) -> str:
    """Records of instructions; the same rows for as long as there are not enough of them."""
    name = f"short-{count}.parquet"
    texts = edited_pool(data.instructions[: count // REPEATS], count, seed=3)
    # In parts: a million conversations as Python objects are larger than all that is measured.
    step = 50_000
    parts = [records(texts[start : start + step]) for start in range(0, len(texts), step)]
    pl.concat(parts).unique("id").sort("id").write_parquet(data.folder / name)
    return name


def _vectors(data: Data, count: int) -> str:
    """384 dimensions of real rows, repeated with noise a tenth as long; of length 1."""
    name = f"vectors-{count}.npy"
    real = np.load(data.folder / data.vectors(384, 50_000))
    source = np.random.default_rng(4)
    file = np.lib.format.open_memmap(
        data.folder / name, "w+", dtype=np.float32, shape=(count, real.shape[1])
    )
    for start in range(0, count, len(real)):
        rows = real[: count - start].copy()
        noise = source.standard_normal(rows.shape, dtype=np.float32)
        rows += noise * np.float32(0.1 / math.sqrt(rows.shape[1]))
        file[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    file.flush()
    return name
