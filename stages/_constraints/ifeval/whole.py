"""Kinds about the whole text: how it begins and ends, its case, its commas, its language."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Relation, Text, kind
from stages._constraints.units import compare, language_of, tokens
from stages._text.languages import identifier

_DIVIDER = "******"


def _known(language: str) -> str:
    if language.split("-")[0] not in identifier().nb_classes:
        raise ValueError(f"must be a language's ISO 639-1 code, got {language!r}")
    return language


@kind(
    "combination:two_responses",
    f"Give two different answers. Put only {_DIVIDER} between them.",
    f"Answer twice, in two different ways, divided by {_DIVIDER} and nothing else.",
)
class TwoResponses(Constraint):
    """Two different answers, divided by six asterisks."""

    def check(self, text: str) -> bool:
        """See the class."""
        parts = text.split(_DIVIDER)
        if not all(part.strip() for part in parts[1:-1]):
            return False
        answers = [part.strip() for part in parts if part.strip()]
        return len(answers) == 2 and answers[0] != answers[1]


@kind(
    "combination:repeat_prompt",
    "First repeat the request word for word, then answer it. Say nothing before you repeat it. "
    "This is the request: {prompt_to_repeat}",
    "Before your answer, write this request down again without any change: {prompt_to_repeat}",
)
class RepeatPrompt(Constraint):
    """The text begins with the request, in any case.

    Args:
        prompt_to_repeat: The request.
    """

    prompt_to_repeat: Text

    def check(self, text: str) -> bool:
        """See the class."""
        return text.strip().lower().startswith(self.prompt_to_repeat.strip().lower())


@kind(
    "startend:end_checker",
    'The last words of your answer must be "{end_phrase}", with nothing after them.',
    'End with exactly this phrase: "{end_phrase}"',
)
class EndChecker(Constraint):
    """The text ends with a phrase, in any case; double quotes around the text do not count.

    Args:
        end_phrase: The phrase.
    """

    end_phrase: Text

    def check(self, text: str) -> bool:
        """See the class."""
        return text.strip().strip('"').lower().endswith(self.end_phrase.strip().lower())


@kind(
    "startend:quotation",
    "Put your whole answer in double quotation marks.",
    "Your answer must begin and end with a double quotation mark.",
)
class Quotation(Constraint):
    """The text begins and ends with a double quote."""

    def check(self, text: str) -> bool:
        """See the class."""
        bare = text.strip()
        return len(bare) > 1 and bare[0] == bare[-1] == '"'


@kind(
    "change_case:capital_word_frequency",
    "Words in capital letters must occur {capital_relation} {capital_frequency} times.",
    "Write {capital_relation} {capital_frequency} words wholly in CAPITALS.",
)
class CapitalWordFrequency(Constraint):
    """How many tokens are wholly in capital letters.

    Args:
        capital_frequency: The bound.
        capital_relation: Where the count must be.
    """

    capital_frequency: Count
    capital_relation: Relation = "at least"

    def check(self, text: str) -> bool:
        """See the class."""
        # Each word in capitals is at least one such token, and finding tokens takes long.
        if sum(map(str.isupper, text.split())) >= self.capital_frequency:
            return self.capital_relation == "at least"
        count = sum(map(str.isupper, tokens(text)))
        return compare(count, self.capital_relation, self.capital_frequency)

    def negation(self) -> CapitalWordFrequency:
        """The other relation."""
        less = self.capital_relation == "less than"
        return replace(self, capital_relation="at least" if less else "less than")


@kind(
    "change_case:english_capital",
    "Answer in English and in capital letters only.",
    "Your whole answer must be English, WITHOUT ANY SMALL LETTER.",
)
class EnglishCapital(Constraint):
    """The text is English, without a small letter."""

    def check(self, text: str) -> bool:
        """See the class."""
        return text.isupper() and language_of(text.lower()) in ("en", None)


@kind(
    "change_case:english_lowercase",
    "Answer in English and in small letters only.",
    "Your whole answer must be English, without any capital letter.",
)
class EnglishLowercase(Constraint):
    """The text is English, without a capital letter."""

    def check(self, text: str) -> bool:
        """See the class."""
        return text.islower() and language_of(text) in ("en", None)


@kind(
    "punctuation:no_comma",
    "Do not use any comma.",
    "Your answer must do without commas.",
)
class NoComma(Constraint):
    """The text holds no comma."""

    def check(self, text: str) -> bool:
        """See the class."""
        return "," not in text


@kind(
    "language:response_language",
    "Answer in the language with the code {language} and in no other.",
    "Your whole answer must be written in the language {language} (ISO 639-1).",
)
class ResponseLanguage(Constraint):
    """The text is in a language; one without a letter is in all.

    Args:
        language: Its ISO 639-1 code.
    """

    language: Annotated[Text, AfterValidator(_known)]

    def check(self, text: str) -> bool:
        """See the class."""
        return language_of(text) in (self.language.split("-")[0], None)
