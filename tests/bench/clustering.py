"""k-means: speed at equal quality, which is the inertia over all rows."""

from __future__ import annotations

import numpy as np

from tests.bench.data import Data
from tests.bench.race import Contestant, race
from tests.bench.table import Line, versus

CLUSTERS = 161
WORSE = 1.005


def measure(data: Data) -> list[Line]:
    """Against scikit-learn's k-means++ and faiss; our inertia is at most 1.005 of faiss's."""
    file = data.vectors(384, 50_000)
    vectors = np.load(data.folder / file)
    fields = {"file": file, "k": min(CLUSTERS, len(vectors) // 10), "seed": 0}
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:kmeans", fields),
            Contestant("scikit-learn", "tests.bench.peers_vectors:scikit_learn", fields),
            Contestant("faiss", "tests.bench.baselines_vectors:faiss", fields, peer=True),
        ],
    )
    inertia = {
        name: _inertia(vectors, result.outcome["labels"])
        for name, result in done.items()
        if not result.skipped
    }
    work = f"k-means, {len(vectors):,} x 384, k = {fields['k']}"
    lines = []
    for name, demanded in (("scikit-learn", 5.0), ("faiss", 1.0)):
        note = ""
        if name in inertia:
            ratio = inertia["ours"] / inertia[name]
            assert ratio <= WORSE, f"our inertia is {ratio:.4f} of that of {name}"
            note = f"our inertia is {ratio:.4f} of theirs"
        lines.append(versus(work, done["ours"], name, done[name], note, demanded))
    return lines


def _inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    """The squared distances of all rows to the mean of their cluster, summed."""
    sizes = np.bincount(labels)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    # The sum of |x|^2 minus that of |sum|^2 / size: the same, without the distances.
    within = (sums**2).sum(axis=1) / np.maximum(sizes, 1)
    return float((vectors.astype(np.float64) ** 2).sum() - within.sum())
