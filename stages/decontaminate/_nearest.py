"""The evaluation texts that are nearest to a turn, by the cosine of sentence vectors.

In: vectors of turns and of item texts. Out: for each turn the nearest texts of each
benchmark and their cosines. See `nearest`.

The same as sorting all cosines in float64 (tests/stages/decontaminate/test_semantic.py),
faster because float32 matrix products select the candidates. A text among the k nearest has
a product of at least the k-th largest one less twice `product_tolerance`: k products are
no smaller than that, so k cosines are no smaller than it less the tolerance, and the
product of a text with such a cosine lies within the tolerance again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._text.tokens import words
from stages._vectors.arrays import PRODUCTS, Matrix, product_tolerance, to_device, to_host
from stages.decontaminate._benchmarks import Benchmarks

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to vectors: `Encoder.encode`."""


class NearestTexts(NamedTuple):
    """Pairs of a turn and one of the texts nearest to it in a benchmark, by turn.

    Attributes:
        turn: Position of the turn.
        text: Position of the text.
        similarity: The cosine, in float64.
    """

    turn: NDArray[np.int64]
    text: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddedItems:
    """The texts of evaluation items with their vectors.

    Args:
        texts: Benchmark, item, id, field and text, sorted by benchmark.
        vectors: Of length 1, float32, shape (texts, dimensions).
        on_device: The same, where products are fastest.
        groups: Where each benchmark's texts begin, and the end.
    """

    texts: pl.DataFrame
    vectors: Matrix
    on_device: Any = field(repr=False)
    groups: list[int]


@lru_cache(maxsize=2)
def embed_items(
    encode: Encode, benchmarks: Benchmarks, fields: tuple[str, ...] | None, min_words: int
) -> EmbeddedItems:
    """Embed the items' texts, once per process.

    Args:
        encode: The encoder.
        benchmarks: The items.
        fields: Names of the texts that count; None: all.
        min_words: Fewest words of a text.

    Raises:
        UserError: No text of a benchmark has a vector, for example a Chinese one with an
            encoder that knows no Chinese.
    """
    texts = benchmarks.texts(fields)
    texts = texts.filter(words(texts["text"]).list.len() >= min_words)
    vectors = unit(encode(texts["text"].to_list()))
    if not np.isfinite(vectors).all():
        raise UserError("embedder must give finite vectors, but some of the items' are not finite")
    nonzero = vectors.any(axis=1)
    texts, vectors = texts.filter(pl.Series(nonzero)), vectors[nonzero]
    benchmarks.require(
        set(texts["benchmark"]),
        f"no text of the chosen fields has {min_words} or more words that the embedder knows",
    )
    names = texts["benchmark"]
    groups = [0, *(np.flatnonzero((names != names.shift()).fill_null(False)).tolist()), len(names)]
    return EmbeddedItems(texts, vectors, to_device(vectors), groups)


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """The vectors with length 1; one of zeros, or that is not finite, stays as it is.

    Example:
        >>> np.linalg.norm(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1).round(6).tolist()
        [1.0, 0.0]
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    divisible = np.isfinite(lengths) & (lengths > 0)
    scaled: Matrix = vectors.copy()
    np.divide(vectors, lengths, out=scaled, where=divisible, casting="same_kind")
    return scaled


def nearest(items: EmbeddedItems, turns: Matrix, n_neighbors: int) -> NearestTexts:
    """For each turn the nearest texts of each benchmark; of equal ones the first.

    Args:
        items: The items.
        turns: Vectors of length 1, shape (turns, dimensions).
        n_neighbors: Texts per turn and benchmark, fewer where the benchmark has fewer.

    Returns:
        The pairs. Cosines are computed in float64, so that a turn's result depends on it
        alone.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
        >>> items = EmbeddedItems(pl.DataFrame(), vectors, vectors, [0, 2, 3])
        >>> pairs = nearest(items, vectors[:1], 1)
        >>> pairs.text.tolist(), pairs.similarity.round(6).tolist()
        ([0, 2], [1.0, 0.6])
    """
    size = max(1, PRODUCTS // max(1, len(items.vectors)))
    parts = [np.zeros((2, 0), dtype=np.int64)]
    xp = array_namespace(items.on_device)
    for start in range(0, len(turns), size):
        block = xp.asarray(turns[start : start + size], device=device(items.on_device))
        for first, pairs in _candidates(items.on_device, block, items.groups, n_neighbors):
            parts.append(pairs + np.array([[start], [first]]))
    turn, text = np.concatenate(parts, axis=1)
    left, right = turns[turn].astype(np.float64), items.vectors[text].astype(np.float64)
    similarity = np.einsum("ij,ij->i", left, right)
    group = np.searchsorted(items.groups, text, side="right")
    order = np.lexsort((text, -similarity, group, turn))
    same = (np.diff(turn[order]) == 0) & (np.diff(group[order]) == 0)
    begin = np.concatenate([[0], np.flatnonzero(~same) + 1])[: len(order)]
    rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    selected = order[rank < n_neighbors]
    return NearestTexts(turn[selected], text[selected], similarity[selected])


def _candidates(
    items: Any, turns: Any, groups: list[int], n_neighbors: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each benchmark where its texts begin, and pairs (turn, text counted from there).

    Among the pairs are the nearest of each turn. items, turns: arrays of one kind.
    """
    xp = array_namespace(items, turns)
    tolerance = 2 * product_tolerance(items.shape[1])
    for first, end in pairwise(groups):
        scores = xp.matmul(turns, items[first:end, :].T)
        best = xp.max(scores, axis=1, keepdims=True)
        remaining = scores
        for _ in range(min(n_neighbors, end - first) - 1):  # the next largest value
            remaining = xp.where(remaining >= best, xp.full_like(remaining, -2.0), remaining)
            best = xp.max(remaining, axis=1, keepdims=True)
        turn, text = xp.nonzero(scores >= best - tolerance)
        yield first, np.stack([to_host(turn), to_host(text)]).astype(np.int64)
