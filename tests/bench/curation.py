"""Load, heuristic filters, near-duplicates and Parquet: whole runs against whole runs.

Each run is a program from its start to its end, as people run it: ours a call of the
command line on an empty store, theirs the same work in their own way (`peers_curation`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from stages._text.tokens import field_text
from tests.bench.command_line import timed
from tests.bench.data import Data
from tests.bench.race import Contestant, race
from tests.bench.table import Line, versus


def measure(data: Data) -> list[Line]:
    """The filter by characters must leave the same rows in all; the rest is compared."""
    file = "pool.jsonl"
    data.rows.select(
        "id", field_text("conversation"), field_text("response").alias("response")
    ).write_ndjson(data.folder / file)
    peers = "tests.bench.peers_curation"
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.curation:ours", {"pool": str(data.pool)}),
            Contestant("data-juicer", f"{peers}:data_juicer", {"file": file}, peer=True),
            Contestant("datatrove", f"{peers}:datatrove", {"file": file}, peer=True),
        ],
    )
    ours = done["ours"].outcome
    work = f"load, filters, near-duplicates, Parquet, {len(data.rows):,} rows"
    lines = []
    for name, demanded in (("data-juicer", 20.0), ("datatrove", 10.0)):
        expected_rows, reported = done[name].outcome, ""
        if expected_rows:
            passed = int(expected_rows["passed"])
            assert passed == ours["passed"], f"{name}: {passed} rows have the length, not ours"
            both = len(np.intersect1d(ours["kept"], expected_rows["kept"]))
            reported = (
                f"same {passed:,} by length; in the end {len(ours['kept']):,} and "
                f"{len(expected_rows['kept']):,}, {both:,} of them in both"
            )
        lines.append(versus(work, done["ours"], name, done[name], reported, demanded))
    return lines


def ours(folder: Path, pool: str) -> Callable[[], dict[str, np.ndarray]]:
    """filter.yaml in an empty store: the ids that are `kept`, and how many had the length."""

    def run() -> dict[str, np.ndarray]:
        store = tempfile.mkdtemp(dir=folder)
        timed(
            "run", "tests/bench/filter.yaml", "--store", store,
            "--set", f"stages.pool.with.path={pool}",
        )  # fmt: skip
        manifests = [json.loads(path.read_text()) for path in Path(store).rglob("manifest.json")]
        passed = next(one for one in manifests if one["name"] == "length")["counts"]["kept"]
        shards = sorted(Path(store).rglob("files/data/train-*.parquet"))
        kept = pl.concat([pl.read_parquet(shard, columns=["id"]) for shard in shards])["id"]
        return {"kept": np.sort(kept.to_numpy().astype("U")), "passed": np.array(passed)}

    return run
