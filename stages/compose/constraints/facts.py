"""What an answer is like, as constraints that it follows: one function for each rule.

Counts are those of the final text: whatever edits it comes before.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Final, Literal

from stages._constraints.constraint import Constraint
from stages._constraints.ifbench.counts import (
    Conjunctions,
    Numbers,
    UniqueWordCount,
    WordCountRange,
)
from stages._constraints.ifbench.formats import NoWhitespace
from stages._constraints.ifbench.ratios import STOP_WORDS, StopWords
from stages._constraints.ifbench.sentences import Keyword
from stages._constraints.ifbench.words import NoConsecutive, Repeats
from stages._constraints.ifeval.detectable import (
    JsonFormat,
    NumberBulletLists,
    NumberHighlightedSections,
    NumberPlaceholders,
    Title,
    placeholders,
)
from stages._constraints.ifeval.keywords import (
    Existence,
    ForbiddenWords,
    Frequency,
    LetterFrequency,
)
from stages._constraints.ifeval.lengths import NumberSentences, NumberWords
from stages._constraints.ifeval.whole import CapitalWordFrequency, EndChecker, NoComma, Quotation
from stages._constraints.units import different_words, sentences, without_punctuation, words

Rule = Literal[
    "words_at_least", "words_less_than", "words_range", "sentences_at_least", "sentences_less_than",
    "keywords", "keyword_at_least", "keyword_less_than", "forbidden_words", "sentence_keyword",
    "letter_at_least", "letter_less_than", "no_comma", "end_phrase", "bullets", "highlights",
    "placeholders", "title", "quotation", "json", "capital_words", "unique_words", "numbers",
    "conjunctions", "stop_words", "repeats", "no_consecutive", "no_whitespace",
]  # fmt: skip

_NEAR: Final = 5
"""A bound differs from the count by at most one part in so many."""

_LETTERS: Final = "etaoinshrdlu"
_MIN_LETTERS: Final = 4
"""Letters of a keyword: shorter words are mostly grammar."""


class Facts:
    """An answer, and what is counted of it, once.

    Args:
        text: The answer.
        request: What it answers.
        rng: Draws what is asked for.
    """

    def __init__(self, text: str, request: str, rng: random.Random) -> None:
        self.text, self.request, self.rng = text, request, rng

    @cached_property
    def words(self) -> list[str]:
        """The words."""
        return words(self.text)

    @cached_property
    def lower(self) -> str:
        """The text in small letters."""
        return self.text.lower()

    @cached_property
    def keywords(self) -> list[str]:
        """Words that say something, in small letters, each once, in their order."""
        every = dict.fromkeys(map(str.lower, self.words))
        return [w for w in every if len(w) >= _MIN_LETTERS and w.isalpha() and w not in STOP_WORDS]

    def below(self, count: int) -> int:
        """A lower bound of a count: it, or somewhat less."""
        return max(1, count - self.rng.choice(range(count // _NEAR + 1)))

    def above(self, count: int) -> int:
        """A bound that a count is less than: one more, or somewhat more."""
        return count + 1 + self.rng.choice(range(count // _NEAR + 1))

    def keyword(self) -> str | None:
        """One of the keywords."""
        return self.rng.choice(self.keywords) if self.keywords else None

    def checked(self, one: Constraint) -> Constraint | None:
        """The constraint, if it holds: of those that a count alone does not decide."""
        return one if one.holds(self.text) else None

    def occurrences(self, word: str) -> int:
        """How often a word occurs, also within others."""
        return self.lower.count(word)


def _words_at_least(facts: Facts) -> Constraint | None:
    count = len(facts.words)
    return NumberWords(num_words=facts.below(count)) if count else None


def _words_less_than(facts: Facts) -> Constraint | None:
    return NumberWords(num_words=facts.above(len(facts.words)), relation="less than")


def _words_range(facts: Facts) -> Constraint | None:
    count = len(facts.words)
    if not count:
        return None
    return WordCountRange(min_words=facts.below(count), max_words=facts.above(count))


def _sentences_at_least(facts: Facts) -> Constraint | None:
    return NumberSentences(num_sentences=facts.below(len(sentences(facts.text))))


def _sentences_less_than(facts: Facts) -> Constraint | None:
    count = facts.above(len(sentences(facts.text)))
    return NumberSentences(num_sentences=count, relation="less than")


def _keywords(facts: Facts) -> Constraint | None:
    count = min(facts.rng.randint(1, 3), len(facts.keywords))
    chosen = facts.rng.sample(facts.keywords, count)
    return Existence(keywords=tuple(chosen)) if chosen else None


def _keyword_at_least(facts: Facts) -> Constraint | None:
    word = facts.keyword()
    return Frequency(keyword=word, frequency=facts.occurrences(word)) if word else None


def _keyword_less_than(facts: Facts) -> Constraint | None:
    word = facts.keyword()
    if not word:
        return None
    return Frequency(
        keyword=word, frequency=facts.above(facts.occurrences(word)), relation="less than"
    )


def _forbidden_words(facts: Facts) -> Constraint | None:
    """Words of the request that the answer does without."""
    asked = dict.fromkeys(map(str.lower, words(facts.request)))
    free = [w for w in asked if len(w) >= _MIN_LETTERS and w.isalpha() and w not in STOP_WORDS]
    unused = [word for word in free if word not in facts.lower]
    count = min(facts.rng.randint(1, 3), len(unused))
    chosen = facts.rng.sample(unused, count)
    return ForbiddenWords(forbidden_words=tuple(chosen)) if chosen else None


def _sentence_keyword(facts: Facts) -> Constraint | None:
    parts = sentences(facts.text)
    number = facts.rng.randint(1, len(parts))
    own = {*map(str.lower, words(parts[number - 1]))}
    chosen = [word for word in facts.keywords if word in own]
    return Keyword(word=facts.rng.choice(chosen), N=number) if chosen else None


def _letter_at_least(facts: Facts) -> Constraint | None:
    letter = facts.rng.choice(_LETTERS)
    count = facts.occurrences(letter)
    return LetterFrequency(letter=letter, let_frequency=facts.below(count)) if count else None


def _letter_less_than(facts: Facts) -> Constraint | None:
    letter = facts.rng.choice(_LETTERS)
    count = facts.above(facts.occurrences(letter))
    return LetterFrequency(letter=letter, let_frequency=count, let_relation="less than")


def _no_comma(facts: Facts) -> Constraint | None:
    return None if "," in facts.text else NoComma()


def _end_phrase(facts: Facts) -> Constraint | None:
    """Its last words, from a word on, within a line."""
    last = facts.text.rstrip().split("\n")[-1].split(" ")
    count = min(facts.rng.randint(2, 5), len(last))
    phrase = " ".join(last[-count:]).strip('" ')
    # Quotes and spaces that alternate at the end are no part of the phrase, but of the text.
    return facts.checked(EndChecker(end_phrase=phrase)) if len(phrase) > count else None


def _bullets(facts: Facts) -> Constraint | None:
    count = sum(line.lstrip()[:1] in ("*", "-") for line in facts.text.split("\n"))
    return facts.checked(NumberBulletLists(num_bullets=count)) if count else None


def _highlights(facts: Facts) -> Constraint | None:
    if "*" not in facts.text:
        return None
    count = len(re.findall(r"\*[^\S\n]*+[^\s*][^\n*]*+\*", facts.text))
    return facts.checked(NumberHighlightedSections(num_highlights=count)) if count else None


def _placeholders(facts: Facts) -> Constraint | None:
    count = placeholders(facts.text)
    return NumberPlaceholders(num_placeholders=facts.below(count)) if count else None


def _title(facts: Facts) -> Constraint | None:
    return facts.checked(Title())


def _quotation(facts: Facts) -> Constraint | None:
    return facts.checked(Quotation())


def _json(facts: Facts) -> Constraint | None:
    return facts.checked(JsonFormat()) if facts.text.lstrip()[:1] in ("{", "[", "`") else None


def _capital_words(facts: Facts) -> Constraint | None:
    """Fewer than the tokens that are counted in the end, which take long to find."""
    count = sum(word.isupper() for word in facts.text.split())
    return CapitalWordFrequency(capital_frequency=facts.below(count)) if count else None


def _unique_words(facts: Facts) -> Constraint | None:
    return UniqueWordCount(N=facts.below(len(different_words(facts.text))))


def _numbers(facts: Facts) -> Constraint | None:
    count = len(re.findall(r"\d+", without_punctuation(facts.text)))
    return Numbers(N=count) if count else None


def _conjunctions(facts: Facts) -> Constraint | None:
    used = {"and", "but", "for", "nor", "or", "so", "yet"} & {*facts.text.split()}
    return Conjunctions(small_n=len(used)) if used else None


def _stop_words(facts: Facts) -> Constraint | None:
    every = words(facts.lower)  # small letters may part a word: those of "İyi" are "i", a dot, "yi"
    if not every:
        return None
    share = 100 * sum(map(STOP_WORDS.__contains__, every)) / len(every)
    return StopWords(percentage=min(100, int(share) + 1 + facts.rng.randint(0, 4)))


def _repeats(facts: Facts) -> Constraint | None:
    counts = Counter(without_punctuation(facts.text.lower()).split())
    return Repeats(small_n=max(counts.values())) if counts else None


def _no_consecutive(facts: Facts) -> Constraint | None:
    return facts.checked(NoConsecutive())


def _no_whitespace(facts: Facts) -> Constraint | None:
    return None if re.search(r"\s", facts.text) else NoWhitespace()


RULES: Final[dict[Rule, Callable[[Facts], Constraint | None]]] = {
    "words_at_least": _words_at_least,
    "words_less_than": _words_less_than,
    "words_range": _words_range,
    "sentences_at_least": _sentences_at_least,
    "sentences_less_than": _sentences_less_than,
    "keywords": _keywords,
    "keyword_at_least": _keyword_at_least,
    "keyword_less_than": _keyword_less_than,
    "forbidden_words": _forbidden_words,
    "sentence_keyword": _sentence_keyword,
    "letter_at_least": _letter_at_least,
    "letter_less_than": _letter_less_than,
    "no_comma": _no_comma,
    "end_phrase": _end_phrase,
    "bullets": _bullets,
    "highlights": _highlights,
    "placeholders": _placeholders,
    "title": _title,
    "quotation": _quotation,
    "json": _json,
    "capital_words": _capital_words,
    "unique_words": _unique_words,
    "numbers": _numbers,
    "conjunctions": _conjunctions,
    "stop_words": _stop_words,
    "repeats": _repeats,
    "no_consecutive": _no_consecutive,
    "no_whitespace": _no_whitespace,
}
"""From the facts of an answer to a constraint; None where it has nothing of the kind."""
