"""Near-duplicates: real rows, and real rows repeated with edits, against the exact answer."""

from __future__ import annotations

import numpy as np
import polars as pl

from tests.bench.baselines_duplicates import components, exact_pairs
from tests.bench.data import Data
from tests.bench.race import Contestant, Result, race
from tests.bench.table import Line, versus

JACCARD = 0.8
DEMANDED = {"datasketch": 10.0, "datatrove": 20.0, "rensa matrix": 1.0, "dedup.minhash": None}


def measure(data: Data) -> list[Line]:
    """Both pools. Ours must be exact; the others are reported with their F1."""
    lines = []
    for what, file in (("rows", data.conversations), ("edited rows", data.edited)):
        words = pl.read_parquet(data.folder / file, columns=["words"])["words"].to_list()
        pairs = exact_pairs(words, JACCARD)
        dropped = components(pairs, len(words)) != np.arange(len(words))
        near = np.zeros(len(words), dtype=bool)
        near[pairs.ravel()] = True
        done = race(data.folder, _contestants(file))
        ours = done["dedup.jaccard"]
        assert np.array_equal(~ours.outcome["kept"], dropped), "dedup.jaccard is not exact"
        work = f"near-duplicates, {len(words):,} {what}"
        lines += [
            versus(work, ours, name, done[name], _note(done[name], dropped, near), demanded)
            for name, demanded in DEMANDED.items()
        ]
    return lines


def _contestants(file: str) -> list[Contestant]:
    fields = {"file": file}
    peers = "tests.bench.peers_duplicates"
    return [
        Contestant("dedup.jaccard", "tests.bench.ours:jaccard", fields),
        Contestant("dedup.minhash", "tests.bench.ours:minhash", fields),
        Contestant(
            "rensa matrix", "tests.bench.baselines_duplicates:rensa",
            {**fields, "threshold": JACCARD}, peer=True,
        ),
        Contestant(
            "datasketch", f"{peers}:datasketch", {**fields, "threshold": JACCARD}, peer=True
        ),
        Contestant("datatrove", f"{peers}:datatrove", fields, peer=True),
    ]  # fmt: skip


def _note(result: Result, dropped: np.ndarray, near: np.ndarray) -> str:
    """F1 of a peer's rows against the exact ones: those dropped, or those of any pair."""
    if result.skipped:
        return ""
    kept = result.outcome.get("kept")
    result_rows, truth = (result.outcome["near"], near) if kept is None else (~kept, dropped)
    f1 = 2 * (result_rows & truth).sum() / max(1, result_rows.sum() + truth.sum())
    what = "rows with a near-duplicate" if kept is None else "rows dropped"
    return f"ours F1 1 ({dropped.sum():,} dropped), theirs F1 {f1:.4f} of {what}"
