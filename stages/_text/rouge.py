"""ROUGE-L between short texts, at the speed of bit-parallel longest common subsequences.

In: two token lists. Out: the F1 of their longest common subsequence. See `rouge_l`.

Self-Instruct (Wang et al. 2022, arXiv:2212.10560) drops a new instruction that is
too similar to any earlier one, by the F1 of ROUGE-L (Lin 2004). The scores here
are the same as those of the `rouge_score` package, bit for bit: the longest common
subsequence is an integer, computed exactly by rapidfuzz, and the F1 follows from it
by the same float64 operations, 2pr / (p + r) with p = lcs/m and r = lcs/n. The
shorter 2 lcs / (m + n) differs from it in the last bit for many lengths, and a
threshold of exactly 0.7 depends on it.
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

    Example:
        >>> tokenize("Write 3 haikus, please!")
        ['write', '3', 'haikus', 'please']
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
    """F1 of a common subsequence between two texts.

    Args:
        lcs: Its length in tokens. All three are arrays of any shapes that broadcast.
        m: Tokens of the one text.
        n: Tokens of the other text.

    Returns:
        The F1, 0 where nothing is shared.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.divide(lcs, m), np.divide(lcs, n)
        score = 2 * precision * recall / (precision + recall)
    return np.where(np.asarray(lcs) > 0, score, 0.0)


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L F1 of two token lists; symmetric, and 0 where either is empty.

    Example:
        >>> round(rouge_l(["name", "a", "river"], ["name", "one", "long", "river"]), 4)
        0.5714
    """
    return float(f1(LCSseq.similarity(a, b), len(a), len(b)))


def num_threads() -> int:
    """The CPUs that this process may use; results do not depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Vocabulary(dict[str, int]):
    """Assigns numbers to tokens as they come: comparing integers is faster than strings."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self)
        return self[token]

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """The numbers of tokens; new ones are added."""
        return [self[token] for token in tokens]


class NoveltyPool:
    """Texts to which new ones are compared one at a time, as a generator accepts them.

    For many texts at once, `stages.dedup.novelty.greedy_filter.greedy_novelty` is faster.

    Args:
        stem: Porter-stem the tokens.

    Example:
        >>> pool = NoveltyPool()
        >>> pool.add("first", "Name a river.")
        >>> pool.scores("Name a long river").round(4).tolist()
        [0.8571]
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
        """Add a text under a key of the caller's (its id)."""
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
