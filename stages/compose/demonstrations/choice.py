"""The demonstrations of each row: as many as were drawn, of those that may be shown before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import polars as pl

from stages._text.languages import language_of
from stages._vectors.arrays import as_matrix
from stages.compose.demonstrations.pool import Examples, Query
from stages.compose.demonstrations.rankings import (
    Bm25,
    Candidate,
    Random,
    Ranking,
    SPhinX,
    Vectors,
    at_random,
    by_vectors,
    by_words,
)

_MORE: Final = 16
"""Candidates beyond the number of demonstrations, of which some may not be shown."""

Vectorize = Callable[[Sequence[str]], Any]
"""An embedder's encoding of texts, shape (texts, dimensions)."""


def choose(
    queries: Sequence[Query],
    numbers: Sequence[int],
    examples: Examples,
    groups: Sequence[tuple[list[int], list[int]]],
    ranking_of: Callable[[list[int]], Ranking],
) -> list[list[Candidate]]:
    """The demonstrations of each query, the best first; fewer where no more may be shown.

    Args:
        queries: The rows.
        numbers: How many each of them gets.
        examples: What may be shown.
        groups: The queries and the examples that belong together, by their positions.
        ranking_of: From the examples of a group to their ranking, which numbers them within it.
    """
    chosen: list[list[Candidate]] = [[] for _ in queries]
    for members, shown in groups:
        asking = [query for query in members if numbers[query]]
        if not asking or not shown:
            continue
        ranking, number = ranking_of(shown), max(numbers[query] for query in asking) + _MORE
        while asking:
            unfinished = []
            for query, ranked in zip(asking, ranking(asking, number), strict=True):
                candidates = ((shown[local], similarity) for local, similarity in ranked)
                chosen[query] = _first(examples, queries[query], candidates, numbers[query])
                if len(chosen[query]) < numbers[query] and number < len(shown):
                    unfinished.append(query)
            asking, number = unfinished, number * 8
    return chosen


def _first(examples: Examples, query: Query, candidates: Any, number: int) -> list[Candidate]:
    """The first candidates that may be shown before a query, and not beside an equal one."""
    chosen: list[Candidate] = []
    requests: set[str] = set()
    for example, similarity in candidates:
        request = examples[example].part.request
        if request not in requests and examples.may_show(query, example):
            chosen.append((example, similarity))
            requests.add(request)
        if len(chosen) == number:
            break
    return chosen


def groups_of(
    query_values: Sequence[Any] | None,
    example_values: Sequence[Any] | None,
    counts: tuple[int, int],
) -> list[tuple[list[int], list[int]]]:
    """The positions of queries and of examples with each value; all of them without values.

    Args:
        query_values: The value of each query; None belongs to no group.
        example_values: The value of each example.
        counts: The number of queries and of examples.

    Example:
        >>> groups_of(["de", "fr", None], ["fr", "fr", "de"], (3, 3))
        [([0], [2]), ([1], [0, 1])]
    """
    if query_values is None or example_values is None:
        return [([*range(counts[0])], [*range(counts[1])])]
    members: dict[Any, tuple[list[int], list[int]]] = {}
    for side, values in enumerate((query_values, example_values)):
        for position, value in enumerate(values):
            if value is not None:
                members.setdefault(value, ([], []))[side].append(position)
    return [group for group in members.values() if all(group)]


def group_values(
    method: Random | Bm25 | Vectors | SPhinX, group_by: str | None, rows: pl.DataFrame
) -> list[Any] | None:
    """What rows must have in common with their demonstrations: a value for each, or nothing.

    Args:
        method: The options; sphinx has the language in common.
        group_by: The column; None without one.
        rows: The rows, or the examples.
    """
    columns = [rows[group_by].to_list()] if group_by else []
    if isinstance(method, SPhinX):
        named = rows[method.language].to_list() if method.language else languages_of(rows)
        columns.append(named)
    if not columns:
        return None
    tuples = zip(*columns, strict=True)
    return [None if None in values else str(values) for values in tuples]


def languages_of(rows: pl.DataFrame) -> list[str | None]:
    """The language of each row, identified by its text; None where it has too few letters.

    Args:
        rows: Records.
    """
    texts = (
        " ".join(turn["content"] or "" for turn in m or ()) for m in rows["messages"].to_list()
    )
    return [language_of(text) for text in texts]


def rankings(
    method: Random | Bm25 | Vectors | SPhinX,
    queries: Sequence[Query],
    examples: Examples,
    tables: tuple[pl.DataFrame, pl.DataFrame],
    vectorize: Vectorize | None,
    seed: int,
) -> Callable[[list[int]], Ranking]:
    """From the examples of a group to their ranking.

    Args:
        method: How they are ranked.
        queries: The rows.
        examples: What may be shown.
        tables: The rows and the examples as they came.
        vectorize: An embedder; None where a column holds the vectors.
        seed: Of what is drawn.
    """
    if isinstance(method, Random | SPhinX):
        ids = [query.id for query in queries]
        return lambda group: at_random(ids, len(group), seed)
    asked = pl.Series([query.text for query in queries], dtype=pl.String)
    texts = pl.Series([example.part.request for example in examples], dtype=pl.String)
    if isinstance(method, Bm25):
        return lambda group: by_words(asked, texts.gather(group), method)
    if vectorize is not None:
        vectors = [vectorize(side.to_list()) for side in (asked, texts)]
    else:
        rows, pool = (as_matrix(table[method.vector]) for table in tables)
        vectors = [rows, pool[[example.position for example in examples]]]
    return lambda group: by_vectors(vectors[0], vectors[1][group])
