"""Which documents of a benchmark stand in what a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from schemas.turns import viewed
from stages._text.ngram_index import build_index, find_overlaps

NGRAM: Final = 13
"""Words in a row that count as a copy, as for GPT-3 (Brown et al. 2020, arXiv:2005.14165)."""

Key = tuple[str, int]
"""A task and the number of a document in it."""

Documents = Mapping[str, Sequence[Mapping[str, Any]]]
"""By task `doc_id` and `doc` of each document; that of an item has `item`, and all its `texts`."""


def contaminated(
    documents: Documents,
    training: pl.DataFrame | None,
    flagged: pl.DataFrame | None,
) -> set[Key]:
    """The documents that are contaminated.

    Args:
        documents: By task.
        training: Records that the model was trained on: a document of which any text shares 13
            words in a row with a turn of them counts.
        flagged: Evaluation items that count, by id.
    """
    keys: set[Key] = set()
    if flagged is not None:
        ids = {*flagged["id"]}
        keys |= {
            (name, document["doc_id"])
            for name, of_task in documents.items()
            for document in of_task
            if document["doc"].get("item") in ids
        }
    return keys | _copied(documents, training) if training is not None else keys


def _copied(documents: Documents, training: pl.DataFrame) -> set[Key]:
    rows = [
        (name, document["doc_id"], text)
        for name, of_task in documents.items()
        for document in of_task
        for text in _texts(_of_item(document["doc"]))
    ]
    texts = pl.DataFrame(
        rows, schema={"task": pl.String, "doc_id": pl.Int64, "text": pl.String}, orient="row"
    ).unique(maintain_order=True)
    if texts.is_empty():
        return set()
    content = pl.col("messages").struct.field("content").fill_null("")
    turns = training.select(viewed("all")).explode("messages").select(text=content)["text"]
    index = build_index(texts, NGRAM, NGRAM)
    hits = find_overlaps(index, turns).text
    pairs = index.texts.select("task", "doc_id")[hits.tolist()] if len(hits) else index.texts[:0]
    return {*pairs.select("task", "doc_id").iter_rows()}


def _of_item(doc: Mapping[str, Any]) -> Any:
    """What the item itself says: prompts made of it say it once more, and tests are no text."""
    return doc["texts"] if "item" in doc else doc


def _texts(value: Any) -> Iterator[str]:
    """All texts in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)
