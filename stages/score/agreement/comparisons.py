"""When two answers agree: as values, by ROUGE-L, by their vectors, or by their likelihood.

A comparison reads what it compares out of an answer first. What it cannot read is no vote: prose
has no final answer, a text in another script has no word that ROUGE knows, an embedder may know
no word of it either, and what the gold answer's kind cannot be read from ("it depends" for a
number) is neither right nor wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.models.base import Encoder
from pipeline.types import Count, Fraction, NonNegativeFloat, option_group
from stages._text.answers import equal, number
from stages._text.final_answer import holds_answer, normalized_answer
from stages._text.rouge import rouge_l, tokenize
from stages.score._final_answers import Pattern, read_answer

_SENTENCE_END: Final = re.compile(r"[.!?](?=\s|$)|[。！？]|\n")
_BATCH: Final = 4096


@option_group
class Exact:
    """Final answers as values: numbers, fractions, LaTeX, choices, yes or no, else short texts.

    Args:
        name: "exact".
        first_sentence: Whether only the first sentence or line of a sample is read, as R-Tuning
            does with answers of 15 tokens; of one that was cut within it all but the last word.
        contained: Whether a sample also agrees where it holds the reference as whole words. Then
            any text can be read, but for a reference that is a choice, or yes or no.
        pattern: A regular expression whose one group is the final answer; its last match counts.
            Without a match, and by default, it is in the last `\\boxed{}`, behind the last
            `####`, behind "the answer is", or the whole text where that is short.
        last_number: Whether the last number of a text is its answer, where nothing else is.
        max_words: How many words are a short answer.
        tolerance: The relative difference up to which numbers are equal.
    """

    name: Literal["exact"] = "exact"
    first_sentence: bool = False
    contained: bool = False
    pattern: Pattern | None = None
    last_number: bool = False
    max_words: Count = 6
    tolerance: NonNegativeFloat = 0.0


@option_group
class Rouge:
    """The words in common: the F1 of ROUGE-L over stemmed words, as in Ensemble-Instruct.

    Args:
        name: "rouge".
        threshold: The score from which two answers count as the same in a vote.
    """

    name: Literal["rouge"] = "rouge"
    threshold: Fraction = 0.7


@option_group
class Embedding:
    """The cosine of the vectors of the stage's `embedder`, as in NILE.

    Args:
        name: "embedding".
        threshold: The cosine from which two answers count as the same in a vote.
    """

    name: Literal["embedding"] = "embedding"
    threshold: Fraction = 0.8


@option_group
class Likelihood:
    """The probability of one answer: the mean over its tokens, as in Active instruction tuning.

    Nothing is sampled but that answer, and nothing is compared as text.

    Args:
        name: "likelihood".
        max_length: Tokens. Longer conversations stay without a probability.
    """

    name: Literal["likelihood"] = "likelihood"
    max_length: Annotated[int, Field(ge=2)] = 2048


Compare = Annotated[Exact | Rouge | Embedding | Likelihood, Field(discriminator="name")]


class Vote(NamedTuple):
    """One sample of a model.

    Attributes:
        text: What it says.
        is_cut: Whether it ended at its limit in tokens.
    """

    text: str
    is_cut: bool = False


Read = Callable[[Vote], str | None]
Agreement = Callable[[str, str], float | None]


@dataclass(frozen=True)
class Comparison:
    """How answers are read and compared.

    Attributes:
        read: What is compared of an answer; None where it cannot be read.
        read_reference: The same of what answers are compared with.
        agreement: How much an answer agrees with a reference, 1 for wholly; None where it
            cannot be read as one of the reference's kind.
        likeness: The same of two answers, of which neither is a reference.
        threshold: The agreement from which two answers are the same.
        is_symmetric: Whether the order of the two makes no difference.
    """

    read: Read
    read_reference: Callable[[str], str | None]
    agreement: Agreement
    likeness: Agreement
    threshold: float
    is_symmetric: bool = True

    def same(self, answers: Sequence[str]) -> NDArray[np.float64]:
        """How much each of several answers agrees with each, in either order.

        Args:
            answers: What was read.

        Returns:
            Numbers of shape (answers, answers), 1 on the diagonal.
        """
        matrix = np.eye(len(answers))
        for i, answer in enumerate(answers):
            for j in range(i):
                one = self.likeness(answer, answers[j])
                two = one if self.is_symmetric else self.likeness(answers[j], answer)
                matrix[i, j] = matrix[j, i] = max(one or 0.0, two or 0.0)
        return matrix


def comparison(
    compare: Exact | Rouge | Embedding, texts: Iterable[str], encoder: Encoder | None
) -> Comparison:
    """What the options of a comparison mean.

    Args:
        compare: The options.
        texts: All texts that will be compared, for the embedder.
        encoder: Makes vectors of texts, for `embedding`.

    Example:
        >>> exact = comparison(Exact(), (), None)
        >>> exact.read(Vote("So the answer is 1,000.")), exact.agreement("1000", "1,000")
        ('1,000', 1.0)
        >>> exact.agreement("who knows", "12") is None
        True
    """
    match compare:
        case Exact():
            return _exactly(compare)
        case Rouge():
            return _by_rouge(compare)
    if encoder is None:
        raise AssertionError("the options were checked: an embedder is there")
    return _by_vectors(compare, _vectors(texts, encoder))


def _exactly(options: Exact) -> Comparison:
    def likeness(answer: str, other: str) -> float | None:
        if _is_text(answer) and _is_text(other) and _normalized(answer) != _normalized(other):
            return 0.0  # most pairs of sentences, at once
        is_equal = equal(answer, other, options.tolerance)
        return None if is_equal is None else float(is_equal)

    def agreement(answer: str, reference: str) -> float | None:
        degree = likeness(answer, reference)
        if degree == 1 or not options.contained or is_label(reference):
            return degree
        within = _normalized(reference) in _normalized(answer)  # else no word of it is
        return float(within and bool(holds_answer(answer, reference)))

    def read(vote: Vote) -> str | None:
        text = _first_sentence(vote) if options.first_sentence else vote
        # What was cut may be another number than the one that was meant.
        if text is None or text.is_cut:
            return None
        if options.contained:
            return text.text.strip() if _says_something(text.text) else None
        return _final(text.text, options)

    def read_reference(reference: str) -> str | None:
        # Its full stops are its own: "St. Petersburg".
        final = _final(reference, options)
        whole = reference.strip() if options.contained and _says_something(reference) else None
        return final or whole

    return Comparison(read, read_reference, agreement, likeness, 1.0, is_symmetric=False)


def _final(text: str, options: Exact) -> str | None:
    words, last_number = options.max_words, options.last_number
    final = read_answer(text, options.pattern, words, last_number=last_number)
    return final if final and _says_something(final) else None


def _says_something(text: str) -> bool:
    """Whether a text is more than signs, of which noise consists too."""
    return any(character.isalnum() for character in text)


_normalized = lru_cache(maxsize=4096)(normalized_answer)


@lru_cache(maxsize=4096)
def _is_text(answer: str) -> bool:
    """Whether an answer is compared as a text: neither a label nor a number."""
    return number(answer) is None and not is_label(answer)


@lru_cache(maxsize=4096)
def is_label(reference: str) -> bool:
    """Whether an answer is a choice, or yes or no: these letters and words stand anywhere.

    Args:
        reference: A short answer.

    Example:
        >>> [is_label(answer) for answer in ("(B)", "No", "42", "Paris")]
        [True, True, False, False]
    """
    # A plain word can be compared with texts alone, and with those it can be.
    return equal("word", reference) is None and number(reference) is None


def _first_sentence(vote: Vote) -> Vote | None:
    """The text up to the first full stop or the end of the line."""
    text = vote.text.strip()
    end = _SENTENCE_END.search(text)
    if end is not None:
        return Vote(text[: end.start()])
    if not vote.is_cut:
        return Vote(text)
    words = text.rsplit(maxsplit=1)
    return Vote(words[0]) if len(words) == 2 else None


def _symmetric(read: Read, agreement: Agreement, threshold: float) -> Comparison:
    """A comparison that treats a reference as any other answer."""
    return Comparison(read, lambda text: read(Vote(text)), agreement, agreement, threshold)


def _whole(vote: Vote) -> str | None:
    return None if vote.is_cut or not vote.text.strip() else vote.text.strip()


def _by_rouge(options: Rouge) -> Comparison:
    tokens = lru_cache(maxsize=4096)(lambda text: tuple(tokenize(text, stem=True)))

    def read(vote: Vote) -> str | None:
        text = _whole(vote)
        return text if text and tokens(text) else None

    def agreement(answer: str, reference: str) -> float | None:
        return rouge_l(tokens(answer), tokens(reference)) if tokens(reference) else None

    return _symmetric(read, agreement, options.threshold)


def _vectors(texts: Iterable[str], encoder: Encoder) -> dict[str, NDArray[np.float64]]:
    """The vector of length 1 of each text that has one."""
    distinct = sorted({text.strip() for text in texts} - {""})
    vectors = {}
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        for text, vector in zip(batch, encoder.encode(batch).astype(np.float64), strict=True):
            length = np.linalg.norm(vector)
            if np.isfinite(length) and length > 0:
                vectors[text] = vector / length
    return vectors


def _by_vectors(options: Embedding, vectors: Mapping[str, NDArray[np.float64]]) -> Comparison:
    def read(vote: Vote) -> str | None:
        text = _whole(vote)
        return text if text in vectors else None

    def agreement(answer: str, reference: str) -> float | None:
        if answer not in vectors or reference not in vectors:
            return None
        return float(vectors[answer] @ vectors[reference])

    return _symmetric(read, agreement, options.threshold)
