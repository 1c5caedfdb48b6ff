"""BM25 against its formula, and its promises: exact, ties by position, each query alone."""

from __future__ import annotations

import math
import random
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._text.bm25 import BM25
from stages._text.tokens import words

TEXTS = st.lists(st.text("ab c茶", max_size=12), min_size=1, max_size=6)


def formula(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    """The score of each text, as the formula of the module's docstring has it."""
    collection = words(pl.Series(texts, dtype=pl.String)).to_list()
    mean = sum(map(len, collection)) / len(collection) or 1.0
    scores = []
    for text in collection:
        counts, score = Counter(text), 0.0
        for word in words(pl.Series([query]))[0]:
            df = sum(word in other for other in collection)
            idf = math.log(1 + (len(collection) - df + 0.5) / (df + 0.5))
            norm = k1 * (1 - b + b * len(text) / mean)
            score += idf * counts[word] / (counts[word] + norm) if counts[word] else 0.0
        scores.append(score)
    return scores


@given(TEXTS, TEXTS, st.integers(1, 4), st.sampled_from([(1.5, 0.75), (0.9, 0.4), (0.0, 1.0)]))
def test_scores_are_those_of_the_formula(
    texts: list[str], queries: list[str], k: int, parameters: tuple[float, float]
) -> None:
    hits = BM25(pl.Series(texts), *parameters).top(pl.Series(queries), k)
    for number, query in enumerate(queries):
        expected = formula(texts, query, *parameters)
        result = hits.of(number)
        assert len(result) == min(k, sum(score > 0 for score in expected))
        for text, score in result:
            assert score == pytest.approx(expected[text], rel=1e-12)
        left = sorted({*range(len(texts))} - {text for text, _ in result})
        least = min((score for _, score in result), default=0.0)
        assert len(result) < k or all(expected[text] <= least * (1 + 1e-12) for text in left)


def test_equal_scores_are_in_the_order_of_the_texts() -> None:
    hits = BM25(pl.Series(["a b", "b a", "a b", "c"])).top(pl.Series(["a"]), 2)
    assert [text for text, _ in hits.of(0)] == [0, 1]


def test_a_query_is_not_its_own_result() -> None:
    texts = pl.Series(["a b", "a c", "d"])
    hits = BM25(texts).top(texts, 3, without=[0, None, 2])
    assert [[text for text, _ in hits.of(n)] for n in range(3)] == [[1], [1, 0], []]


def test_a_query_depends_on_itself_alone() -> None:
    rng = random.Random(0)
    texts = pl.Series([" ".join(rng.choices("abcdefghij", k=8)) for _ in range(300)])
    collection = BM25(texts)
    together = collection.top(texts, 5)
    for number in range(0, 300, 37):
        assert collection.top(texts.slice(number, 1), 5).of(0) == together.of(number)


def test_nothing_to_compare() -> None:
    empty = pl.Series([], dtype=pl.String)
    assert BM25(empty).top(pl.Series(["a", None]), 2).of(1) == []
    assert BM25(pl.Series(["", None, "?!"])).top(pl.Series(["a", "?"]), 2).of(0) == []
    assert BM25(pl.Series(["a"])).top(empty, 2).offsets.tolist() == [0]
