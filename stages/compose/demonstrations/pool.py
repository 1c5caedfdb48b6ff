"""Which rows may be shown before another: never itself, and nothing that would give it away.

A row is no demonstration of another where both are the same row, have the same request or the
same separate input, have a parent in common or one is the other's, or where their requests are
near-duplicates: the Jaccard index of their pairs of neighbouring words reaches a threshold. Of
two rows with equal instructions the inputs alone are compared, because a long instruction makes
all rows of one task alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._text.ragged import Ragged
from stages._text.tokens import shingle_sets
from stages.compose._parts import Part, parts_of

NGRAM_SIZE: Final = 2
"""Words whose runs are compared."""

_BLOCK: Final = 64
"""Held-out rows that are compared with all examples at a time, which bounds the memory."""


@dataclass(frozen=True)
class Request:
    """What is asked in one turn of the user.

    Attributes:
        text: The turn.
        key: The turn without differences of case and white space.
        instruction: The same of the part before the input; the key where there is none.
        input: The same of the separate input; empty where there is none.
    """

    text: str
    key: str
    instruction: str
    input: str

    @classmethod
    def of(cls, text: str, input_start: int | None = None) -> Request:
        """A turn, and where its input begins in it."""
        start = len(text) if input_start is None else input_start
        return cls(text, _key(text), _key(text[:start]), _key(text[start:]))


@dataclass(frozen=True)
class Query:
    """A row that gets demonstrations.

    Attributes:
        id: The row's id.
        family: Its id and those of its parents.
        requests: The turns of the user that say something.
        position: Of its first request among all of them; see `Examples`.
    """

    id: str
    family: frozenset[str]
    requests: tuple[Request, ...]
    position: int

    @property
    def text(self) -> str:
        """All that is asked."""
        return "\n".join(request.text for request in self.requests)


def queries_of(rows: pl.DataFrame) -> list[Query]:
    """The rows as queries; one without a request has none.

    Args:
        rows: Records.
    """
    queries: list[Query] = []
    position = 0
    for id_, messages, start, parents in _columns(rows):
        users = [turn["content"] or "" for turn in messages or () if turn["role"] == "user"]
        starts = [start, *[None] * len(users)]
        pairs = [(text, at) for text, at in zip(users, starts, strict=False) if text.strip()]
        requests = tuple(Request.of(text, at) for text, at in pairs)
        queries.append(Query(id_, frozenset((id_, *(parents or ()))), requests, position))
        position += len(requests)
    return queries


@dataclass(frozen=True)
class Example:
    """A row that may be shown.

    Attributes:
        part: The row.
        position: Of the row in its table.
        family: Its id and those of its parents.
        request: What is asked in it.
    """

    part: Part
    position: int
    family: frozenset[str]
    request: Request


class Examples:
    """The rows that may be shown, and which of them may be shown before a query.

    Args:
        rows: Records, of which those are examples that consist of one request and one answer.
        queries: The rows that get demonstrations.
        threshold: The Jaccard index from which requests are near-duplicates.
        held_out: Rows of which nothing may be shown; None for none.
    """

    def __init__(
        self,
        rows: pl.DataFrame,
        queries: Sequence[Query],
        threshold: float,
        held_out: pl.DataFrame | None = None,
    ) -> None:
        self.threshold = threshold
        facts = {
            id_: (position, frozenset((id_, *(parents or ()))))
            for position, (id_, _, _, parents) in enumerate(_columns(rows))
        }
        parts = sorted(parts_of(rows)[0], key=lambda part: part.id)
        self._keep(
            Example(part, *facts[part.id], Request.of(part.request, part.input_start))
            for part in parts
        )
        self._index(queries)
        if held_out is not None:
            self._leave_out(queries_of(held_out), queries)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> Example:
        return self._examples[position]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def may_show(self, query: Query, example: int) -> bool:
        """Whether an example says nothing of the query's own answer.

        Args:
            query: The row that gets demonstrations.
            example: The position of the example.
        """
        if self[example].family & query.family:
            return False
        for number, request in enumerate(query.requests):
            if self._alike(request, query.position + number, example):
                return False
        return True

    def _keep(self, examples: Iterable[Example]) -> None:
        self._examples = [*examples]
        self._prompts, self._inputs = _sets([example.request for example in self])

    def _index(self, queries: Sequence[Query]) -> None:
        requests = [request for query in queries for request in query.requests]
        self._asked_prompts, self._asked_inputs = _sets(requests)

    def _alike(self, request: Request, position: int, example: int) -> bool:
        """Whether a query's request and that of an example are equal or near-duplicates."""
        other = self[example].request
        if request.key == other.key or (request.input and request.input == other.input):
            return True
        of_one_task = request.input and other.input and request.instruction == other.instruction
        asked, shown = (
            (self._asked_inputs, self._inputs)
            if of_one_task
            else (self._asked_prompts, self._prompts)
        )
        return _jaccard(_members(asked, position), _members(shown, example)) >= self.threshold

    def _leave_out(self, held_out: Sequence[Query], queries: Sequence[Query]) -> None:
        """Keep the examples alone that may be shown before each of the held-out rows."""
        self._index(held_out)
        families = frozenset().union(*(query.family for query in held_out))
        inputs = {request.input for query in held_out for request in query.requests} - {""}
        requests = [request for query in held_out for request in query.requests]
        out = {
            position
            for position, example in enumerate(self)
            if example.family & families or example.request.input in inputs
        }
        # Equal requests have the index 1; of a short instruction inputs may have a higher one.
        for asked, shown in (
            (self._asked_prompts, self._prompts),
            (self._asked_inputs, self._inputs),
        ):
            for held, position in _overlapping(asked, shown, self.threshold):
                if position not in out and self._alike(requests[held], held, position):
                    out.add(position)
        self._keep([example for position, example in enumerate(self) if position not in out])
        self._index(queries)


def _columns(rows: pl.DataFrame) -> Iterable[tuple[Any, ...]]:
    return rows.select("id", "messages", "input_start", "parents").iter_rows()


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _sets(requests: Sequence[Request]) -> tuple[Ragged, Ragged]:
    """The pairs of words of requests, and those of their inputs."""
    texts = pl.Series([request.key for request in requests], dtype=pl.String)
    inputs = pl.Series([request.input for request in requests], dtype=pl.String)
    return shingle_sets(texts, NGRAM_SIZE), shingle_sets(inputs, NGRAM_SIZE)


def _members(sets: Ragged, position: int) -> NDArray[np.uint64]:
    return sets.values[sets.offsets[position] : sets.offsets[position + 1]]


def _jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def _overlapping(left: Ragged, right: Ragged, threshold: float) -> Iterable[tuple[int, int]]:
    """Pairs of sets whose Jaccard index reaches the threshold, by all products of the two."""
    from scipy.sparse import csr_array

    members, codes = np.unique(np.concatenate([left.values, right.values]), return_inverse=True)
    parts = np.split(codes, [len(left.values)])
    matrices = [
        csr_array(
            (np.ones(len(part), np.int32), part, sets.offsets),
            shape=(len(sets.offsets) - 1, len(members)),
        )
        for part, sets in zip(parts, (left, right), strict=True)
    ]
    sizes = right.lengths
    columns = matrices[1].T.tocsr()
    for start in range(0, matrices[0].shape[0], _BLOCK):
        shared = (matrices[0][start : start + _BLOCK] @ columns).tocoo()
        rows, others = shared.coords
        union = left.lengths[start + rows] + sizes[others] - shared.data
        near = shared.data >= threshold * union
        yield from zip((start + rows[near]).tolist(), others[near].tolist(), strict=True)
