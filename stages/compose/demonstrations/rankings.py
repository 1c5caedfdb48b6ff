"""In which order examples are considered for a row: at random, or the most similar first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import Fraction, NonNegativeFloat, option_group
from stages._text.bm25 import BM25 as Collection
from stages._vectors.arrays import PRODUCTS, Matrix, parallel_map, top_columns

Candidate = tuple[int, float | None]
"""The position of an example, and how similar it is; None where nothing is compared."""

Ranking = Callable[[Sequence[int], int], list[list[Candidate]]]
"""From the positions of queries and a number to so many candidates of each, the best first."""

_SPARE: Final = 8
"""Candidates beyond those that are needed, because float32 cannot order near ties."""


@option_group
class Random:
    """Any examples, all with the same probability.

    Args:
        name: "random".
    """

    name: Literal["random"] = "random"


@option_group
class Bm25:
    """The examples whose requests share the rarest words with the row's.

    Args:
        name: "bm25".
        k1: How much a further occurrence of a word counts.
        b: How much longer texts are held to be about more.
    """

    name: Literal["bm25"] = "bm25"
    k1: NonNegativeFloat = 1.5
    b: Fraction = 0.75


@option_group
class Vectors:
    """The examples whose vectors have the highest cosine with the row's.

    Args:
        name: "vectors".
        vector: The column of vectors, of the rows and of the examples, where the stage has no
            `embedder`; one with an embedder embeds the requests.
    """

    name: Literal["vectors"] = "vectors"
    vector: str = "vector"


@option_group
class SPhinX:
    """Any examples in the row's own language (Ahuja et al. 2024, arXiv:2407.09879).

    Args:
        name: "sphinx".
        language: The column with the language of the rows and of the examples, such as
            `compose.translate` and `tag.surface` add; null to identify it, where a row has 20
            letters and more.
    """

    name: Literal["sphinx"] = "sphinx"
    language: str | None = None


def at_random(ids: Sequence[str], count: int, seed: int) -> Ranking:
    """Examples in an order of its own for each query.

    Args:
        ids: Of the queries.
        count: The number of examples.
        seed: Of the orders.
    """

    def ranking(queries: Sequence[int], number: int) -> list[list[Candidate]]:
        orders: list[list[Candidate]] = []
        for query in queries:
            rng = random.Random(f"{seed} demonstrations {ids[query]} candidates")
            order: dict[int, None] = {}
            while len(order) < min(number, count):
                order[rng.randrange(count)] = None
            orders.append([(example, None) for example in order])
        return orders

    return ranking


def by_words(queries: pl.Series, examples: pl.Series, method: Bm25) -> Ranking:
    """Examples by BM25; those alone that share a word with the query.

    Args:
        queries: Texts.
        examples: Texts.
        method: The options.
    """
    collection = Collection(examples, method.k1, method.b)

    def ranking(positions: Sequence[int], number: int) -> list[list[Candidate]]:
        hits = collection.top(queries.gather([*positions]), number)
        return [[*hits.of(i)] for i in range(len(positions))]

    return ranking


def by_vectors(queries: Matrix, examples: Matrix) -> Ranking:
    """Examples by their cosine, of equal ones the lower position first.

    Args:
        queries: Shape (queries, dimensions).
        examples: Shape (examples, dimensions).
    """
    queries, examples = _unit(queries), _unit(examples)

    def ranking(positions: Sequence[int], number: int) -> list[list[Candidate]]:
        asked = queries[np.asarray(positions, np.int64)]
        number = min(number, len(examples))
        considered = min(number + _SPARE, len(examples))

        def best(rows: slice) -> list[list[Candidate]]:
            columns = np.sort(top_columns(asked[rows] @ examples.T, considered), axis=1)
            exact = np.einsum(
                "qd,qcd->qc", asked[rows].astype(np.float64), examples[columns].astype(np.float64)
            ).round(12)
            order = np.argsort(-exact, axis=1, kind="stable")[:, :number]
            chosen, cosines = (np.take_along_axis(a, order, axis=1) for a in (columns, exact))
            pairs = zip(chosen.tolist(), cosines.tolist(), strict=True)
            return [[*zip(*pair, strict=True)] for pair in pairs]

        with parallel_map() as map_blocks:
            size = PRODUCTS // max(len(examples), considered * examples.shape[1])
            parts = map_blocks(best, len(asked), max(1, size))
        return [one for part in parts for one in part]

    return ranking


def _unit(vectors: Matrix) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
