"""The group `custom`, of one question each: what the answer to it must look like."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import Final

from stages._constraints.constraint import Constraint, kind
from stages._constraints.units import bare, sentences, without_punctuation

_CAPITAL_LIST: Final = (
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin "
    "Amsterdam Warsaw London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz "
    "Chisinau Bern Ljubljana Zagreb"
)
_CAPITALS: Final = _CAPITAL_LIST.split()
_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_COUNTRIES: Final = 52
_OPTION: Final = re.compile(r"[A-Ea-e][.|)]\s*\w+")


@kind(
    "custom:multiples",
    "Count from 10 to 50, but write down the multiples of 7 alone.",
)
class Multiples(Constraint):
    """The numbers are those from 14 to 49 by sevens."""

    def check(self, text: str) -> bool:
        """See the class."""
        return [int(n) for n in re.findall(r"\d+", text)] == [*range(14, 51, 7)]


@kind(
    "custom:mcq_count_length",
    "Write four multiple-choice questions about art in the 20th century, each longer "
    'than the one before, with five options. Begin each with "Question" and its number, and '
    "explain nothing.",
)
class McqCountLength(Constraint):
    """Four numbered questions of growing length, with five options each."""

    def check(self, text: str) -> bool:
        """See the class."""
        if not text.startswith("Question"):
            return False
        split = re.split(r"\n*Question \d+[.|):;]?\s*", text)
        parsed = [_question(part) for part in split if part.strip()]
        lengths = [length for length, _ in parsed]
        return (
            [options for _, options in parsed] == [5] * 4
            and all(one < other for one, other in pairwise(lengths))
        )  # fmt: skip


@kind(
    "custom:reverse_newline",
    "List the countries of Africa from Z to A, one a line.",
)
class ReverseNewline(Constraint):
    """At least 52 lines from the one with Zimbabwe on, in descending order."""

    def check(self, text: str) -> bool:
        """See the class."""
        lines = [plain for line in text.split("\n") if (plain := bare(line))]
        start = next((n for n, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
        names = [_ascii(line) for line in lines[start:]]
        return len(names) >= _COUNTRIES and names == sorted(names, reverse=True)


@kind(
    "custom:word_reverse",
    "Which animal is the national symbol of the US? Answer in one sentence, with its words in "
    "reverse order.",
)
class WordReverse(Constraint):
    """The bald eagle, when the words are turned round, in one sentence."""

    def check(self, text: str) -> bool:
        """See the class."""
        turned = " ".join(reversed(without_punctuation(text.lower()).split()))
        return "bald eagle" in turned and turned in sentences(turned)


@kind(
    "custom:character_reverse",
    "Which animal is the national symbol of the US? Answer in one sentence, with its letters in "
    "reverse order.",
)
class CharacterReverse(Constraint):
    """The bald eagle, backwards."""

    def check(self, text: str) -> bool:
        """See the class."""
        return "elgae dlab" in text.lower()


@kind(
    "custom:sentence_alphabet",
    "Tell a story in 26 sentences. The first begins with A, the next with B, and so on to Z.",
)
class SentenceAlphabet(Constraint):
    """26 sentences, whose first letters are the alphabet."""

    def check(self, text: str) -> bool:
        """See the class."""
        first = [re.sub(r"^[\s\W_]+", "", part)[:1].lower() for part in sentences(text)]
        return first == [*"abcdefghijklmnopqrstuvwxyz"]


@kind(
    "custom:european_capitals_sort",
    "Which capitals of European countries lie north of 45 degrees? Name them alone, from north to "
    "south, divided by commas.",
)
class EuropeanCapitalsSort(Constraint):
    """27 capitals in their order."""

    def check(self, text: str) -> bool:
        """See the class."""
        return [name.strip() for name in _ascii(text).split(",") if name.strip()] == _CAPITALS


@kind(
    "custom:date_format_list",
    "On which dates did Napoleon's battles begin? List them as YYYY-MM-DD, divided by commas, and "
    "explain nothing.",
)
class DateFormatList(Constraint):
    """Dates of Napoleon's lifetime, divided by commas."""

    def check(self, text: str) -> bool:
        """See the class."""
        return all(_is_date(date.strip()) for date in text.strip().split(","))


def _question(text: str) -> tuple[int, int]:
    """The length of a question, and how many options it has."""
    lines = [line.strip() for line in text.strip().split("\n")]
    options = [bool(_OPTION.match(line)) for line in lines]
    asked = lines[: options.index(True)] if any(options) else lines
    return len(" ".join(asked).strip()), sum(options)


def _is_date(text: str) -> bool:
    written = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text)
    if not written:
        return False
    year, month, day = map(int, written.groups())
    if not (1769 <= year <= 1821 and 1 <= month <= 12):
        return False
    return 1 <= day <= _DAYS[month - 1]


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
