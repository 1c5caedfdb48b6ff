"""Passages for a question: of documents, by words and by vectors, or those that a row came with.

Documents are cut into passages. None that holds the text of an evaluation item or of a held-out
row is in the collection: what is measured with these must not be read in training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._llm.rows import license_of
from stages._text.bm25 import BM25
from stages._text.ngram_index import build_index, find_overlaps
from stages._text.passages import split_words
from stages._vectors.arrays import PRODUCTS, parallel_map, top_columns
from stages.compose.context.exchanges import Exchange

Encode = Callable[[Sequence[str]], NDArray[Any]]

SHARED_WORDS: Final = 13
"""A run of so many words that a passage shares with an item puts it out (GPT-3's number)."""

_MIN_WORDS: Final = 8
"""Shorter texts of items occur anywhere by chance."""

_SPARE: Final = 8
_DECIMALS: Final = 6
"""To which cosines are rounded before they are ordered: products in float32 are not better."""

_TEXT_FIELDS: Final = ("text", "content", "body", "snippet", "passage")

_log = logging.getLogger(__name__)


class Passage(NamedTuple):
    """A text that a model is shown beside a question.

    Attributes:
        id: Its document's id and its number there, or its number among a row's results.
        title: What it is headed with.
        text: The text.
        document: The document; None for a result that the row came with.
        license: The document's license.
    """

    id: str
    title: str | None
    text: str
    document: str | None = None
    license: str | None = None


class Hit(NamedTuple):
    """A passage that was retrieved.

    Attributes:
        passage: The passage.
        score: How near it is: BM25, a cosine, or None for a result that the row came with.
    """

    passage: Passage
    score: float | None


def collection(
    documents: pl.DataFrame, num_words: int, unseen: Sequence[str] = ()
) -> list[Passage]:
    """The passages of documents, each text once, in the order of the documents' ids.

    Args:
        documents: Documents.
        num_words: Words of a passage.
        unseen: Texts that no passage may share a run of 13 words with (shorter ones: all of it).
    """
    passages: dict[str, Passage] = {}
    columns = documents.sort("id").select("id", "title", "text", "origins")
    for id_, title, text, origins in columns.iter_rows():
        license = license_of(origins)
        for number, part in enumerate(split_words(text or "", num_words)):
            passages.setdefault(part, Passage(f"{id_}:{number}", title, part, id_, license))
    kept = [*passages.values()]
    left_out = _overlapping(kept, unseen) if unseen else set()
    if left_out:
        _log.warning("%d of %d passages hold a text that is held out", len(left_out), len(kept))
    return [passage for number, passage in enumerate(kept) if number not in left_out]


def _overlapping(passages: Sequence[Passage], unseen: Sequence[str]) -> set[int]:
    index = build_index(
        pl.DataFrame({"text": [*unseen]}), SHARED_WORDS, _MIN_WORDS, short_anywhere=True
    )
    texts = pl.Series([passage.text for passage in passages], dtype=pl.String)
    return {*find_overlaps(index, texts).row.tolist()}


def unseen_texts(benchmarks: pl.DataFrame | None, held_out: pl.DataFrame | None) -> list[str]:
    """The texts of evaluation items and of the turns of held-out rows.

    Args:
        benchmarks: Evaluation items.
        held_out: Records.
    """
    texts: list[str | None] = []
    for frame, column, field in ((benchmarks, "texts", "text"), (held_out, "messages", "content")):
        if frame is not None:
            parts = frame[column].explode(empty_as_null=False, keep_nulls=False)
            texts += parts.struct.field(field).to_list()
    return [text for text in texts if text]


class Index:
    """Passages that questions are compared with.

    Args:
        passages: The passages.
        encode: From texts to vectors; None to compare words alone.
    """

    def __init__(self, passages: Sequence[Passage], encode: Encode | None = None) -> None:
        self.passages = passages
        self._encode = encode
        texts = [_whole(passage) for passage in passages]
        self._words = BM25(pl.Series(texts, dtype=pl.String))
        self._vectors = None if encode is None or not texts else _units(encode(texts))

    def by_words(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """For each question the passages with the best BM25 scores, best first.

        Args:
            questions: The questions.
            k: How many at most.
        """
        hits = self._words.top(pl.Series([*questions], dtype=pl.String), k)
        return [
            [Hit(self.passages[at], score) for at, score in hits.of(number)]
            for number in range(len(questions))
        ]

    def nearest(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """For each question the nearest passages, by vectors where there are any, else by words.

        Args:
            questions: The questions.
            k: How many at most.
        """
        if self._encode is None or self._vectors is None:
            return self.by_words(questions, k)
        vectors = _units(self._encode(questions))
        known = self._vectors
        near = min(k + _SPARE, len(known))

        def best(rows: slice) -> list[list[Hit]]:
            scores = vectors[rows] @ known.T
            candidates = np.sort(top_columns(scores, near), axis=1)
            values = np.take_along_axis(scores, candidates, 1).astype(np.float64).round(_DECIMALS)
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            return [
                [Hit(self.passages[at], score) for at, score in zip(*row, strict=True)]
                for row in zip(
                    np.take_along_axis(candidates, order, 1).tolist(),
                    np.take_along_axis(values, order, 1).tolist(),
                    strict=True,
                )
            ]

        with parallel_map() as map_blocks:
            parts = map_blocks(best, len(vectors), max(1, PRODUCTS // max(1, len(known))))
        return [hits for part in parts for hits in part]


def _whole(passage: Passage) -> str:
    return "\n".join(filter(None, (passage.title, passage.text)))


def _units(vectors: NDArray[Any]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def results_of(exchange: Exchange, field: str) -> list[Hit]:
    """The search results that a row came with, in their order; none where it has no such field.

    Args:
        exchange: The row.
        field: The field of `extra`: a list of texts, or of objects with a text and a title.
    """
    values = json.loads(exchange.extra).get(field)
    hits = []
    for number, value in enumerate(values if isinstance(values, list) else ()):
        title, text = _title_and_text(value)
        if text:
            passage = Passage(f"{exchange.id}:{field}:{number}", title, text)
            hits.append(Hit(passage, None))
    return [hit for hit in hits if hit.passage.id not in exchange.left_out]


def without_unseen(
    exchanges: Sequence[Exchange], field: str | None, unseen: Sequence[str]
) -> list[Exchange]:
    """The rows, of whose search results those that hold a held-out text must not be shown.

    Args:
        exchanges: The rows.
        field: The field of `extra` that holds the results; None for none.
        unseen: As of `collection`.
    """
    if field is None or not unseen:
        return [*exchanges]
    retrieved = [[hit.passage for hit in results_of(exchange, field)] for exchange in exchanges]
    every = [passage for passages in retrieved for passage in passages]
    held = {every[number].id for number in _overlapping(every, unseen)}
    if held:
        _log.warning("%d of %d search results hold a text that is held out", len(held), len(every))
    return [
        exchange._replace(left_out=frozenset(one.id for one in passages if one.id in held))
        for exchange, passages in zip(exchanges, retrieved, strict=True)
    ]


def _title_and_text(value: Any) -> tuple[str | None, str]:
    """The title and the text of a search result; an empty text where it has none."""
    if isinstance(value, str):
        return None, value.strip()
    if not isinstance(value, Mapping):
        return None, ""
    text = next((value[name] for name in _TEXT_FIELDS if isinstance(value.get(name), str)), "")
    title = value.get("title")
    return title if isinstance(title, str) and title.strip() else None, text.strip()
