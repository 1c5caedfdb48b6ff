"""Near-duplicates in plain Python: the oracle of `dedup.jaccard` and `dedup.minhash`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import lru_cache
from itertools import combinations

import numpy as np
import polars as pl

from pipeline.context import Context
from stages._text.tokens import tokens
from tests.support.rows import evidence

Stage = Callable[..., pl.DataFrame]


@lru_cache(maxsize=10_000)
def grams(text: str, n: int) -> frozenset:
    """The n-grams of a text; the whole text if it is shorter; none without a token."""
    words = tokens(pl.Series([text]))[0].to_list()
    count = max(len(words) - n + 1, min(len(words), 1))
    return frozenset(tuple(words[i : i + n]) for i in range(count))


def sets_of(rows: pl.DataFrame, n: int) -> dict[str, frozenset]:
    """The n-grams of each conversation by id."""
    listed = rows.select("id", "messages").iter_rows()
    return {key: grams("\n".join(m["content"] for m in messages), n) for key, messages in listed}


def similarity(a: Set, b: Set) -> float:
    return len(a & b) / max(len(a | b), 1)


def brute(sets: Mapping[str, Set], threshold: float) -> tuple[dict[str, str], dict[tuple, float]]:
    """The least id of the component of each row, and all similar pairs."""
    posting: dict[object, list[str]] = {}
    for key, of in sets.items():
        for gram in of:
            posting.setdefault(gram, []).append(key)
    close = {pair for keys in posting.values() for pair in combinations(keys, 2)}
    similar = {pair: similarity(sets[pair[0]], sets[pair[1]]) for pair in close}
    similar = {pair: value for pair, value in similar.items() if value >= threshold}
    root = {key: key for key in sets}

    def top(key: str) -> str:
        while root[key] != key:
            key = root[key]
        return key

    for a, b in similar:
        low, high = sorted((top(a), top(b)))
        root[high] = low
    return {key: top(key) for key in sets}, similar


def agree(
    stages: Sequence[Stage], ctx: Context, rows: pl.DataFrame, threshold: float, n: int = 5
) -> int:
    """Check verdicts of stages against the brute force; the number of rows dropped."""
    sets = sets_of(rows, n)
    roots, similar = brute(sets, threshold)
    expected = {key: root for key, root in roots.items() if key != root}
    for stage in stages:
        dropped = evidence(rows, stage(ctx, rows, threshold=threshold, ngram_size=n))
        assert {key: cause["duplicate_of"] for key, cause in dropped.items()} == expected
        for key, cause in dropped.items():
            assert cause["jaccard"] == similarity(sets[key], sets[cause["duplicate_of"]])
            if cause["jaccard"] < threshold:
                link = tuple(sorted((key, cause["through"])))
                assert similar[link] == cause["through_jaccard"]
            else:
                assert "through" not in cause
    return len(expected)


def components(texts: list[str], n: int, threshold: float) -> list[int]:
    """The least number in the component of each text, by the overlaps of all pairs.

    A sparse product in place of loops, for thousands of texts.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns: dict[tuple, int] = {}
    words = tokens(pl.Series(texts)).to_list()
    entries = []
    for row, text in enumerate(words):
        count = max(len(text) - n + 1, min(len(text), 1))
        held = {tuple(text[i : i + n]) for i in range(count)}
        entries += [(row, columns.setdefault(gram, len(columns))) for gram in held]
    rows, held_columns = np.array(entries).T
    shape = (len(texts), len(columns))
    table = coo_array((np.ones(len(rows), dtype=np.int32), (rows, held_columns)), shape).tocsr()
    sizes = np.bincount(rows, minlength=len(texts))
    left, right = [], []
    for start in range(0, len(texts), 2000):
        shared = (table[start : start + 2000] @ table.T).tocoo()
        i, j = shared.coords
        similar = shared.data / (sizes[i + start] + sizes[j] - shared.data) >= threshold
        left.append(i[similar] + start)
        right.append(j[similar])
    pairs = (np.concatenate(left), np.concatenate(right))
    graph = coo_array((np.ones(len(pairs[0])), pairs), (len(texts), len(texts)))
    labels = connected_components(graph, directed=False)[1]
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return first[group].tolist()


def kept(rows: pl.DataFrame, verdict: pl.DataFrame) -> list[str]:
    return rows.filter(verdict["drop_reason"].is_null())["id"].to_list()
