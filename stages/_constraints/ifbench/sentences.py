"""The group `sentence`: what sentences are beside each other."""

from __future__ import annotations

import string
from itertools import pairwise

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Text, kind
from stages._constraints.units import has_word, sentences, without_punctuation


@kind(
    "sentence:alliteration_increment",
    "Each sentence must have a longer run of words with the same first letter than the one before.",
    "Let the alliteration grow from sentence to sentence.",
)
class AlliterationIncrement(Constraint):
    """More words of each sentence stand beside one with the same first letter than before."""

    def check(self, text: str) -> bool:
        """See the class."""
        counts = [_alliterating(sentence) for sentence in sentences(text)]
        return all(one < other for one, other in pairwise(counts))


@kind(
    "sentence:increment",
    "Each sentence must have exactly {small_n} words more than the one before it.",
    "From sentence to sentence, write {small_n} words more.",
)
class Increment(Constraint):
    """Each sentence has so many words more than the one before.

    Args:
        small_n: How many.
    """

    small_n: Count

    def check(self, text: str) -> bool:
        """See the class."""
        lengths = [len(without_punctuation(sentence).split()) for sentence in sentences(text)]
        return all(other - one == self.small_n for one, other in pairwise(lengths))


@kind(
    "sentence:keyword",
    'Sentence {N} must contain the word "{word}".',
    'Use "{word}" in sentence number {N} of your answer.',
)
class Keyword(Constraint):
    """A whole word, in any case, in a sentence.

    Args:
        word: The word.
        N: The number of the sentence, from 1.
    """

    word: Text
    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        parts = sentences(text)
        return len(parts) >= self.N and has_word(self.word, parts[self.N - 1])


def _alliterating(sentence: str) -> int:
    """Words in runs of one first letter: two for the first pair of a run, one for each other."""
    stripped = [word.lstrip(string.punctuation + " ") for word in sentence.lower().split()]
    first = [word[0] for word in stripped if word]
    same = [one == other for one, other in pairwise(first)]
    return sum(2 - before for before, now in zip([False, *same], same, strict=False) if now)
