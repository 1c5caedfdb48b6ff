"""ROUGE-L: bit for bit the reference's scores, and the published ones of Ensemble-Instruct."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from stages._text.rouge import NoveltyPool, f1, rouge_l, tokenize

ROOT = Path(__file__).parents[3]
REFERENCE = {stem: RougeScorer(["rougeL"], use_stemmer=stem) for stem in (False, True)}

words = st.sampled_from(
    ["write", "writes", "writing", "a", "poems", "relational", "7", "Ünï", "诗"]
)
texts = st.one_of(st.lists(words, max_size=12).map(" ".join), st.text(max_size=30))


@pytest.mark.parametrize("stem", [False, True])
@given(a=texts, b=texts)
def test_equals_the_reference_bit_for_bit(stem: bool, a: str, b: str) -> None:
    expected = REFERENCE[stem].score(a, b)["rougeL"].fmeasure
    assert rouge_l(tokenize(a, stem), tokenize(b, stem)) == expected
    pool = NoveltyPool(stem)
    pool.add("a", a)
    assert pool.scores(b).tolist() == [expected]


def test_the_formula_of_the_reference_decides_at_exactly_seven_tenths() -> None:
    m, n = np.meshgrid(np.arange(1, 60), np.arange(1, 60))
    lcs = np.minimum(m, n) - (np.minimum(m, n) > 3)
    score = f1(lcs, m, n)
    for i, j in np.ndindex(m.shape):
        p, r = lcs[i, j] / m[i, j], lcs[i, j] / n[i, j]
        assert score[i, j] == (2 * p * r / (p + r) if p + r > 0 else 0.0)
    # 7 shared tokens of 8 and 12: exactly 0.7 on paper, more than 0.7 in the reference.
    assert float(f1(7, 8, 12)) == 0.7000000000000001
    assert float(f1(21, 23, 37)) == 0.6999999999999998


def test_published_scores_of_ensemble_instruct() -> None:
    path = ROOT / "tests/golden/ensemble_instruct_io_instructions.jsonl.gz"
    differences = []
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        pool = NoveltyPool()
        for text in row["most_similar"]:
            pool.add(text, text)
        # The end mark "|EoS|" of a generated instruction was scored as a word.
        scores = pool.scores(row["instruction"]).tolist()
        differences += [a - b for a, b in zip(scores, row["most_similar"].values(), strict=True)]
    assert len(differences) == 1010
    assert set(differences) == {0.0}


def test_a_pool_scores_in_the_order_of_adding() -> None:
    pool = NoveltyPool()
    assert pool.scores("anything").tolist() == []
    for key, text in [("a", "one two"), ("b", "one two three"), ("c", "One, two!"), ("d", "诗")]:
        pool.add(key, text)
    assert pool.keys == ["a", "b", "c", "d"]
    assert pool.scores("one two").tolist() == [1.0, 0.8, 1.0, 0.0]
    assert pool.scores("诗").tolist() == [0.0] * 4
