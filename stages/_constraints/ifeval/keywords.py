"""Kinds about words and letters that a text holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Relation, Text, Texts, kind
from stages._constraints.units import compare, has_word


def _opposite(relation: Relation) -> Relation:
    return "at least" if relation == "less than" else "less than"


@kind(
    "keywords:existence",
    "Use each of these words: {keywords}.",
    "Your answer must contain the following: {keywords}.",
)
class Existence(Constraint):
    """Every keyword occurs, in any case, also within a word.

    Args:
        keywords: The keywords.
    """

    keywords: Texts

    def check(self, text: str) -> bool:
        """See the class."""
        return all(_count(keyword, text) for keyword in self.keywords)


@kind(
    "keywords:frequency",
    'The word "{keyword}" must occur {relation} {frequency} times.',
    'Write "{keyword}" {relation} {frequency} times in your answer.',
)
class Frequency(Constraint):
    """How often a keyword occurs, in any case, also within a word.

    Args:
        keyword: The keyword.
        frequency: The bound.
        relation: Where the count must be.
    """

    keyword: Text
    frequency: Count
    relation: Relation = "at least"

    def check(self, text: str) -> bool:
        """See the class."""
        return compare(_count(self.keyword, text), self.relation, self.frequency)

    def negation(self) -> Frequency:
        """The other relation."""
        return Frequency(
            keyword=self.keyword, frequency=self.frequency, relation=_opposite(self.relation)
        )


@kind(
    "keywords:forbidden_words",
    "Do without these words: {forbidden_words}.",
    "None of the following may occur in your answer: {forbidden_words}.",
)
class ForbiddenWords(Constraint):
    """None of the words occurs as a whole word, in any case.

    Args:
        forbidden_words: The words.
    """

    forbidden_words: Texts

    def check(self, text: str) -> bool:
        """See the class."""
        return not any(has_word(word, text) for word in self.forbidden_words)


@kind(
    "keywords:letter_frequency",
    'The letter "{letter}" must occur {let_relation} {let_frequency} times, in either case.',
    'Write your answer with {let_relation} {let_frequency} letters "{letter}", large or small.',
)
class LetterFrequency(Constraint):
    """How often a letter occurs, in any case.

    Args:
        letter: The letter, or any other character.
        let_frequency: The bound.
        let_relation: Where the count must be.
    """

    letter: Annotated[str, Field(min_length=1, max_length=1, pattern=r"\S")]
    let_frequency: Count
    let_relation: Relation = "at least"

    def check(self, text: str) -> bool:
        """See the class."""
        count = text.lower().count(self.letter.lower())
        return compare(count, self.let_relation, self.let_frequency)

    def negation(self) -> LetterFrequency:
        """The other relation."""
        return LetterFrequency(
            letter=self.letter,
            let_frequency=self.let_frequency,
            let_relation=_opposite(self.let_relation),
        )


def _count(keyword: str, text: str) -> int:
    return text.lower().count(keyword.lower())
