"""What people use over vectors: reference loops, written anew as they compute, and libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[], dict[str, np.ndarray]]


def threshold_loop(folder: Path, file: str, scores: str, limit: float) -> Run:
    """DEITA's filter with batches of one row: all that is kept is gathered again for each row."""
    vectors, score = list(np.load(folder / file)), np.load(folder / scores)

    def run() -> dict[str, np.ndarray]:
        order = np.lexsort((np.arange(len(score)), -score))
        kept: list[int] = []
        for row in order:
            if kept:
                matrix = np.array([vectors[i] for i in kept])
                matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
                one = vectors[row] / np.linalg.norm(vectors[row])
                if (matrix @ one).max() > limit:
                    continue
            kept.append(int(row))
        mask = np.zeros(len(vectors), dtype=bool)
        mask[kept] = True
        return {"kept": mask}

    return run


def k_center_loop(folder: Path, file: str, picks: int) -> Run:
    """Greedy k-center that takes the distances to all centres anew for each pick."""
    vectors = np.load(folder / file)

    def run() -> dict[str, np.ndarray]:
        chosen = [int((vectors @ vectors.mean(axis=0)).argmax())]
        while len(chosen) < picks:
            gaps = (1 - vectors @ vectors[chosen].T).min(axis=1)
            chosen.append(int(gaps.argmax()))
        return {"chosen": np.array(chosen)}

    return run


def apricot(folder: Path, file: str, picks: int) -> Run:
    """Its lazy greedy on the matrix of cosines; it wants no negative values."""
    from apricot import FacilityLocationSelection

    vectors = np.load(folder / file).astype(np.float64)

    def choose(rows: np.ndarray, number: int) -> np.ndarray:
        selector = FacilityLocationSelection(number, metric="precomputed", optimizer="lazy")
        similar = rows @ rows.T.copy()  # of a copy: see `baselines_vectors.facility`
        np.maximum(similar, 0, out=similar)
        return np.array(selector.fit(similar).ranking)

    choose(vectors[:100], 5)  # compiles
    return lambda: {"chosen": choose(vectors, picks)}


def submodlib(folder: Path, file: str, picks: int) -> Run:
    """Its lazy greedy on cosines; the matrix is made in C++, where it takes the least memory."""
    from submodlib import FacilityLocationFunction

    vectors = np.load(folder / file)

    def run() -> dict[str, np.ndarray]:
        function = FacilityLocationFunction(
            n=len(vectors), mode="dense", separate_rep=False, data=vectors, metric="cosine",
            create_dense_cpp_kernel_in_python=False,
        )  # fmt: skip
        chosen = function.maximize(
            budget=picks, optimizer="LazyGreedy", stopIfZeroGain=False,
            stopIfNegativeGain=False, verbose=False, show_progress=False,
        )  # fmt: skip
        return {"chosen": np.array([row for row, _ in chosen])}

    return run


def scikit_learn(folder: Path, file: str, k: int, seed: int) -> Run:
    """KMeans with k-means++, one start."""
    from sklearn.cluster import KMeans

    vectors = np.load(folder / file)
    return lambda: {
        "labels": KMeans(k, init="k-means++", n_init=1, random_state=seed).fit(vectors).labels_
    }


def semhash(folder: Path, file: str, limit: float) -> Run:
    """Self-deduplication with its default index over our vectors; records are row numbers."""
    from semhash import SemHash

    vectors = np.load(folder / file)
    records = [str(i) for i in range(len(vectors))]

    class Arguments:
        """An encoder that is never asked: the vectors are given."""

        def encode(self, inputs: object, **_: object) -> np.ndarray:
            raise AssertionError("the vectors are given")

    def run() -> dict[str, np.ndarray]:
        index = SemHash.from_embeddings(vectors, records, Arguments())
        kept = np.zeros(len(vectors), dtype=bool)
        kept[[int(one) for one in index.self_deduplicate(threshold=limit).selected]] = True
        return {"kept": kept}

    return run
