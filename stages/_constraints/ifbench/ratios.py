"""The group `ratio`: how often something occurs beside something else."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from stages._constraints.constraint import Constraint, Text, kind
from stages._constraints.units import sentences, tokens, without_punctuation, words

Percentage = Annotated[int, Field(ge=0, le=100)]

_STOP_WORD_LIST: Final = (
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself "
    "she her hers herself it its itself they them their theirs themselves what which who whom this "
    "that these those am is are was were be been being have has had having do does did doing a an "
    "the and but if or because as until while of at by for with about against between into through "
    "during before after above below to from up down in out on off over under again further then "
    "once here there when where why how all any both each few more most other some such no nor not "
    "only own same so than too very s t can will just don should now d ll m o re ve y ain aren "
    "couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won "
    "wouldn"
)
STOP_WORDS: Final = frozenset(_STOP_WORD_LIST.split())
"""NLTK's English stop words, as far as runs of letters can be any of them."""


@kind(
    "ratio:stop_words",
    "At most {percentage}% of your words may be stop words.",
    "Stop words such as the, of, and may make up no more than {percentage}% of your answer.",
)
class StopWords(Constraint):
    """The share of stop words among all words is at most so large.

    Args:
        percentage: The bound, in percent.
    """

    percentage: Percentage

    def check(self, text: str) -> bool:
        """See the class."""
        every = words(text.lower())
        return (
            bool(every)
            and 100 * sum(w in STOP_WORDS for w in every) / len(every) <= self.percentage
        )


@kind(
    "ratio:sentence_type",
    "Write twice as many statements as questions.",
    "For each question in your answer there must be exactly two statements.",
)
class SentenceType(Constraint):
    """Twice as many sentences end with a full stop as with a question mark."""

    def check(self, text: str) -> bool:
        """See the class."""
        return _ending(text, ".") == 2 * _ending(text, "?")


@kind(
    "ratio:sentence_balance",
    "Write as many statements as questions, and as many exclamations.",
    "Statements, questions and exclamations must occur equally often.",
)
class SentenceBalance(Constraint):
    """As many sentences end with a full stop as with a question mark and an exclamation mark."""

    def check(self, text: str) -> bool:
        """See the class."""
        return _ending(text, ".") == _ending(text, "?") == _ending(text, "!")


@kind(
    "ratio:sentence_words",
    "Write three sentences of equally many characters, in which no word occurs twice.",
    "Answer in three sentences of the same length in characters, all words of which differ.",
)
class SentenceWords(Constraint):
    """Three sentences of one length in characters; no word, in any case, occurs twice."""

    def check(self, text: str) -> bool:
        """See the class."""
        parts = sentences(text)
        if len(parts) != 3 or len({len(part.strip()) for part in parts}) > 1:
            return False
        every = without_punctuation(" ".join(parts).lower()).split()
        return len(every) == len({*every})


@kind(
    "ratio:overlap",
    "About {percentage}% (by two more or less) of your runs of three words must occur in this text "
    "too: {reference_text}",
    "Share {percentage}% of your trigrams, give or take 2%, with the following: {reference_text}",
)
class Overlap(Constraint):
    """The share of the text's trigrams of tokens that a reference has too, within 2%.

    Args:
        reference_text: The reference.
        percentage: The share, in percent.
    """

    reference_text: Text
    percentage: Percentage

    def check(self, text: str) -> bool:
        """See the class."""
        own = _trigrams(text)
        if not own:
            return False
        share = 100 * len(own & _trigrams(self.reference_text)) / len(own)
        return self.percentage - 2 <= share <= self.percentage + 2


def _ending(text: str, mark: str) -> int:
    return sum(sentence.endswith(mark) for sentence in sentences(text))


def _trigrams(text: str) -> set[tuple[str, ...]]:
    every = tokens(text)
    return {*zip(every, every[1:], every[2:], strict=False)}
