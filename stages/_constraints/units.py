"""The units that constraints count: words, sentences, paragraphs; and the language of a text.

Sentences and tokens are NLTK's, as in the authors' code, with Punkt untrained: it needs no file,
and none of the 208 published labels of IFEval that count sentences differs.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import regex

from stages._constraints.constraint import Relation
from stages._text.languages import identifier

_WORD: Final = re.compile(r"\w+")
_MARKS: Final = string.punctuation + " "
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_INNER_END: Final = re.compile(r"[.?!](?:[^\w\s]|\s+\S)")
"""Where Punkt looks at all whether a sentence ends, or more often."""
_PLAIN_END: Final = re.compile(r"[^\W\d_]{2,}[.?!]\s+\S+")
"""A word of letters, its end, and what follows: untrained, Punkt always ends a sentence there."""
_LATIN: Final = regex.compile(r"\p{Latin}")
_OTHER_SCRIPTS: Final = regex.compile(r"[^\P{L}\p{Latin}]")


def compare(count: float, relation: Relation, bound: float) -> bool:
    """Whether a count is in the relation to its bound.

    Args:
        count: The count.
        relation: `at least` or `less than`.
        bound: Its bound.
    """
    return count < bound if relation == "less than" else count >= bound


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores.

    Args:
        text: A text.

    >>> words("It's 2 o'clock.")
    ['It', 's', '2', 'o', 'clock']
    """
    return _WORD.findall(text)


def without_punctuation(text: str) -> str:
    """The text without ASCII punctuation.

    Args:
        text: A text.
    """
    return text.translate(_NO_PUNCTUATION)


def bare(word: str) -> str:
    """The text without ASCII punctuation and blanks at its ends.

    Args:
        word: A word, or any text.
    """
    return word.strip(_MARKS)


def different_words(text: str) -> set[str]:
    """The words between white space, in small letters, without ASCII punctuation at their ends.

    Args:
        text: A text.

    >>> different_words("No, no, yes!") == {"no", "yes"}
    True
    """
    return {word.strip(_MARKS) for word in {*text.lower().split()}}


def has_word(word: str, text: str) -> bool:
    """Whether a whole word occurs, in any case.

    Args:
        word: The word, or several.
        text: A text.

    >>> has_word("care", "I don't CARE."), has_word("car", "I don't care.")
    (True, False)
    """
    # A pattern takes longer to compile than to search with.
    if word.lower() not in text.lower():
        return False
    if word.isalnum() and word.isascii() and text.isascii():
        return word.lower() in words(text.lower())
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


@lru_cache(maxsize=64)
def sentences(text: str) -> Sequence[str]:
    """The sentences of a text.

    Args:
        text: A text.

    >>> sentences("Hello there. Who is it? I don't know!")
    ('Hello there.', 'Who is it?', "I don't know!")
    """
    if not _INNER_END.search(text):  # Punkt would look for an end and find none
        return (text.rstrip(),) if text.strip() else ()
    return tuple(_punkt().tokenize(text))


@lru_cache(maxsize=64)
def tokens(text: str) -> Sequence[str]:
    """Words and punctuation as NLTK's `word_tokenize` has them.

    Args:
        text: A text.

    >>> tokens("I DON'T care. Go!")
    ('I', 'DO', "N'T", 'care', '.', 'Go', '!')
    """
    return tuple(token for s in sentences(text) for token in _treebank().tokenize(s))


@lru_cache(maxsize=64)
def language_of(text: str) -> str | None:
    """The language that a text is written in.

    It is that of the script of most of its letters, Latin or not: a translation in brackets beside
    a text makes it no text of two languages.

    Args:
        text: A text.

    Returns:
        An ISO 639-1 code, or None where the text holds no letter.

    Example:
        >>> [language_of(text) for text in ("Where is the library?", "Wo ist die Bibliothek?", "7")]
        ['en', 'de', None]
    """
    others = _OTHER_SCRIPTS.findall(text)
    latin = _LATIN.findall(text)
    if not latin and not others:
        return None
    rest = _OTHER_SCRIPTS if len(latin) > len(others) else _LATIN
    return str(identifier().classify(rest.sub("", text))[0])


@cache
def _punkt() -> Any:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    class Punkt(PunktSentenceTokenizer):  # type: ignore[misc]
        def text_contains_sentbreak(self, text: str) -> bool:
            # Four ends in five are plain, and the rules take a hundred times as long to say so.
            return bool(_PLAIN_END.fullmatch(text) or super().text_contains_sentbreak(text))

    return Punkt()


@cache
def _treebank() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
