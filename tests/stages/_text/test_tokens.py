"""The text kernels against plain Python on the same tokens."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._text.ragged import intersection_sizes
from stages._text.tokens import (
    Normalization,
    hash_tokens,
    ngram_hashes,
    normalize,
    rolling_hashes,
    shingle_sets,
    shingles,
    tokens,
    words,
)
from tests.stages._text.test_ragged import listed

few_words = st.lists(st.sampled_from(["a", "b", "c", "1", "2", "+", "你"]), max_size=9).map(
    " ".join
)
columns = st.lists(st.one_of(few_words, st.text(max_size=12)), min_size=1, max_size=8)


def grams(text_tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text; the whole text if it is shorter."""
    if len(text_tokens) < n:
        return [tuple(text_tokens)] if text_tokens else []
    return [tuple(text_tokens[i : i + n]) for i in range(len(text_tokens) - n + 1)]


@given(columns, st.integers(1, 5))
def test_hashes_are_equal_where_the_ngrams_are(texts: list[str], n: int) -> None:
    tokenized = tokens(pl.Series(texts, dtype=pl.String)).to_list()
    expected = [gram for text in tokenized for gram in grams(text, n)]
    result = shingles(pl.Series(texts, dtype=pl.String), n)
    assert result.lengths.tolist() == [len(grams(text, n)) for text in tokenized]
    forth = dict(zip(expected, result.values.tolist(), strict=True))
    back = dict(zip(result.values.tolist(), expected, strict=True))
    assert [forth[gram] for gram in expected] == result.values.tolist()
    assert [back[value] for value in result.values.tolist()] == expected


@given(columns, st.integers(1, 4))
def test_sets_overlap_as_those_of_python(texts: list[str], n: int) -> None:
    sets = [set(grams(text, n)) for text in tokens(pl.Series(texts, dtype=pl.String)).to_list()]
    pairs = np.array(list(combinations(range(len(texts)), 2)), dtype=np.int64).reshape(-1, 2)
    hashed = shingle_sets(pl.Series(texts, dtype=pl.String), n)
    assert hashed.lengths.tolist() == [len(one) for one in sets]
    shared = intersection_sizes(hashed, pairs[:, 0], pairs[:, 1])
    assert shared.tolist() == [len(sets[i] & sets[j]) for i, j in pairs]


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series(["one two three", "", "four", "one two three four five", "6 7"])
    complete = shingles(texts, 2)
    monkeypatch.setattr("stages._text.tokens._CHUNK", 2)
    parts = shingles(texts, 2)
    monkeypatch.setattr("stages._text.ragged._BLOCK", 2)
    assert listed(shingle_sets(texts, 2)) == [sorted(set(part)) for part in listed(complete)]
    assert listed(shingle_sets(texts.clear(), 2)) == []
    assert parts.offsets.tolist() == complete.offsets.tolist()
    assert parts.values.tolist() == complete.values.tolist()


def test_hashes_are_the_same_on_every_machine() -> None:
    hashed = hash_tokens(tokens(pl.Series(["Hello, hello world"])))
    hello, world = 10760762337991515389, 15440428753770867134
    assert hashed.values.tolist() == [hello, hello, world]


def test_rolling_hashes_give_all_lengths() -> None:
    hashed = hash_tokens(tokens(pl.Series(["a b a b a"])))
    lengths = {n: values.tolist() for n, values in rolling_hashes(hashed.values, 9)}
    assert [len(values) for values in lengths.values()] == [5, 4, 3, 2, 1, 0]
    assert lengths[2][0] == lengths[2][2] != lengths[2][1]
    assert ngram_hashes(hashed, 9).lengths.tolist() == [0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 apples", "4 apples"),
        ("3.5", "35"),
        ("3.5!", "3.5"),
        ("5!", "5"),
        ("5!", "5."),
        ("3:5", "3.5"),
        ("1,000", "1 000"),
        ("5 - 3", "5 + 3"),
        ("-5", "5"),
        ("2³", "23"),
        ("2*(3+4)", "2*3+4"),
        ("C++", "C#"),
    ],
)
def test_no_normalization_makes_numbers_or_operators_equal(a: str, b: str) -> None:
    steps = ("unicode", "case", "punctuation", "space")
    result = pl.DataFrame({"text": [a, b]}).select(normalize(pl.col("text"), steps))["text"]
    assert result[0] != result[1]


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        ("Hello World", "hello world", ("case",)),
        (" a\n\tb ", "a b", ("space",)),
        (" \r\n\n a: \r\n  b\n\n", " a:\n  b", ("line_ends",)),
        ("“Yes,” it's so.", "Yes its so", ("punctuation",)),
        ("cafe\u0301", "café", ("unicode",)),
        ("你好，世界。", "你好世界", ("punctuation",)),
        ("In 2020, it was 3.5.", "In 2020 it was 3.5", ("punctuation",)),
        ("ﬁne ２³", "fine 23", ("nfkc",)),
    ],
)
def test_normalization_takes_out_what_it_names_and_no_more(a: str, b: str, steps: tuple) -> None:
    frame = pl.DataFrame({"text": [a, b]})
    equal = frame.select(normalize(pl.col("text"), steps))["text"]
    assert equal[0] == equal[1]
    overlapping = {"nfkc", "space", "line_ends"} if "line_ends" in steps else {"nfkc"}
    others = tuple(set(get_args(Normalization)) - {*overlapping, *steps})
    unequal = frame.select(normalize(pl.col("text"), others))["text"]
    assert unequal[0] != unequal[1]


def test_numbers_are_whole_tokens() -> None:
    texts = pl.Series(["3.5 or 3:5?", "1,000. 5! 12:30:05", "v3.5 3rd 3, 5; cafe\u0301 5"])
    assert tokens(texts).to_list() == [
        ["3.5", "or", "3:5"],
        ["1,000", "5!", "12:30:05"],
        ["v3", "5", "3rd", "3", "5", "café", "5"],
    ]


def test_tokens_and_words() -> None:
    texts = pl.Series(["C++ isn't C#; x=3.5!", "你好, ｗorld １２", "ﬁne", ""])
    assert tokens(texts).to_list() == [
        ["c", "++", "isn", "t", "c", "#", "x", "=", "3.5!"],
        ["你", "好", "ｗorld", "１２"],
        ["ﬁne"],
        [],
    ]
    assert words(texts).to_list() == [
        ["c", "isnt", "c", "x", "3", "5"],
        ["你", "好", "world", "12"],
        ["fine"],
        [],
    ]
