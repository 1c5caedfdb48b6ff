"""The group `count`: how many words, names, numbers, pronouns, marks a text has."""

from __future__ import annotations

import re
from typing import Final

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Text, kind
from stages._constraints.units import bare, different_words, tokens, without_punctuation, words

_CONJUNCTIONS: Final = {"and", "but", "for", "nor", "or", "so", "yet"}
_NAME_LIST: Final = (
    "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander "
    "Amelia Benjamin Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel "
    "Ella Jacob Scarlett Nathan Victoria Elijah Layla Nicholas Audrey David Hannah Christopher "
    "Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan"
)
_NAMES: Final = tuple(_NAME_LIST.split())
_PRONOUN_LIST: Final = (
    "i me we us you he him she her it they them my m"
    "ine our ours your yours his hers its their "
    "theirs myself ourselves yourself yourselves himself herself itself themselves this that these "
    "those who whom whose which what whoever whomever whatever whichever anybody anyone anything "
    "everybody everyone everything nobody nothing somebody someone something each either neither "
    "both all some any none"
)
_PRONOUNS: Final = frozenset(_PRONOUN_LIST.split())
_JAPANESE: Final = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_TIMES: Final = (1, 2, 3, 5, 7)


@kind(
    "count:word_count_range",
    "Answer with between {min_words} and {max_words} words.",
    "Your answer must have no fewer than {min_words} words and no more than {max_words}.",
)
class WordCountRange(Constraint):
    """The words are within a range, with its ends.

    Args:
        min_words: The fewest.
        max_words: The most.
    """

    min_words: Count
    max_words: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return self.min_words <= len(words(text)) <= self.max_words


@kind(
    "count:unique_word_count",
    "Use at least {N} different words.",
    "Your answer must have {N} or more different words.",
)
class UniqueWordCount(Constraint):
    """At least so many different words, without the punctuation around them and in any case.

    Args:
        N: How many.
    """

    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return len(different_words(text)) >= self.N


@kind(
    "count:conjunctions",
    "Use at least {small_n} different coordinating conjunctions.",
    "At least {small_n} of and, but, for, nor, or, so, yet must occur in your answer.",
)
class Conjunctions(Constraint):
    """At least so many of seven conjunctions; as in the code, each spelling counts as one.

    Args:
        small_n: How many.
    """

    small_n: Count

    def check(self, text: str) -> bool:
        """See the class."""
        used = {word for word in {*text.split()} if bare(word).lower() in _CONJUNCTIONS}
        return len(used) >= self.small_n


@kind(
    "count:person_names",
    "Name at least {N} different people, out of these: " + ", ".join(_NAMES) + ".",
    "At least {N} of the following names must occur: " + ", ".join(_NAMES) + ".",
)
class PersonNames(Constraint):
    """At least so many of fifty first names.

    Args:
        N: How many.
    """

    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return sum(bool(re.search(rf"\b{name}\b", text)) for name in _NAMES) >= self.N


@kind(
    "count:numbers",
    "Use exactly {N} numbers, written in digits.",
    "Your answer must have {N} numbers, no more and no fewer.",
)
class Numbers(Constraint):
    """Exactly so many runs of digits, when all punctuation is taken out.

    Args:
        N: How many.
    """

    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return len(re.findall(r"\d+", without_punctuation(text))) == self.N


@kind(
    "count:pronouns",
    "Use at least {N} pronouns.",
    "Your answer must have {N} pronouns or more.",
)
class Pronouns(Constraint):
    """At least so many tokens that are pronouns; those around a slash are counted each.

    Args:
        N: How many.
    """

    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return sum(t in _PRONOUNS for t in tokens(text.replace("/", " ").lower())) >= self.N


@kind(
    "count:punctuation",
    "Use each of the marks . , ! ? ; : at least once, and also the interrobang ?!",
    "Every usual punctuation mark must occur: full stop, comma, exclamation and question mark, "
    "semicolon, colon, and the interrobang (?!) besides.",
)
class Punctuation(Constraint):
    """Six marks, and an interrobang beside them."""

    def check(self, text: str) -> bool:
        """See the class."""
        if not any(mark in text for mark in ("!?", "?!", "\u203d")):
            return False
        rest = text.replace("?!", "", 1)
        rest = text.replace("!?", "", 1) if rest == text else rest
        return {*".,!?;:"} <= {*rest}


@kind(
    "count:words_japanese",
    "Every {N}th word of your answer must be Japanese.",
    "Count your words: each number {N} must be a word in Japanese.",
)
class WordsJapanese(Constraint):
    """Each word whose number divides is Japanese, or a number, or punctuation.

    Args:
        N: The divisor.
    """

    N: Count

    def check(self, text: str) -> bool:
        """See the class."""
        chosen = [bare(word) for word in text.split()[self.N - 1 :: self.N]]
        return all(_JAPANESE.search(word) for word in chosen if word and not word.isdigit())


@kind(
    "count:keywords_multiple",
    'Use the word "{keyword1}" once, "{keyword2}" twice, "{keyword3}" three times, "{keyword4}" '
    'five times and "{keyword5}" seven times.',
    'These words must occur exactly so often: once "{keyword1}", twice "{keyword2}", three times '
    '"{keyword3}", five times "{keyword4}", seven times "{keyword5}".',
)
class KeywordsMultiple(Constraint):
    """Five whole words, in any case, occur exactly 1, 2, 3, 5 and 7 times.

    Args:
        keyword1: Once.
        keyword2: Twice.
        keyword3: Three times.
        keyword4: Five times.
        keyword5: Seven times.
    """

    keyword1: Text
    keyword2: Text
    keyword3: Text
    keyword4: Text
    keyword5: Text

    def check(self, text: str) -> bool:
        """See the class."""
        return all(
            len(re.findall(rf"\b{re.escape(word.strip())}\b", text, re.IGNORECASE)) == times
            for word, times in zip(self.arguments.values(), _TIMES, strict=True)
        )
