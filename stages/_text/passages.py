"""Texts cut into passages of so many words, in any script."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

import polars as pl

from stages._text.final_answer import UNSPACED
from stages._text.tokens import spaced

_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
_RUN: Final = re.compile(r"\S+")


def split_words(text: str, num_words: int) -> list[str]:
    """Passages of so many words each; a character of Chinese or Japanese is a word.

    Args:
        text: A text. White space in it becomes single spaces.
        num_words: Words of a passage; the last one may have fewer.

    >>> split_words("One two  three.", 2), split_words(" ", 2)
    (['One two', 'three.'], [])
    """
    starts = _unspaced(text) if _UNSPACED.search(text) else [m.start() for m in _RUN.finditer(text)]
    borders = [*starts[::num_words], len(text)]
    return [" ".join(text[a:b].split()) for a, b in pairwise(borders)]


def _unspaced(text: str) -> list[int]:
    """Where the words of a text begin that holds scripts without spaces."""
    starts, position = [], 0
    for word in pl.select(spaced(pl.lit(text))).item().split():
        starts.append(text.index(word, position))
        position = starts[-1] + len(word)
    return starts
