"""Which texts of evaluation items are nearest to a turn, by the cosine of sentence vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._text.tokens import words
from stages._vectors.arrays import PRODUCTS, Matrix, to_device, to_host
from stages.decontaminate._rules import Exams

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to vectors: `Encoder.encode`."""

SLACK: Final = 1e-5
"""More than float32 products of unit vectors can be wrong by."""


class Near(NamedTuple):
    """Pairs of a turn and one of the texts nearest to it in a benchmark, by turn.

    turn, text: their numbers. similarity: the cosine, in float64.
    """

    turn: NDArray[np.int64]
    text: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True)
class Embedded:
    """The texts of evaluation items with their vectors.

    texts: frame of benchmark, item, id, field and text, sorted by benchmark. vectors:
    of length 1, float32, shape (texts, dimensions); placed: the same, where products
    are fastest. groups: where each benchmark's texts begin, and the end.
    """

    texts: pl.DataFrame
    vectors: Matrix
    placed: Any = field(repr=False)
    groups: list[int]


@lru_cache(maxsize=2)
def embedded(
    encode: Encode, exams: Exams, fields: tuple[str, ...] | None, min_words: int
) -> Embedded:
    """The items' texts of at least so many words, embedded once per process.

    Raises UserError for a benchmark of which no text has a vector, such as a Chinese
    one under an encoder that knows no Chinese.
    """
    texts = exams.texts(fields)
    texts = texts.filter(words(texts["text"]).list.len() >= min_words)
    vectors = unit(encode(texts["text"].to_list()))
    if not np.isfinite(vectors).all():
        raise UserError("the embedder gives items vectors that are not finite")
    known = vectors.any(axis=1)
    texts, vectors = texts.filter(pl.Series(known)), vectors[known]
    exams.require(
        set(texts["benchmark"]),
        f"no text of the chosen fields has {min_words} or more words that the embedder knows",
    )
    names = texts["benchmark"]
    groups = [0, *(np.flatnonzero((names != names.shift()).fill_null(False)).tolist()), len(names)]
    return Embedded(texts, vectors, to_device(vectors), groups)


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """The vectors with length 1; one of zeros, or that is not finite, stays as it is."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    divisible = np.isfinite(lengths) & (lengths > 0)
    scaled: Matrix = vectors.copy()
    np.divide(vectors, lengths, out=scaled, where=divisible, casting="same_kind")
    return scaled


def nearest(items: Embedded, turns: Matrix, k: int) -> Near:
    """For each turn the k nearest texts of each benchmark; of equal ones the first.

    turns: vectors of length 1. Exact: float32 products only name candidates, whose
    cosines are then taken in float64, so that a turn's result depends on it alone.
    """
    size = max(1, PRODUCTS // max(1, len(items.vectors)))
    parts = [np.zeros((2, 0), dtype=np.int64)]
    xp = array_namespace(items.placed)
    for start in range(0, len(turns), size):
        block = xp.asarray(turns[start : start + size], device=device(items.placed))
        for first, found in candidates(items.placed, block, items.groups, k):
            parts.append(found + np.array([[start], [first]]))
    turn, text = np.concatenate(parts, axis=1)
    ours, theirs = turns[turn].astype(np.float64), items.vectors[text].astype(np.float64)
    similarity = np.einsum("ij,ij->i", ours, theirs)
    group = np.searchsorted(items.groups, text, side="right")
    order = np.lexsort((text, -similarity, group, turn))
    same = (np.diff(turn[order]) == 0) & (np.diff(group[order]) == 0)
    begin = np.concatenate([[0], np.flatnonzero(~same) + 1])[: len(order)]
    rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    chosen = order[rank < k]
    return Near(turn[chosen], text[chosen], similarity[chosen])


def candidates(
    items: Any, turns: Any, groups: list[int], k: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each benchmark where its texts begin, and pairs (turn, text counted from there).

    Among the pairs are the k nearest of each turn. items, turns: arrays of one kind.
    """
    xp = array_namespace(items, turns)
    for first, end in pairwise(groups):
        scores = xp.matmul(turns, items[first:end, :].T)
        best = xp.max(scores, axis=1, keepdims=True)
        left = scores
        for _ in range(min(k, end - first) - 1):  # the next largest value below the last one
            left = xp.where(left >= best, xp.full_like(left, -2.0), left)
            best = xp.max(left, axis=1, keepdims=True)
        turn, text = xp.nonzero(scores >= best - SLACK)
        yield first, np.stack([to_host(turn), to_host(text)]).astype(np.int64)
