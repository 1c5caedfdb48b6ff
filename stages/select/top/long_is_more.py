"""Words as NLTK's `word_tokenize` counts them: the length of "Long is more".

Zhao et al. 2024 (arXiv:2402.04833) keep the 1,000 answers with the most words.
Their released rows fit this count and no other (not characters, words between
spaces, or model tokens): punctuation marks are words, a contraction is two.

`word_tokenize` first cuts a text into sentences, because only the stop at the end
of a string is a word of its own. NLTK's trained sentence model is a download;
this uses the same algorithm (Punkt) with nothing learned, so abbreviations end
sentences. All 1,000 released rows reach the thousandth count, 192 words, and of
the others one exceeds it and 13 equal it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import polars as pl

PLAIN: Final = re.compile(
    r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*(?:,? [A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)*[.?!]?"
)
"""A sentence of plain words and commas, whose words can be counted without a tokenizer."""

SPLIT: Final = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b", re.IGNORECASE)
"""Words without an apostrophe that NLTK cuts in two."""


def nltk_words(texts: pl.Series) -> pl.Series:
    """The number of words of each text, Int64; null for a missing text, 0 for a blank one.

    A loop: NLTK's tokenizers are regular expressions over one text at a time.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    cut, tokenizer = PunktSentenceTokenizer(), NLTKWordTokenizer()
    counts = [
        None if text is None else sum(_count(s, tokenizer) for s in cut.tokenize(text))
        for text in texts.to_list()
    ]
    return pl.Series("words", counts, dtype=pl.Int64)


def _count(sentence: str, tokenizer: Any) -> int:
    if PLAIN.fullmatch(sentence) and not SPLIT.search(sentence):
        ends = sentence[-1] in ".?!"
        return sentence.count(" ") + sentence.count(",") + 1 + ends
    return len(tokenizer.tokenize(sentence))
