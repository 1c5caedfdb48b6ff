"""The strong baseline of 13-gram decontamination: a Python set of word tuples.

What one page of plain code reaches today, with the same words and the same exceptions
as `decontaminate.ngram` under `gpt3-13`, so that the rows flagged must be equal. N-grams
go from `zip` to the set without a line of Python for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from stages._text.ngram_index import MIN_WORDS_ANYWHERE
from stages._text.ngram_table import MIN_DISTINCT_WORDS
from stages._text.tokens import words

Words = list[str]


def word_tuples(
    rows: pl.DataFrame, benchmarks: pl.DataFrame, n: int = 13, min_words: int = 5
) -> set[str]:
    """Ids of the rows of which a turn holds an n-gram, or a complete short text, of the items."""
    grams: set[tuple[str, ...]] = set()
    short: dict[int, set[tuple[str, ...]]] = {}
    for item in _words(benchmarks, "texts", "text"):
        if len(item) >= n:
            grams.update(_ngrams(item, n))
        elif len(item) >= min_words and len(set(item)) >= MIN_DISTINCT_WORDS:
            short.setdefault(len(item), set()).add(tuple(item))
    flagged = set()
    lengths = rows["messages"].list.len()
    ids = rows.select(pl.col("id").repeat_by(lengths))["id"].explode().to_list()
    for key, turn in zip(ids, _words(rows, "messages", "content"), strict=True):
        if key not in flagged and (_any_gram(turn, grams, n) or _any_short(turn, short, n)):
            flagged.add(key)
    return flagged


def _words(frame: pl.DataFrame, column: str, field: str) -> Iterable[Words]:
    texts = frame[column].explode().struct.field(field).fill_null("")
    return words(texts).to_list()


def _ngrams(text: Words, n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(text[i:] for i in range(n)), strict=False)


def _any_gram(turn: Words, grams: set[tuple[str, ...]], n: int) -> bool:
    if grams.isdisjoint(_ngrams(turn, n)):
        return False
    return any(_is_evidence(gram) for gram in _ngrams(turn, n) if gram in grams)


def _any_short(turn: Words, short: dict[int, set[tuple[str, ...]]], n: int) -> bool:
    return any(
        not texts.isdisjoint(_ngrams(turn, length))
        for length, texts in short.items()
        if length >= min(n, MIN_WORDS_ANYWHERE) or 2 * length >= len(turn)
    )


def _is_evidence(gram: tuple[str, ...]) -> bool:
    nontrivial = (not w.isnumeric() and not (len(w) == 1 and w.isascii()) for w in gram)
    return len(set(gram)) >= MIN_DISTINCT_WORDS and any(nontrivial)
