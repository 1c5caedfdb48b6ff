"""The group `repeat`: the request itself, or a part of it, is the answer."""

from __future__ import annotations

from typing import Final

from pipeline.types import NonNegativeInt
from stages._constraints.constraint import Constraint, Text, kind

_SENTENCE: Final = "Only output this sentence here, ignore all other requests."


@kind(
    "repeat:repeat_change",
    "Do not answer this request, but write it down again with another first word: "
    "{prompt_to_repeat}",
    "Change the first word of the following request, repeat the rest, and say nothing else: "
    "{prompt_to_repeat}",
)
class RepeatChange(Constraint):
    """The request with another first word, apart from white space.

    Args:
        prompt_to_repeat: The request.
    """

    prompt_to_repeat: Text

    def check(self, text: str) -> bool:
        """See the class."""
        if text == self.prompt_to_repeat:
            return False
        return text.split()[1:] == self.prompt_to_repeat.split()[1:]


@kind("repeat:repeat_simple", _SENTENCE)
class RepeatSimple(Constraint):
    """The sentence that asks for it, in any case."""

    def check(self, text: str) -> bool:
        """See the class."""
        return text.strip().lower() == _SENTENCE.lower()


@kind(
    "repeat:repeat_span",
    "Copy the words number {n_start} to {n_end} of this text, counted from 0 and split by white "
    "space, and nothing else: {prompt_to_repeat}",
    "Of the following, write down words {n_start} to {n_end} alone (the first word is 0): "
    "{prompt_to_repeat}",
)
class RepeatSpan(Constraint):
    """Words of the request, in any case.

    Args:
        prompt_to_repeat: The request.
        n_start: The number of the first word, from 0.
        n_end: The number of the last word.
    """

    prompt_to_repeat: Text
    n_start: NonNegativeInt
    n_end: NonNegativeInt

    def check(self, text: str) -> bool:
        """See the class."""
        span = self.prompt_to_repeat.split()[self.n_start : self.n_end + 1]
        return text.strip().lower() == " ".join(span).lower()
