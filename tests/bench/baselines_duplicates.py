"""Near-duplicates: the exact answer by a sparse matrix, and the strong baseline, rensa.

Both take the same sets: 5-grams of the words that our own tokeniser found, and a
shorter text whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

NGRAM = 5


def rensa(folder: Path, file: str, threshold: float) -> Callable[[], dict[str, np.ndarray]]:
    """Its matrix interface: all signatures at once, then a flag for each row with a candidate.

    Which rows the candidate pairs are of, it does not say, nor are they verified.
    """
    from rensa import RMinHash, RMinHashLSH

    words = pq.read_table(folder / file)["words"].to_pylist()

    def run() -> dict[str, np.ndarray]:
        sets = [shingles(row) for row in words]
        matrix = RMinHash.digest_matrix_from_token_sets(sets, 128, 42)
        index = RMinHashLSH(threshold=threshold, num_perm=128, num_bands=16)
        flags = index.query_duplicate_flags_matrix_one_shot(matrix)
        return {"near": np.array(flags, dtype=bool)}

    return run


def shingles(text: str) -> set[str]:
    """The text's 5-grams of words; a shorter one is one; nothing has none."""
    words = text.split(" ")
    if len(words) <= NGRAM:
        return {text} if text else set()
    return set(map(" ".join, zip(*(words[i:] for i in range(NGRAM)), strict=False)))


def exact_pairs(texts: Iterable[str], threshold: float) -> np.ndarray:
    """All pairs of rows whose Jaccard similarity reaches the threshold: shape (pairs, 2).

    From the product of the incidence matrix with its transpose, in blocks of rows:
    slow, plain, and nothing like our own join.
    """
    from scipy.sparse import csr_array

    numbers: dict[str, int] = {}
    sets = [[numbers.setdefault(one, len(numbers)) for one in shingles(text)] for text in texts]
    sizes = np.array([len(one) for one in sets])
    columns = np.array([number for one in sets for number in one], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    held = csr_array((np.ones(len(columns), np.int32), columns, starts), (len(sets), len(numbers)))
    shared = np.flatnonzero(np.bincount(columns, minlength=len(numbers)) > 1)
    held = held[:, shared].tocsr()
    across = held.T.tocsr()
    parts = []
    for start in range(0, len(sets), 1024):
        both = (held[start : start + 1024] @ across).tocoo()
        row, column = both.coords[0] + start, both.coords[1]
        near = (row < column) & (both.data >= threshold * (sizes[row] + sizes[column] - both.data))
        parts.append(np.stack([row[near], column[near]], axis=1))
    return np.concatenate(parts)


def components(pairs: np.ndarray, rows: int) -> np.ndarray:
    """For each row the first row of its connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), (rows, rows))
    labels = connected_components(graph, directed=False)[1]
    _, first = np.unique(labels, return_index=True)
    return first[labels]
