"""The novelty kernel against the loop over texts: no bound may lose a pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from stages._text.rouge import Vocabulary, f1, tokenize
from stages.dedup.novelty.greedy_filter import Verdicts, greedy_novelty
from stages.dedup.novelty.lcs_bounds import (
    few_differing_bits,
    rank_tokens,
    signatures,
    wider,
    width,
)
from tests.support.novelty_oracle import loop
from tests.support.rows import DATA, json_lines


def listed(verdicts: Verdicts) -> list[tuple[int, float]]:
    return list(zip(verdicts.duplicate_of.tolist(), verdicts.score.tolist(), strict=True))


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=10), max_size=40),
    st.integers(0, 4),
    st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.8, 1.0]),
    st.booleans(),
    st.integers(1, 20),
    st.sampled_from([512, 1]),
)
def test_equals_the_loop(
    sequences: list, seeds: int, threshold: float, inclusive: bool, block: int, sample: int
) -> None:
    seeds = min(seeds, len(sequences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.dedup.novelty.greedy_filter._BLOCK", block)
        patch.setattr("stages.dedup.novelty.greedy_filter._SAMPLE", sample)
        verdicts = greedy_novelty(
            sequences, n_reference=seeds, threshold=threshold, inclusive=inclusive
        )
    assert listed(verdicts) == loop(sequences, seeds, threshold, inclusive)


def edited(count: int, longest: int, words: int, seed: int) -> list[list[int]]:
    """Texts of 1 ... longest words, of which half are edited copies of others."""
    rng = np.random.default_rng(seed)
    frequent = (words ** rng.random(size=(count, longest))).astype(int)  # few words are common
    texts = [row[: rng.integers(1, longest + 1)].tolist() for row in frequent]
    for i in range(0, count, 2):
        copy = np.array(texts[rng.integers(count)])
        change = rng.random(len(copy)) < rng.choice([0.1, 0.3, 0.5])
        copy[change] = rng.integers(words, size=change.sum())
        texts[i] = copy.tolist()
    return texts


@pytest.mark.parametrize(("longest", "count"), [(12, 300), (90, 150), (400, 60)])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_short_and_long_texts(
    longest: int, count: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = edited(count, longest, 3000, seed=longest)
    expected = loop(sequences, 20, threshold)
    assert 10 < sum(kept >= 0 for kept, _ in expected) < count
    assert listed(greedy_novelty(sequences, n_reference=20, threshold=threshold)) == expected
    for block, cells, cores in [(16, 1, 1), (100, 700, 3)]:
        monkeypatch.setattr("stages.dedup.novelty.greedy_filter._BLOCK", block)
        monkeypatch.setattr("stages.dedup.novelty.greedy_filter._CELLS", cells)
        monkeypatch.setattr("stages.dedup.novelty.lcs_bounds._CELLS", cells)
        monkeypatch.setattr("stages.dedup.novelty.greedy_filter.num_threads", lambda n=cores: n)
        assert listed(greedy_novelty(sequences, n_reference=20, threshold=threshold)) == expected


@pytest.mark.parametrize("codes", [0x110000, 10])
def test_more_words_than_characters(codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks run through the surrogates, which are no characters; past all codes, lists serve."""
    monkeypatch.setattr("stages.dedup.novelty.greedy_filter._CODES", codes)
    texts = [list(range(i, i + 10)) for i in range(0, 60_000, 10)]
    copies = [[*text[:9], text[9] + 1] for text in texts[5000:6000]]
    verdicts = greedy_novelty([*texts, *copies], threshold=0.7)
    assert verdicts.duplicate_of.tolist() == [-1] * 6000 + list(range(5000, 6000))
    assert set(verdicts.score[6000:]) == {float(f1(9, 10, 10))}


@pytest.mark.parametrize("words", [1, 4])
def test_signatures_bound_the_common_subsequence(words: int) -> None:
    pool = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:300]
    vocabulary = Vocabulary()
    sequences = [vocabulary.encode(tokenize(row["instruction"])) for row in pool]
    tokens = rank_tokens(sequences)
    bits = signatures(tokens, words, np.arange(300)).words
    differing = np.bitwise_count(bits[:, :, None] ^ bits[:, None]).sum(axis=0, dtype=int)
    bound = np.add.outer(tokens.lengths, tokens.lengths) - differing
    lcs = np.array([[LCSseq.similarity(a, b) for b in sequences] for a in sequences])
    assert (2 * lcs <= bound).all()
    assert (2 * lcs == bound).mean() > 0.01  # nor is it idle
    limit = np.arange(300) % 12

    def pairs(parts: list[tuple[NDArray, NDArray]]) -> set[tuple[int, int]]:
        return {pair for i, j in parts for pair in zip(i.tolist(), j.tolist(), strict=True)}

    expected = set(zip(*(i.tolist() for i in np.nonzero(differing <= limit)), strict=True))
    assert pairs(list(few_differing_bits(bits, bits, limit))) == expected


def test_frequent_words_have_bits_of_their_own() -> None:
    tokens = rank_tokens([[5, 9, 9], [9, 5, 9], [7]])
    assert tokens.flat.tolist() == [1, 0, 0, 0, 1, 0, 2]
    assert tokens.offsets.tolist() == [0, 3, 6, 7]
    some = signatures(tokens, 1, np.array([0, 2]))
    assert some.slots.tolist() == [0, -1, 1]
    assert np.bitwise_count(some.of(np.array([2, 0]))).tolist() == [[1, 2]]
    assert [width(m) for m in (0, 1, 16, 17, 64, 65, 10**6)] == [1, 1, 1, 2, 4, 8, 64]
    assert [wider(words) for words in (1, 16, 64)] == [4, 64, 64]


def test_nothing_and_equal_texts() -> None:
    assert listed(greedy_novelty([], threshold=0.7)) == []
    assert listed(greedy_novelty([[], []], threshold=0.7)) == [(-1, 0.0)] * 2
    same = greedy_novelty([[1, 2, 3]] * 5000, threshold=0.7)
    assert listed(same) == [(-1, 0.0)] + [(0, 1.0)] * 4999
    assert listed(greedy_novelty([[1]] * 3, threshold=1.0)) == [(-1, 0.0)] * 3
    assert listed(greedy_novelty([[1]] * 3, threshold=1.0, inclusive=True)) == [
        (-1, 0.0),
        (0, 1.0),
        (0, 1.0),
    ]
