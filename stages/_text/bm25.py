"""BM25: the texts of a collection that fit a query by its words, rare words first.

In: the words of the collection's texts, and of queries. Out: for each query the best texts with
their scores, exactly: no text is left out by an index.

The score of a text d for a query q is the sum, over the words of q, of

    idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|)),
    idf(w) = ln(1 + (N - df(w) + 0.5) / (df(w) + 0.5)),

where tf counts w in d, df the texts that hold it, |d| the words of d, N the texts. This is the
formula of Robertson & Zaragoza 2009 (The Probabilistic Relevance Framework: BM25 and Beyond) with
the idf of Lucene, which is never negative (Kamphuis et al. 2020, Which BM25 Do You Mean?), and
that which the library bm25s takes by default. A word that a query holds twice counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ragged import blocks, offsets_of
from stages._text.tokens import factorize, words
from stages._vectors.arrays import parallel_map

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_POSTINGS: Final = 1 << 22
"""Products of a block of queries: with its scores it takes some 100 MiB."""

_QUERIES: Final = 1_024
"""The most queries of a block, so that the threads end at about the same time."""


class Hits(NamedTuple):
    """The best texts of each query: those of query i stand at offsets[i]:offsets[i + 1].

    Attributes:
        offsets: int64 of length queries + 1.
        texts: Positions in the collection, the best first; of equal scores the lower position.
        scores: float64, above 0.
    """

    offsets: NDArray[np.int64]
    texts: NDArray[np.int64]
    scores: NDArray[np.float64]

    def of(self, query: int) -> list[tuple[int, float]]:
        """The positions and scores of one query's texts.

        Args:
            query: The position of the query.
        """
        part = slice(self.offsets[query], self.offsets[query + 1])
        return [*zip(self.texts[part].tolist(), self.scores[part].tolist(), strict=True)]


class BM25:
    """A collection of texts that queries are compared with.

    Args:
        texts: The texts, or the words of each. One without any word fits no query.
        k1: How much a further occurrence of a word counts; 0: not at all.
        b: How much longer texts are held to be about more, from 0 to 1.

    Example:
        >>> collection = BM25(pl.Series(["a red fish", "a blue fish", "a cow"]))
        >>> hits = collection.top(pl.Series(["Blue fish?", "A cow", "an owl"]), 2)
        >>> [[text for text, _ in hits.of(query)] for query in range(3)]
        [[1, 0], [2, 0], []]
    """

    def __init__(self, texts: pl.Series, k1: float = 1.5, b: float = 0.75) -> None:
        from scipy.sparse import csr_array

        tokenized = _words(texts)
        vocabulary, codes = factorize(tokenized.explode(empty_as_null=False, keep_nulls=False))
        lengths = tokenized.list.len().to_numpy().astype(np.int64)
        self._codes: Mapping[str, int] = {word: code for code, word in enumerate(vocabulary)}
        shape = (len(texts), len(vocabulary))
        counts = csr_array((np.ones(len(codes)), codes, offsets_of(lengths)), shape=shape)
        counts.sum_duplicates()
        frequency = np.bincount(counts.indices, minlength=len(vocabulary))
        idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
        mean = lengths.mean() if lengths.any() else 1.0
        norms = np.repeat(k1 * (1 - b + b * lengths / mean), np.diff(counts.indptr))
        counts.data = idf[counts.indices] * counts.data / (counts.data + norms)
        self._frequency = frequency
        self._weights: csr_array = counts.T.tocsr()

    def top(self, queries: pl.Series, k: int, without: Sequence[int | None] | None = None) -> Hits:
        """The best texts of each query, at most `k`; only such as share a word with it.

        A query's result depends on the collection and on that query alone.

        Args:
            queries: The queries, or the words of each.
            k: How many, at least 1.
            without: For each query the position of a text that is no result (itself, of a query
                that is a text of the collection); None for none.
        """
        known = self._known(queries)
        costs = known @ self._frequency

        def best(rows: slice) -> Any:
            scores = known[rows] @ self._weights
            left_out = None if without is None else without[rows]
            return _best(scores, k, left_out)

        parts = [*_parts(costs)]
        with parallel_map() as map_blocks:
            results = map_blocks(lambda block: best(parts[block.start]), len(parts), 1)
        empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        lengths, positions, scores = (
            np.concatenate([empty[n], *(result[n] for result in results)]) for n in range(3)
        )
        return Hits(offsets_of(lengths), positions, scores)

    def _known(self, queries: pl.Series) -> csr_array:
        """How often each query holds each word of the collection."""
        from scipy.sparse import csr_array

        tokenized = _words(queries)
        flat = tokenized.explode(empty_as_null=False, keep_nulls=False)
        distinct, places = factorize(flat)
        codes = np.array([self._codes.get(word, -1) for word in distinct], np.int64)[places]
        owners = np.repeat(np.arange(len(queries)), tokenized.list.len().to_numpy())
        held = codes >= 0
        shape = (len(queries), len(self._codes))
        # From coordinates: repeats are summed, and the words of a row stand in one order.
        return csr_array((np.ones(int(held.sum())), (owners[held], codes[held])), shape=shape)


def _words(texts: pl.Series) -> pl.Series:
    """The words of each text, of lists the lists themselves."""
    return texts if texts.dtype == pl.List else words(texts.fill_null(""))


def _parts(costs: NDArray[Any]) -> list[slice]:
    """Blocks of queries of bounded cost and number."""
    limited = np.maximum(costs.astype(np.int64), _POSTINGS // _QUERIES)
    return [*blocks(limited, _POSTINGS)]


def _best(
    scores: csr_array, k: int, without: Sequence[int | None] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The numbers of results, their positions and scores, for a block of queries."""
    lengths, positions, kept = [], [], []
    for row in range(scores.shape[0]):
        part = slice(scores.indptr[row], scores.indptr[row + 1])
        texts, values = scores.indices[part].astype(np.int64), scores.data[part]
        if without is not None and without[row] is not None:
            others = texts != without[row]
            texts, values = texts[others], values[others]
        if len(values) > k:
            # All that are not below the k-th score: of equal ones the lower positions stay.
            near = values >= np.partition(values, len(values) - k)[len(values) - k]
            texts, values = texts[near], values[near]
        order = np.lexsort((texts, -values))[:k]
        lengths.append(len(order))
        positions.append(texts[order])
        kept.append(values[order])
    none = np.zeros(0, np.int64)
    return (
        np.array(lengths, np.int64),
        np.concatenate([none, *positions]),
        np.concatenate([np.zeros(0), *kept]),
    )
