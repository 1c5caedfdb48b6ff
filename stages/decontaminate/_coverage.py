"""How much of what one text says another says too, word by word.

Vectors of whole texts confuse a subject with a question about it. A paraphrase has for
each word that carries meaning one of about the same meaning, and keeps names, numbers and
symbols; a question on the same subject does not. This is the relaxed word mover's distance
(Kusner et al. 2015) as a similarity, weighted by inverse document frequency as BERTScore is
(Zhang et al. 2020, arXiv:1904.09675), in both directions.

In: pairs of texts. Out: for each pair the mean of the two coverages. Words are encoded by
the stage's own encoder, each once; a number covers an equal number alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_WORDS: Final = 64
"""Words of a text that are compared: those that the fewest texts have."""

MAX_CACHED: Final = 100_000
"""Words whose vectors are kept."""

_BATCH: Final = 512
"""Pairs at a time: 512 x 64 words x 384 dimensions x 2 are 100 MiB."""

_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")

FUNCTION_WORDS: Final = frozenset(
    "a an the of to in on for and or is are was were be been being it its this that these those as "
    "by with from at which what who whom how why when where do does did no following would "
    "could should can may might will has have had if than then there their they he she his her you "
    "your we our i me my most best some any all each both such into about between also other "
    "one".split()
)
"""English words without a meaning of their own. "Not" is none of them."""


def content_words(text: str) -> list[str]:
    """The different words and numbers of a text that carry meaning, lower-cased.

    Example:
        >>> content_words("Which of the 3 towns is the largest town of the 3?")
        ['3', 'towns', 'largest', 'town']
    """
    found = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in found if word not in FUNCTION_WORDS]


class Coverage:
    """Compares pairs of texts word by word.

    Args:
        encode: From texts to vectors, of length 1 or 0.
        texts: Ordinary texts and the items', of which the frequencies of words are counted.

    Example:
        >>> letters = lambda words: np.eye(26, dtype=np.float32)[[ord(w[0]) - 97 for w in words]]
        >>> coverage = Coverage(letters, ["ape bee", "bee cow", "cow"])
        >>> coverage(["ape bee", "ape bee"], ["bee ant", "cow dog"]).round(2).tolist()
        [1.0, 0.0]
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], NDArray[np.float32]], texts: Iterable[str]
    ) -> None:
        documents = [content_words(text) for text in texts]
        self._encode = encode
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._frequency = Counter(word for document in documents for word in document)
        self._documents = len(documents)

    def __call__(self, items: Sequence[str], spans: Sequence[str]) -> NDArray[np.float64]:
        """The mean of the fraction of the item that the span covers, and the reverse.

        Args:
            items: A text of each pair.
            spans: The other.

        Returns:
            From 0 to 1; 0 where a text has no word that carries meaning.
        """
        words = {text: self._words(text) for text in {*items, *spans}}
        known = sorted({word for listed in words.values() for word in listed})
        index = {word: i for i, word in enumerate(known, 1)}
        codes = {text: [index[word] for word in listed] for text, listed in words.items()}
        weights = np.array([0.0, *map(self.weight, known)])
        is_number = np.array([False, *(word[0].isdecimal() for word in known)])
        result = np.zeros(len(items))
        if not known:
            return result
        vectors = self._word_vectors(known)
        for start in range(0, len(items), _BATCH):
            batch = slice(start, start + _BATCH)
            left = _padded([codes[text] for text in items[batch]])
            right = _padded([codes[text] for text in spans[batch]])
            # One product of equal shape for each pair: its result depends on no other pair.
            similar = np.matmul(vectors[left], vectors[right].transpose(0, 2, 1))
            similar[is_number[left][:, :, None] | is_number[right][:, None, :]] = 0
            similar[left[:, :, None] == right[:, None, :]] = 1
            similar[(left == 0)[:, :, None] | (right == 0)[:, None, :]] = 0
            forward = _mean(similar.max(axis=2), weights[left])
            backward = _mean(similar.max(axis=1), weights[right])
            result[batch] = (forward + backward) / 2
        return result

    def weight(self, word: str) -> float:
        """The inverse document frequency of a word."""
        return math.log((self._documents + 1) / (self._frequency[word] + 1))

    def _word_vectors(self, words: Sequence[str]) -> NDArray[np.float32]:
        """The words' vectors, behind one of zeros; each word is encoded once."""
        if len(self._vectors) > MAX_CACHED:
            self._vectors.clear()
        new = [word for word in words if word not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encode(new), strict=True))
        vectors = [self._vectors[word] for word in words]
        return np.stack([np.zeros_like(vectors[0]), *vectors])

    def _words(self, text: str) -> list[str]:
        """The words of a text that are compared, in an order that depends on them alone."""
        return sorted(content_words(text), key=lambda word: (-self.weight(word), word))[:MAX_WORDS]


def _padded(codes: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    padded = np.zeros((len(codes), MAX_WORDS), dtype=np.int64)
    for row, code in zip(padded, codes, strict=True):
        row[: len(code)] = code
    return padded


def _mean(similarity: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of each row, 0 for one without weight."""
    total = weights.sum(axis=1)
    summed = (np.maximum(similarity, 0) * weights).sum(axis=1)
    return np.divide(summed, total, out=np.zeros_like(total), where=total > 0)
