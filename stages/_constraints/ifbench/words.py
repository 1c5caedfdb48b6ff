"""The group `words`: what each word of a text must be, or a word at a place."""

from __future__ import annotations

import re
import string
from collections import Counter
from itertools import pairwise
from typing import Final

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Text, kind
from stages._constraints.units import bare, sentences, tokens, without_punctuation

_LETTERS: Final = string.ascii_lowercase
_CLUSTER: Final = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_PRIMES: Final = {n for n in range(2, 100) if all(n % k for k in range(2, n))}


@kind(
    "words:alphabet",
    "Each word must begin with the letter after that of the word before it; A comes after Z.",
    "Let the first letters of your words run through the alphabet, again and again.",
)
class Alphabet(Constraint):
    """First letters follow each other in the alphabet."""

    def check(self, text: str) -> bool:
        """See the class."""
        first = [word[0] for word in without_punctuation(text).lower().split()]
        if not first or first[0] not in _LETTERS:
            return False
        start = _LETTERS.index(first[0])
        return all(letter == _LETTERS[(start + n) % 26] for n, letter in enumerate(first))


@kind(
    "words:vowel",
    "Write one paragraph in which no more than three different vowels occur.",
    "Your answer must be a single paragraph and do with three of the vowels a, e, i, o, u.",
)
class Vowel(Constraint):
    """One line, with at most three of five vowels."""

    def check(self, text: str) -> bool:
        """See the class."""
        line = text.strip().lower()
        return "\n" not in line and len({*"aeiou"} & {*line}) <= 3


@kind(
    "words:consonants",
    "Every word must have at least two consonants next to each other.",
    "Use only words with a cluster of consonants.",
)
class Consonants(Constraint):
    """Two consonants next to each other in every word."""

    def check(self, text: str) -> bool:
        """See the class."""
        return all(_CLUSTER.search(word) for word in text.lower().split())


@kind(
    "words:palindrome",
    "Use at least ten words that are palindromes of five or more letters.",
    "Ten words, each of five letters or more, must read the same backwards.",
)
class Palindrome(Constraint):
    """At least ten palindromes of at least five characters."""

    def check(self, text: str) -> bool:
        """See the class."""
        every = without_punctuation(text).lower().split()
        return sum(len(word) >= 5 and word == word[::-1] for word in every) >= 10


@kind(
    "words:prime_lengths",
    "The number of letters of each word must be a prime.",
    "Use only words whose length is a prime number.",
)
class PrimeLengths(Constraint):
    """Lengths of words, without punctuation, are primes."""

    def check(self, text: str) -> bool:
        """See the class."""
        return all(len(word) in _PRIMES for word in without_punctuation(text).split())


@kind(
    "words:repeats",
    "No word may occur more than {small_n} times.",
    "Use each word {small_n} times at most.",
)
class Repeats(Constraint):
    """No word, in any case, occurs more often.

    Args:
        small_n: The most.
    """

    small_n: Count

    def check(self, text: str) -> bool:
        """See the class."""
        counts = Counter(without_punctuation(text.lower()).split())
        return max(counts.values(), default=0) <= self.small_n


@kind(
    "words:no_consecutive",
    "No two words in a row may begin with the same letter.",
    "Neighbouring words must have different first letters.",
)
class NoConsecutive(Constraint):
    """Neighbouring words begin with different letters, in any case."""

    def check(self, text: str) -> bool:
        """See the class."""
        every = without_punctuation(text.lower()).split()
        return all(one[0] != other[0] for one, other in pairwise(every))


@kind(
    "words:last_first",
    "Each sentence must begin with the last word of the one before it.",
    "Let the last word of every sentence be the first word of the next.",
)
class LastFirst(Constraint):
    """The last word of each sentence, in any case, is the first of the next."""

    def check(self, text: str) -> bool:
        """See the class."""
        marks = string.punctuation + " "
        for one, other in pairwise(sentences(text)):
            last, first = one.rstrip(marks).split(), other.lstrip(marks).split()
            if not last or not first or last[-1].lower() != first[0].lower():
                return False
        return True


@kind(
    "words:paragraph_last_first",
    "Each paragraph, a line of its own, must end with the word that it begins with.",
    "Write paragraphs, one a line, whose first and last word are the same.",
)
class ParagraphLastFirst(Constraint):
    """The first word of each line, in any case, is its last too."""

    def check(self, text: str) -> bool:
        """See the class."""
        lines = [bare(line.strip().lower()).split() for line in text.split("\n")]
        return all(line[0] == line[-1] for line in lines if line)


@kind(
    "words:keywords_specific_position",
    'Word {m} of sentence {n} must be "{keyword}".',
    'Write "{keyword}" as word number {m} of sentence number {n}.',
)
class KeywordsSpecificPosition(Constraint):
    """A word at a place in a sentence.

    Args:
        keyword: The word, in any case.
        n: The number of the sentence, from 1.
        m: The number of the word in it, from 1; punctuation is not counted.
    """

    keyword: Text
    n: Count
    m: Count

    def check(self, text: str) -> bool:
        """See the class."""
        parts = sentences(text)
        every = _words(parts[self.n - 1]) if len(parts) >= self.n else []
        return len(every) >= self.m and every[self.m - 1] == self.keyword.strip().lower()


@kind(
    "words:words_position",
    'The second word of your answer and the last but one must both be "{keyword}".',
    'Let "{keyword}" be the second word, and also the one before the last.',
)
class WordsPosition(Constraint):
    """The second word and the last but one.

    Args:
        keyword: The word, in any case.
    """

    keyword: Text

    def check(self, text: str) -> bool:
        """See the class."""
        every = _words(text)
        return len(every) > 1 and every[1] == every[-2] == self.keyword.strip().lower()


def _words(text: str) -> list[str]:
    """Tokens with a letter or digit, in small letters."""
    return [t.lower() for t in tokens(text) if any(character.isalnum() for character in t)]
