"""score.heuristics: published answers, definitions by hand, and real rows."""

from __future__ import annotations

import random
import zlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from stages.score.heuristics import heuristics
from tests.support.options import problems
from tests.support.rows import frame, record, self_instruct

CTX = Context.__new__(Context)  # the stage computes only


def measure(*contents: str, **options: int) -> dict[str, float | None]:
    return heuristics(CTX, frame([record(*contents)]), **options).row(0, named=True)


def test_mtld_of_the_example_in_the_paper() -> None:
    """McCarthy and Jarvis 2010: these nine words close one factor, so their MTLD is 9."""
    text = "Of the people by the people for the people"
    assert measure("Quote.", text)["mtld"] == 9


def test_mtld_counts_the_rest_in_part() -> None:
    # forwards: the third word closes a factor (2 of 3), "b b" another (1 of 2), and "c" is no
    # part; backwards: "c b b" closes one (2 of 3), and "a b a" another
    assert measure("Go.", "a b a b b c")["mtld"] == pytest.approx(6 / 2)
    # one word of four repeats: (1 - 3/4) / (1 - 0.72) of a factor either way
    assert measure("Go.", "a b c a")["mtld"] == pytest.approx(4 * 0.28 / 0.25)


def test_mtld_does_not_fall_with_length() -> None:
    words = random.Random(0).choices([f"w{i}" for i in range(200)], k=6000)
    short, long = (measure("Go.", " ".join(words[:n]))["mtld"] for n in (600, 6000))
    assert long == pytest.approx(short, rel=0.15)  # the type-token ratio falls to a tenth


def test_lengths() -> None:
    answer = "Don't know, naïve me"
    result = measure("Add the numbers.\n\n1, 2", "It's three — 3!", "And 4?", answer)
    assert result["turns"] == 2
    assert (result["prompt_chars"], result["prompt_words"]) == (22, 5)
    assert (result["response_chars"], result["response_words"]) == (20, 4)


def test_words_are_counted_before_lower_case() -> None:
    """Lower case turns "İ" into an i and a dot above, which would cut the word in two."""
    assert measure("Go.", "İstanbul")["response_words"] == 1
    answers = ["It's three", "İstanbul", "?!", "naïve İi, me", "ten 4"]
    records = [record("no answer"), *(record("Go.", answer) for answer in answers)]
    rows = pl.concat([frame([one]) for one in records])
    counts = heuristics(CTX, rows)["response_words"].to_list()
    assert counts == [None, 2, 1, 0, 3, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我喜欢喝绿茶，不喜欢咖啡。", 11),
        ("東京タワーはどこですか？", 11),
        ("ฉันชอบดื่มชา", 9),
        ("나는 녹차를 좋아한다", 3),
        ("मुझे हिन्दी पसंद है", 4),
        ("Python 3 的列表 (list) 怎么排序?", 10),
        ("cafe\u0301s re\u0301sume\u0301", 2),
    ],
    ids=["Chinese", "Japanese", "Thai", "Korean", "Hindi", "mixed", "decomposed"],
)
def test_words_of_scripts_with_and_without_spaces(text: str, words: int) -> None:
    assert measure(text, text)["prompt_words"] == measure(text, text)["response_words"] == words


LATIN = st.text(st.characters(max_codepoint=0x24F, exclude_characters="İ"), max_size=60)


@given(LATIN)
def test_words_of_latin_script_are_runs_of_letters_and_digits(text: str) -> None:
    runs = pl.Series([text]).str.count_matches(r"[\p{L}\p{N}]+(?:['’][\p{L}]+)*").item()
    assert measure("Go.", text)["response_words"] == runs


def test_repetition_and_diversity_of_chinese_are_over_characters() -> None:
    result = measure("去。", "好好学习天天向上好好学习天天向上")
    assert result["repetition"] == pytest.approx(1 - 8 / 14)
    assert result["mtld"] is not None


def test_repetition() -> None:
    assert measure("Go.", "a b c a b c a b c")["repetition"] == pytest.approx(1 - 3 / 7)
    assert measure("Go.", "A b a B a b", ngram_size=2)["repetition"] == pytest.approx(1 - 2 / 5)
    assert measure("Go.", "one two")["repetition"] == 0
    assert measure("Go.", "all of these words differ")["repetition"] == 0


def test_compression() -> None:
    text = "naïve " * 50
    expected = len(zlib.compress(text.encode(), 6)) / len(text.encode())
    assert measure("Go.", text)["compression_ratio"] == pytest.approx(expected)
    assert measure("Go.", text)["compression_ratio"] < 0.1  # type: ignore[operator]


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_blank_answers_have_no_measures(answer: str) -> None:
    result = measure("Go.", answer)
    assert result["response_words"] == 0
    assert result["mtld"] is result["compression_ratio"] is result["repetition"] is None


def test_odd_conversations_and_types() -> None:
    odd = frame([record(), record("no answer"), record("!?", "…!"), record("Go.", "w " * 5000)])
    result = heuristics(CTX, odd)
    added = heuristics.__stage__.adds  # type: ignore[attr-defined]
    assert dict(result.schema) == added
    assert dict(heuristics(CTX, odd.head(0)).schema) == added
    assert result["response_words"].null_count() == 2
    assert result["turns"].to_list().count(0) == 1


def stretches(words: list[str]) -> float:
    """MTLD's factors as McCarthy and Jarvis tell them, word by word."""
    closed, seen, length = 0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) <= 0.72 * length:
            closed, seen, length = closed + 1, set(), 0
    return closed + ((1 - len(seen) / length) / (1 - 0.72) if length else 0.0)


@given(
    st.lists(
        st.lists(st.sampled_from([f"w{i}" for i in range(24)]), max_size=150),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
)
def test_many_rows_at_once_are_as_word_by_word(texts: list[list[str]], ngram: int) -> None:
    rows = pl.concat([frame([record("Go.", " ".join(words) or "!")]) for words in texts])
    for result, words in zip(
        heuristics(CTX, rows, ngram_size=ngram).rows(named=True), texts, strict=True
    ):
        factors = stretches(words), stretches(words[::-1])
        mtld = len(words) * (1 / factors[0] + 1 / factors[1]) / 2 if all(factors) else None
        assert result["mtld"] == (mtld and np.float32(mtld))
        grams = list(zip(*(words[i:] for i in range(ngram)), strict=False))
        share = 1 - len(set(grams)) / len(grams) if grams else 0.0
        assert result["repetition"] == (np.float32(share) if words else None)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80))
def test_measures_are_in_their_ranges(words: list[str]) -> None:
    result = measure("Go.", " ".join(words))
    assert result["mtld"] is None or result["mtld"] >= 1
    assert (result["mtld"] is None) == (len(set(words)) == len(words))
    assert 0 <= result["repetition"] < 1  # type: ignore[operator]
    assert result["response_words"] == len(words)


def test_a_row_depends_on_itself_alone() -> None:
    rows = self_instruct(400)
    whole = heuristics(CTX, rows)
    assert pl.concat([heuristics(CTX, rows[:77]), heuristics(CTX, rows[77:])]).equals(whole)
    assert whole["repetition"].is_between(0, 1).all()
    assert whole["repetition"].max() > 0.3  # type: ignore[operator]  # GPT-3 does repeat itself


def test_ngram_below_one_is_told() -> None:
    assert problems("score.heuristics", ngram_size=0) == ["ngram_size must be at least 1, got 0"]
