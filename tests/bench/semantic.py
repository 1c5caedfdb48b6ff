"""Semantic duplicates: exact, against an exact loop over blocks and semhash's index."""

from __future__ import annotations

import numpy as np

from tests.bench.data import Data
from tests.bench.race import Contestant, race
from tests.bench.table import Line, versus

COSINE = 0.9


def measure(data: Data) -> list[Line]:
    """At equal vectors, from which semhash gets no text to group by."""
    fields = {"file": data.vectors(384, 50_000)}
    limit = {**fields, "limit": COSINE}
    baseline = "exact, blocked numpy"
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:semantic", {**fields, "threshold": COSINE}),
            Contestant(baseline, "tests.bench.baselines_vectors:duplicates", limit),
            Contestant("semhash", "tests.bench.peers_vectors:semhash", limit, peer=True),
        ],
    )
    ours, exact, semhash = done["ours"], done[baseline], done["semhash"]
    kept = ours.outcome["kept"]
    assert np.array_equal(kept, exact.outcome["kept"]), "dedup.semantic is not exact"
    work = f"semantic duplicates, {len(kept):,} x 384"
    note = f"recall 1: same {(~kept).sum():,} dropped"
    peer_note = ""
    if not semhash.skipped:
        recall = (~kept & ~semhash.outcome["kept"]).sum() / max(1, (~kept).sum())
        peer_note = f"recall 1, theirs {recall:.4f}"
    return [
        versus(work, ours, "semhash", semhash, peer_note, 1),
        versus(work, ours, baseline, exact, note),
    ]
