"""Rows that are one for a hold-out: they share a prompt, are near-duplicates or share an n-gram.

What `select.split` and `select.except` mean by related, and what `report.ablation` refuses
between rows that are trained on and rows that are evaluated on.

- one prompt: all before the last assistant turn is equal (`schemas.records.prompt_id`);
- near-duplicates: the Jaccard similarity of their sets of word n-grams reaches a threshold, as
  in `dedup.jaccard`;
- a shared n-gram: a run of words of a turn that a turn of the other row has, as
  `decontaminate.ngram` compares them (runs of few distinct words, or of numbers and single
  letters alone, are none).

Exact: the same as loops over pairs in tests/support/related_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.records import prompt_id
from schemas.turns import viewed
from stages._text.candidates import Components, commonness, condense
from stages._text.join import prefixes, similarity_join
from stages._text.ngram_index import build_index, find_overlaps, ngram_starts
from stages._text.ragged import Ragged, blocks, offsets_of, ranges, take
from stages._text.tokens import (
    Field,
    field_reads,
    field_text,
    hash_tokens,
    rolling_hashes,
    shingle_sets,
    words,
)
from stages._vectors.arrays import parallel_map

Positions = NDArray[np.int64]

SHARED_NGRAM: Final = 13
"""Words of a run that rows of two sides must not share (GPT-3's rule, and that of
`report.ablation`)."""

_CHUNK: Final = 8_192
"""Turns whose n-grams are hashed at a time, which bounds the memory for their words."""

_PAIRS: Final = 1 << 20
"""Pairs of sets that are listed at a time."""

MATCHES: Final = {"row": pl.Int64, "other": pl.Int64, "jaccard": pl.Float64, "ngram": pl.String}
"""The columns of `related_rows`."""


class Relation(NamedTuple):
    """When two rows with different prompts are related.

    Attributes:
        threshold: The Jaccard similarity of near-duplicates; None: none are.
        ngram_size: Words in the n-grams of the sets.
        field: The text that is compared.
        shared_ngram_size: Words of a run that relates two rows; None: no run does.
    """

    threshold: float | None
    ngram_size: int
    field: Field
    shared_ngram_size: int | None


def relation_reads(options: SimpleNamespace) -> list[str]:
    """The columns that are read for a relation with these options."""
    texts = [] if options.threshold is None else field_reads(options.field)
    return list(dict.fromkeys(["messages", "tools", *texts]))


def prompt_ids(rows: pl.DataFrame) -> pl.Series:
    """The id of each row's prompt. A loop, because ids are digests of JSON."""
    pairs = rows.select("messages", "tools").iter_rows()
    ids = [prompt_id(messages or [], tools) for messages, tools in pairs]
    return pl.Series("prompt_id", ids, dtype=pl.String)


def related_groups(rows: pl.DataFrame, prompts: pl.Series, relation: Relation) -> Positions:
    """The connected components of related rows.

    Args:
        rows: Records.
        prompts: Their `prompt_ids`.
        relation: What relates rows.

    Returns:
        For each row the position of the first row of its component.
    """
    components = Components(len(rows))
    _, first, group = np.unique(prompts.to_numpy(), return_index=True, return_inverse=True)
    components.join(first[group], np.arange(len(rows)))
    if relation.threshold is not None:
        sets = shingle_sets(
            rows.select(field_text(relation.field)).to_series(), relation.ngram_size
        )
        pairs = similarity_join(sets, 0, relation.threshold, prefixes).pairs
        components.join(pairs[:, 0], pairs[:, 1])
    if relation.shared_ngram_size is not None:
        components.join(*_rows_with_one_ngram(rows, relation.shared_ngram_size))
    return components.roots(np.arange(len(rows)))


def related_rows(rows: pl.DataFrame, others: pl.DataFrame, relation: Relation) -> pl.DataFrame:
    """The rows that are related to one of some others by their texts, whatever their prompts.

    Args:
        rows: Records.
        others: The records that they are compared with.
        relation: What relates rows.

    Returns:
        `row` (position), `other` (position among the others), and `jaccard` or `ngram`, which
        says why; several for a row that is related to several.
    """
    parts = [pl.DataFrame(schema=MATCHES)]
    if relation.threshold is not None:
        texts = [frame.select(field_text(relation.field)).to_series() for frame in (others, rows)]
        sets = shingle_sets(pl.concat(texts), relation.ngram_size)
        parts += _similar_pairs(sets, len(others), relation.threshold)
    if relation.shared_ngram_size is not None:
        parts.append(_with_shared_ngrams(rows, others, relation.shared_ngram_size))
    return pl.concat(parts, how="diagonal")


