"""Kinds about how long a text is, and how its paragraphs begin."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Relation, Text, kind
from stages._constraints.units import compare, sentences, words

_OPPOSITE: Final[dict[Relation, Relation]] = {"at least": "less than", "less than": "at least"}


@kind(
    "length_constraints:number_words",
    "Answer with {relation} {num_words} words.",
    "Your answer should have {relation} {num_words} words.",
)
class NumberWords(Constraint):
    """How many words the text has: runs of letters, digits and underscores.

    Args:
        num_words: The bound.
        relation: Where the count must be.
    """

    num_words: Count
    relation: Relation = "at least"

    def check(self, text: str) -> bool:
        """See the class."""
        return compare(len(words(text)), self.relation, self.num_words)

    def negation(self) -> NumberWords:
        """The other relation."""
        return replace(self, relation=_OPPOSITE[self.relation])


@kind(
    "length_constraints:number_sentences",
    "Answer with {relation} {num_sentences} sentences.",
    "Your answer should have {relation} {num_sentences} sentences.",
)
class NumberSentences(Constraint):
    """How many sentences the text has.

    Args:
        num_sentences: The bound.
        relation: Where the count must be.
    """

    num_sentences: Count
    relation: Relation = "at least"

    def check(self, text: str) -> bool:
        """See the class."""
        return compare(len(sentences(text)), self.relation, self.num_sentences)

    def negation(self) -> NumberSentences:
        """The other relation."""
        return replace(self, relation=_OPPOSITE[self.relation])


@kind(
    "length_constraints:number_paragraphs",
    "Write {num_paragraphs} paragraphs, and put *** between each two of them.",
    "Your answer must consist of {num_paragraphs} paragraphs, divided by lines with ***.",
)
class NumberParagraphs(Constraint):
    """How many parts three asterisks divide the text into; only the first or last may be blank.

    Args:
        num_paragraphs: How many there must be.
    """

    num_paragraphs: Count

    def check(self, text: str) -> bool:
        """See the class."""
        parts = re.split(r"\s?\*\*\*\s?", text)
        blank = [number for number, part in enumerate(parts) if not part.strip()]
        if any(0 < number < len(parts) - 1 for number in blank):
            return False
        return len(parts) - len(blank) == self.num_paragraphs


@kind(
    "length_constraints:nth_paragraph_first_word",
    "Write {num_paragraphs} paragraphs with a blank line between each two of them. Paragraph "
    '{nth_paragraph} must begin with the word "{first_word}".',
    "Divide your answer into {num_paragraphs} paragraphs by blank lines, and let "
    '"{first_word}" be the first word of paragraph {nth_paragraph}.',
)
class NthParagraphFirstWord(Constraint):
    """How many paragraphs blank lines divide the text into, and the first word of one of them.

    As in the authors' code: blank paragraphs are not counted, but the number of the paragraph
    is one among all.

    Args:
        num_paragraphs: How many there must be.
        nth_paragraph: The number of the paragraph, from 1.
        first_word: Its first word, in any case.
    """

    num_paragraphs: Count
    nth_paragraph: Count
    first_word: Text

    def check(self, text: str) -> bool:
        """See the class."""
        paragraphs = text.split("\n\n")
        count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
        if self.nth_paragraph > count or count != self.num_paragraphs:
            return False
        paragraph = paragraphs[self.nth_paragraph - 1].split()
        if not paragraph:
            return False
        bare = paragraph[0].lstrip("'").lstrip('"')
        return re.split(r"[.,?!'\"]", bare)[0].lower() == self.first_word.lower()
