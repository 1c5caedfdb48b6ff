"""ROUGE-L novelty: the 52,002 instructions, and a pool in which much is dropped."""

from __future__ import annotations

import numpy as np

from tests.bench.data import Data
from tests.bench.race import Contestant, Result, race
from tests.bench.table import Line, versus

THRESHOLD = 0.7


def measure(data: Data) -> list[Line]:
    """The whole pool against rapidfuzz; the reference loop, per pair, on a small one."""
    small = data.edited_instructions(400, repeats=4)
    fields = {"threshold": THRESHOLD}
    loop = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:novelty", {"file": small, **fields}),
            Contestant(
                "rouge_score", "tests.bench.peers_novelty:rouge_score",
                {"file": small, **fields}, peer=True,
            ),
        ],
        rounds=1,
    )  # fmt: skip
    lines = []
    for file in (data.conversations, data.edited_instructions(20_000, repeats=4)):
        both = race(
            data.folder,
            [
                Contestant("ours", "tests.bench.ours:novelty", {"file": file, **fields}),
                Contestant(
                    "rapidfuzz", "tests.bench.baselines_novelty:rapidfuzz", {"file": file, **fields}
                ),
            ],
        )
        ours, peer = both["ours"], both["rapidfuzz"]
        _equal(ours, peer)
        kept = ours.outcome["kept"]
        work = f"ROUGE-L novelty, {len(kept):,} instructions"
        note = f"same {kept.sum():,} kept"
        first = file == data.conversations
        if first:
            lines.append(_loop(work, ours, loop["ours"], loop["rouge_score"]))
        lines.append(
            versus(work, ours, "rapidfuzz cdist with a cut-off", peer, note, 2 if first else None)
        )
    return lines


def _loop(work: str, ours: Result, small: Result, reference: Result) -> Line:
    """Per pair: of a text and one kept before it."""
    share, note = 1.0, ""
    if not reference.skipped:
        _equal(small, reference)
        pairs = int(reference.outcome["pairs"])
        share = pairs / _pairs(ours.outcome["kept"])
        note = f"per pair, from {pairs:,}; same {small.outcome['kept'].sum():,} kept there"
    return versus(work, ours, "rouge_score loop", reference, note, 2000, share)


def _pairs(kept: np.ndarray) -> int:
    return int((np.cumsum(kept) - kept).sum())


def _equal(ours: Result, peer: Result) -> None:
    assert np.array_equal(ours.outcome["kept"], peer.outcome["kept"]), "novelty keeps other rows"
