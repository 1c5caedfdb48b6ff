"""Texts in a language that the encoder does not know: their vectors say nothing.

Such a text is near no item and would pass as clean. It is not compared instead, and that is
said. A text in Latin letters is taken for one only where that is sure: an identifier names
another language with confidence, and the text is not short, for which it guesses. Other
letters say it by themselves.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from stages._text.languages import identifier

MIN_CONFIDENCE: Final = 0.9

MIN_LETTERS: Final = 25
"""Latin letters of the shortest text whose language is identified."""

MAX_CHARACTERS: Final = 500
"""Of a text that are read for it."""

ENGLISH: Final = 0.12
"""The fraction of English function words from which on a text is English without a doubt."""

_FUNCTION_WORDS = (
    r"(?i)\b(?:the|of|and|to|is|are|was|in|for|that|with|what|which|how|from|this|these|it|"
    r"as|by|an|be|has|have|write|following|given|if|not|you|your)\b"
)


def foreign(texts: pl.Series, languages: tuple[str, ...]) -> pl.Series:
    """The language of each text that is in none of the given ones, null for the others.

    Args:
        texts: The texts.
        languages: ISO 639-1 codes; empty: every language is known.

    Example:
        >>> texts = pl.Series(["What is the sum?", "这个多项式的系数是什么？", "12 + 3"])
        >>> foreign(texts, ("en",)).to_list()
        [None, 'zh', None]
    """
    result = pl.Series("language", [None] * len(texts), dtype=pl.String)
    if not languages or not len(texts):
        return result
    head = texts.rename("text").str.slice(0, MAX_CHARACTERS).to_frame()
    letters, latin = (pl.col("text").str.count_matches(p) for p in (r"\p{L}", r"\p{Latin}"))
    is_latin = 2 * latin >= letters
    words = pl.col("text").str.count_matches(r"\p{L}+")
    doubtful = (letters > 0) & (~is_latin | (letters >= MIN_LETTERS))
    if "en" in languages:
        function_words = pl.col("text").str.count_matches(_FUNCTION_WORDS)
        doubtful &= ~is_latin | (function_words < ENGLISH * words)
    checked = head.with_row_index("at").filter(doubtful).select("at", "text", ~is_latin)
    classify = identifier().classify
    other = []
    # A loop, because the identifier reads one text at a time; most texts are never in doubt.
    for position, text, by_script in checked.iter_rows():
        name, confidence = classify(text)
        if name not in languages and (by_script or confidence >= MIN_CONFIDENCE):
            other.append((position, name))
    return result.scatter([i for i, _ in other], [name for _, name in other]) if other else result
