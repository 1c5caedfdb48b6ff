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

from stages._vectors.arrays import parallel_map

MAX_WORDS: Final = 48
"""Words of a text that are compared: those that the fewest texts have."""

PRIOR: Final = 12.0
"""Weight of words that count as not covered, beside those of the text: about two rare words.
Without it "Add two numbers" is covered by every program that does, and a long question by
nearly none. Chosen on the development files of `semantic.THRESHOLDS`."""

MAX_CACHED: Final = 100_000
"""Words whose vectors are kept."""

_WIDTHS: Final = (8, 12, 16, 24, 32, MAX_WORDS)
"""Numbers of words that the texts of a pair are padded to."""

_BATCH: Final = 256
"""Pairs at a time: 256 x 2 x 48 words x 384 dimensions are 36 MiB for each thread."""

_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")

FUNCTION_WORDS: Final = frozenset([
    "a", "an", "the", "of", "to", "in", "on", "for", "and", "or", "is", "are", "was", "were",
    "be", "been", "being", "it", "its", "this", "that", "these", "those", "as", "by", "with",
    "from", "at", "which", "what", "who", "whom", "how", "why", "when", "where", "do", "does",
    "did", "no", "following", "would", "could", "should", "can", "may", "might", "will", "has",
    "have", "had", "if", "than", "then", "there", "their", "they", "he", "she", "his", "her",
    "you", "your", "we", "our", "i", "me", "my", "most", "best", "some", "any", "all", "each",
    "both", "such", "into", "about", "between", "also", "other", "one",
])  # fmt: skip
"""English words without a meaning of their own. "Not" is none of them."""


def content_words(text: str) -> list[str]:
    """The different words and numbers of a text that carry meaning, lower-cased.

    Example:
        >>> content_words("Which of the 3 towns is the largest town of the 3?")
        ['3', 'towns', 'largest', 'town']
    """
    words = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in words if word not in FUNCTION_WORDS]


class Coverage:
    """Compares pairs of texts word by word.

    Args:
        encode: From texts to vectors, of length 1 or 0.
        texts: Ordinary texts and the items', of which the frequencies of words are counted.

    Example:
        >>> letters = lambda words: np.eye(26, dtype=np.float32)[[ord(w[0]) - 97 for w in words]]
        >>> coverage = Coverage(letters, ["ape bee", "bee cow", "cow"])
        >>> coverage(["ape bee", "ape bee"], ["bee ant", "cow dog"]).round(2).tolist()
        [0.1, 0.0]
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
        pairs = [(codes[item], codes[span]) for item, span in zip(items, spans, strict=True)]
        sizes = np.array([max(map(len, pair)) for pair in pairs])
        # A pair is padded to the size that it alone demands: its result depends on no other.
        widths = np.array(_WIDTHS)[np.searchsorted(_WIDTHS, sizes)]

        def compare(block: slice) -> None:
            chosen = order[block]
            for width in np.unique(widths[chosen]).tolist():
                same = chosen[widths[chosen] == width]
                left, right = (_padded([pairs[i][k] for i in same], width) for k in (0, 1))
                result[same] = _covered(left, right, vectors, weights, is_number)

        order = np.argsort(widths, kind="stable")
        with parallel_map() as map_blocks:
            map_blocks(compare, len(pairs), _BATCH)
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


def _padded(codes: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    padded = np.zeros((len(codes), width), dtype=np.int64)
    for row, code in zip(padded, codes, strict=True):
        row[: len(code)] = code
    return padded


def _covered(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float64],
    is_number: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The mean of both coverages of each pair; 0 stands for no word."""
    similar = np.matmul(vectors[left], vectors[right].transpose(0, 2, 1))
    similar[is_number[left][:, :, None] | is_number[right][:, None, :]] = 0
    similar[left[:, :, None] == right[:, None, :]] = 1
    similar *= (left > 0)[:, :, None]
    similar *= (right > 0)[:, None, :]
    forward = _mean(similar.max(axis=2), weights[left])
    return (forward + _mean(similar.max(axis=1), weights[right])) / 2


def _mean(similarity: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of each row, 0 for one without weight."""
    total = weights.sum(axis=1)
    summed = (np.maximum(similarity, 0) * weights).sum(axis=1)
    covered: NDArray[np.float64] = summed / (total + PRIOR)
    return covered
