"""ROUGE-L between short texts, at the speed of bit-parallel longest common subsequences.

Self-Instruct (Wang et al. 2022, arXiv:2212.10560) drops a new instruction that is
too similar to any earlier one, by the F1 of ROUGE-L (Lin 2004). The scores here
equal those of the `rouge_score` package bit for bit: the longest common
subsequence is an integer, found exactly by rapidfuzz, and the F1 is taken from it
by the same float64 operations, 2pr / (p + r) with p = lcs/m and r = lcs/n. The
shorter 2 lcs / (m + n) differs from it in the last bit for many lengths, and a
threshold of exactly 0.7 feels that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

_NOT_ALPHANUMERIC = re.compile("[^a-z0-9]+")
_STEMMED_FROM = 4
"""Words of fewer letters are left as they are when stemming."""


def tokenize(text: str, stem: bool = False) -> list[str]:
    """Runs of a-z and 0-9 in the lower-cased text; with `stem`, Porter-stemmed.

    A text in another script has no token at all, so its score is 0 with any other.
    """
    tokens = _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()
    if not stem:
        return tokens
    porter = _porter()
    return [porter(token) if len(token) >= _STEMMED_FROM else token for token in tokens]


@cache
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return cache(PorterStemmer().stem)


def f1(lcs: Any, m: Any, n: Any) -> NDArray[np.float64]:
    """F1 of a common subsequence of length `lcs` between texts of m and n tokens.

    Arrays of any shapes that broadcast; 0 where nothing is shared.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.divide(lcs, m), np.divide(lcs, n)
        score = 2 * precision * recall / (precision + recall)
    return np.where(np.asarray(lcs) > 0, score, 0.0)


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L F1 of two token lists; symmetric, and 0 where either is empty."""
    return float(f1(LCSseq.similarity(a, b), len(a), len(b)))


def num_threads() -> int:
    """The CPUs that this process may use; results do not depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Vocabulary(dict[str, int]):
    """Numbers for tokens, given out as they come: comparing ints is faster than strings."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self)
        return self[token]

    def encode(self, tokens: Sequence[str]) -> list[int]:
        return [self[token] for token in tokens]


class NoveltyPool:
    """Texts to which new ones are compared one at a time, as a generator accepts them.

    For many texts at once, `stages.dedup._novelty.greedy_filter.greedy_novelty` is faster.
    """

    def __init__(self, stem: bool = False) -> None:
        self.stem = stem
        self.keys: list[str] = []
        self._vocabulary = Vocabulary()
        self._sequences: list[list[int]] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: str, text: str) -> None:
        """Put a text into the pool under a key of the caller's (its id)."""
        sequence = self._vocabulary.encode(tokenize(text, self.stem))
        self.keys.append(key)
        self._sequences.append(sequence)
        self._lengths.append(len(sequence))

    def scores(self, text: str) -> NDArray[np.float64]:
        """ROUGE-L F1 with every text of the pool, in the order of adding.

        Their mean is Self-Instruct's `avg_similarity_score`, their maximum decides.
        """
        # Unknown tokens match nothing in the pool, so they need no number of their own.
        sequence = [self._vocabulary.get(token, -1) for token in tokenize(text, self.stem)]
        if not self.keys:
            return np.zeros(0)
        lcs = cdist([sequence], self._sequences, scorer=LCSseq.similarity, dtype=np.uint32)[0]
        return f1(lcs, len(sequence), np.array(self._lengths))

    def most_similar(self, text: str, top: int = 10) -> list[tuple[str, float]]:
        """The keys and scores of the nearest texts, best first; of equals, the older first."""
        scores = self.scores(text)
        order = np.argsort(-scores, kind="stable")[:top]
        return [(self.keys[i], float(scores[i])) for i in order]
