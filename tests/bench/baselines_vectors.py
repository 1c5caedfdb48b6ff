"""Strong baselines over vectors of length 1: what a page of numpy (or one call) reaches today.

Each works on cosines in float32, with whatever threads the BLAS uses.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[], dict[str, np.ndarray]]


def threshold(folder: Path, file: str, scores: str, limit: float) -> Run:
    """DEITA's filter, blocked: best score first, and a row near one that is kept goes."""
    vectors, score = np.load(folder / file), np.load(folder / scores)

    def run() -> dict[str, np.ndarray]:
        order = np.lexsort((np.arange(len(score)), -score))
        return {"kept": _greedy(vectors, order, limit)}

    return run


def duplicates(folder: Path, file: str, limit: float) -> Run:
    """The same in the order of the rows: exact semantic duplicates."""
    vectors = np.load(folder / file)
    return lambda: {"kept": _greedy(vectors, np.arange(len(vectors)), limit)}


def _greedy(vectors: np.ndarray, order: np.ndarray, limit: float, block: int = 1024) -> np.ndarray:
    kept, count = np.empty_like(vectors), 0
    mask = np.zeros(len(vectors), dtype=bool)
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        part = vectors[rows]
        new = (part @ kept[:count].T).max(axis=1, initial=-1.0) <= limit
        inside = part @ part.T <= limit
        for i in np.flatnonzero(new):
            if new[i]:
                new[i + 1 :] &= inside[i, i + 1 :]
        chosen = rows[new]
        kept[count : count + len(chosen)] = vectors[chosen]
        count += len(chosen)
        mask[chosen] = True
    return mask


def k_center(folder: Path, file: str, picks: int) -> Run:
    """Greedy k-center with a running minimum, from the row nearest to the mean."""
    vectors = np.load(folder / file)

    def run() -> dict[str, np.ndarray]:
        chosen = [int((vectors @ vectors.mean(axis=0)).argmax())]
        gaps = 1 - vectors @ vectors[chosen[0]]
        while len(chosen) < picks:
            chosen.append(int(gaps.argmax()))
            np.minimum(gaps, 1 - vectors @ vectors[chosen[-1]], out=gaps)
        return {"chosen": np.array(chosen)}

    return run


def facility(folder: Path, file: str, picks: int, kind: str) -> Run:
    """Lazy greedy on the full matrix: a stale gain is a bound, so few rows are looked at again.

    A cosine below 0 covers nothing, as in apricot and submodlib. kind: float64 or float32.
    """
    vectors = np.load(folder / file).astype(kind)

    def run() -> dict[str, np.ndarray]:
        # Of a copy: for a matrix and its own transpose numpy calls another routine of the
        # BLAS, which ends with a segmentation fault at this size on some processors.
        similar = vectors @ vectors.T.copy()
        np.maximum(similar, 0, out=similar)
        cover = np.zeros(len(vectors), dtype=kind)
        bounds = [(-gain, row) for row, gain in enumerate(similar.sum(axis=1, dtype=np.float64))]
        heapq.heapify(bounds)
        chosen: list[int] = []
        while len(chosen) < picks:
            row = bounds[0][1]
            gain = np.maximum(similar[row] - cover, 0).sum(dtype=np.float64)
            heapq.heapreplace(bounds, (-gain, row))
            if bounds[0][1] == row:
                heapq.heappop(bounds)
                chosen.append(row)
                np.maximum(cover, similar[row], out=cover)
        return {"chosen": np.array(chosen)}

    return run


def faiss(folder: Path, file: str, k: int, seed: int) -> Run:
    """faiss's k-means with its own defaults (25 iterations), and the cluster of each row."""
    import faiss as library

    vectors = np.load(folder / file)

    def run() -> dict[str, np.ndarray]:
        clusters = library.Kmeans(vectors.shape[1], k, seed=seed)
        clusters.train(vectors)
        return {"labels": clusters.index.search(vectors, 1)[1][:, 0]}

    return run