def _turns(rows: pl.DataFrame) -> pl.DataFrame:
    """Every turn's `text`, and the position of its row."""
    text = pl.col("messages").struct.field("content").alias("text")
    numbered = rows.select(viewed("all"), row=pl.int_range(pl.len()))
    return numbered.explode("messages", empty_as_null=False).select("row", text)


def _rows_with_one_ngram(rows: pl.DataFrame, size: int) -> tuple[Positions, Positions]:
    """Pairs that connect all rows with an n-gram in common: its first row, and another one."""
    turns = _turns(rows)
    with parallel_map() as map_blocks:
        parts = map_blocks(
            lambda part: _ngrams(turns["text"][part], size), max(len(turns), 1), _CHUNK
        )
    hashes = np.concatenate([part.values for part in parts])
    counts = np.concatenate([part.lengths for part in parts])
    owners = np.repeat(turns["row"].to_numpy(), counts)
    shared = commonness(hashes) > 0
    hashes, owners = hashes[shared], owners[shared]
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    new = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    first = owners[new][np.cumsum(new) - 1]
    pairs = np.unique((first << 32 | owners)[first != owners])
    return pairs >> 32, pairs & 0xFFFFFFFF


def _ngrams(texts: pl.Series, size: int) -> Ragged:
    """The hashes of each text's n-grams, in their order."""
    tokenized = words(texts)
    hashed = hash_tokens(tokenized)
    starts = ngram_starts(hashed, tokenized.explode(empty_as_null=False, keep_nulls=False), size)
    rolled = np.zeros(0, np.uint64)
    for length, hashes in rolling_hashes(hashed.values, size):
        rolled = hashes if length == size else rolled
    owners = np.searchsorted(hashed.offsets, starts, side="right") - 1
    counts = np.bincount(owners, minlength=len(texts))
    return Ragged(offsets_of(counts), rolled[starts])


def _similar_pairs(sets: Ragged, n_held: int, threshold: float) -> Iterator[pl.DataFrame]:
    """Pairs of a new set and a held one whose Jaccard similarity reaches the threshold.

    The prefixes of two similar sets have an element in common (`stages._text.join`); those
    of the held sets, the smaller side, are sorted and searched for those of the new ones.
    """
    pool = condense(sets, n_held, threshold)
    held, new = np.flatnonzero(pool.held), np.flatnonzero(~pool.held)
    keys, sought = take(pool.prefix, held), take(pool.prefix, new)
    order = np.argsort(keys.values, kind="stable")
    values, owners = keys.values[order], held[keys.owners()[order]]
    low = np.searchsorted(values, sought.values, side="left")
    counts = np.searchsorted(values, sought.values, side="right") - low
    seekers = new[sought.owners()]
    for part in blocks(counts, _PAIRS):
        left = np.repeat(seekers[part], counts[part])
        right = owners[ranges(low[part], counts[part])]
        pairs = np.unique(left << 32 | right)
        left, right = pairs >> 32, pairs & 0xFFFFFFFF
        similarity = pool.similarity(left, right)
        near = similarity >= threshold
        yield pl.DataFrame(
            {
                "row": pool.rows[left[near]] - n_held,
                "other": pool.rows[right[near]],
                "jaccard": similarity[near],
            }
        )


def _with_shared_ngrams(rows: pl.DataFrame, others: pl.DataFrame, size: int) -> pl.DataFrame:
    """Pairs of a row and another that share an n-gram, with the first one that they share."""
    turns, of_others = _turns(rows), _turns(others)
    index = build_index(of_others.select("row", "text"), size, size)
    hits = find_overlaps(index, turns["text"])
    places = zip(hits.text.tolist(), hits.start.tolist(), hits.length.tolist(), strict=True)
    return pl.DataFrame(
        {
            "row": turns["row"].gather(hits.row),
            "other": of_others["row"].gather(hits.text),
            "ngram": pl.Series([index.excerpt(*place) for place in places], dtype=pl.String),
        }
    )
