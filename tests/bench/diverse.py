"""Greedy selection: DEITA's threshold, k-center, facility location."""

from __future__ import annotations

import numpy as np

from tests.bench.data import Data
from tests.bench.race import Contestant, Result, race
from tests.bench.table import Line, bound, versus

LIMIT = 0.9
PICKS = 200
SAMPLE = 3000
"""Rows on which the loop of DEITA runs: on all of them it takes minutes."""

BASELINES, PEERS = "tests.bench.baselines_vectors", "tests.bench.peers_vectors"


def measure(data: Data) -> list[Line]:
    """Each against the reference's loop or libraries, and against plain numpy."""
    return [*threshold(data), *k_center(data), *facility(data)]


def threshold(data: Data) -> list[Line]:
    """The longest answers first. The reference's loop runs on a sample, compared per pair."""
    arguments = {"limit": LIMIT}
    whole, sample = (
        {"file": data.vectors(384, rows), "scores": data.lengths(384, rows)}
        for rows in (10_000, SAMPLE)
    )
    ours = {"method": {"name": "threshold", "threshold": LIMIT}, "score": "score"}
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:diverse", {**whole, **ours}),
            Contestant("numpy", f"{BASELINES}:threshold", {**whole, **arguments}),
        ],
        rounds=5,
    )
    loop = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:diverse", {**sample, **ours}),
            Contestant("loop", f"{PEERS}:threshold_loop", {**sample, **arguments}),
        ],
        rounds=1,
    )
    for one, other in ((done["ours"], done["numpy"]), (loop["ours"], loop["loop"])):
        assert np.array_equal(one.outcome["kept"], other.outcome["kept"]), "other rows are kept"
    kept = done["ours"].outcome["kept"]
    work = f"distance threshold, {len(kept):,} x 384"
    share = _pairs(loop["ours"]) / _pairs(done["ours"])
    small = loop["ours"].outcome["kept"]
    reported = f"per pair, on {len(small):,} rows; same {small.sum():,} kept there"
    return [
        versus(work, done["ours"], "DEITA's loop", loop["loop"], reported, 100, share),
        versus(work, done["ours"], "blocked numpy", done["numpy"], f"same {kept.sum():,} kept", 1),
    ]


def _pairs(result: Result) -> float:
    """Of a row and one kept before it, if those kept lie evenly in the order."""
    kept = result.outcome["kept"]
    return len(kept) * kept.sum() / 2


def k_center(data: Data) -> list[Line]:
    """The first centre is the row nearest to the mean."""
    fields = {"file": data.vectors(256, 20_000)}
    ours = {"method": "k_center", "budget": PICKS}
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:diverse", {**fields, **ours}),
            Contestant("numpy", f"{BASELINES}:k_center", {**fields, "picks": PICKS}),
            Contestant("loop", f"{PEERS}:k_center_loop", {**fields, "picks": PICKS}),
        ],
        rounds=5,
    )
    chosen = done["ours"].outcome["chosen"]
    for name in ("numpy", "loop"):
        assert np.array_equal(chosen, done[name].outcome["chosen"]), "k-center picks other rows"
    count = len(done["ours"].outcome["kept"])
    work, reported = f"k-center, {count:,} x 256, {PICKS} picks", "same picks in the same order"
    return [
        versus(work, done["ours"], "distances anew for each pick", done["loop"], reported, 10),
        versus(work, done["ours"], "running minimum, numpy", done["numpy"], reported, 1),
    ]


def facility(data: Data) -> list[Line]:
    """The objective counts: the sum over all rows of the cosine, above 0, with the nearest pick.

    The full matrix is one of float64, which is 3 GiB; in float32 it is shown besides.
    """
    file = data.vectors(256, 20_000)
    fields = {"file": file, "picks": PICKS}
    ours = {"file": file, "method": "facility_location", "budget": PICKS}
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:diverse", ours),
            Contestant("numpy", f"{BASELINES}:facility", {**fields, "kind": "float64"}),
            Contestant("numpy32", f"{BASELINES}:facility", {**fields, "kind": "float32"}),
            Contestant("apricot", f"{PEERS}:apricot", fields, peer=True),
            Contestant("submodlib", f"{PEERS}:submodlib", fields, peer=True),
        ],
    )
    vectors = np.load(data.folder / file)
    value = {
        name: float((vectors @ vectors[result.outcome["chosen"]].T).max(axis=1).clip(0).sum())
        for name, result in done.items()
        if not result.skipped
    }
    assert value["ours"] >= 0.999 * value["numpy"], "our objective is below 0.999 of the baseline's"
    work = f"facility location, {len(vectors):,} x 256, {PICKS} picks"
    return [
        *(
            versus(
                work, done["ours"], name, done[key],
                f"objective {value['ours'] / value[key]:.5f} of theirs" if key in value else "",
                demanded,
            )
            for name, key, demanded in (
                ("apricot", "apricot", 5.0),
                ("submodlib", "submodlib", 20.0),
                ("lazy greedy, full matrix", "numpy", 3.0),
                ("the same in float32", "numpy32", None),
            )
        ),
        bound(
            "  its peak memory", done["ours"].gib, "GiB", 1,
            f"the full matrix took {done['numpy'].gib:.2f} GiB",
        ),
    ]  # fmt: skip
