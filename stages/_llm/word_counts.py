r"""Tokens of texts counted word by word, each different word once.

The pre-tokenizers of GPT-2 and of those after it put no token across some places: before a single
blank and behind a single newline, where either stands between two words. A text cut there has as
many tokens as its parts, and parts repeat. Tokenizers of another kind, or whose added tokens take
blanks along, are not cut.

Example:
    >>> words_of("To be,\nor  not\n\nto be\n")
    ['To', ' be,\n', 'or  not\n\nto', ' be\n']
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[list[str]], Iterable[int]]
"""The numbers of tokens of texts."""

_WORD: Final = re.compile(r"(?:\A\s+| )?\S+(?:(?![ \n]\S)\s+\S+)*(?:\n(?=\S)|\s+\Z)?|\A\s+\Z")
_BATCH: Final = 2_048
"""Texts whose words are looked up at a time."""
_MAX_WORDS: Final = 1 << 19
"""So many words are remembered before all are forgotten."""

_END: Final = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS: Final = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    + _END,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END,
}
"""How Llama 3 and Qwen divide a text: no part reaches across the places either."""


def words_of(text: str) -> list[str]:
    """The parts of a text between the places that no token reaches across; together they are it.

    Args:
        text: Any text.
    """
    return _WORD.findall(text)


def counts_by_word(tokenizer: Any, texts: Sequence[str], encode: Encode) -> NDArray[np.int64]:
    """The number of tokens of each text; shape (texts,).

    Args:
        tokenizer: Of a kind that `can_be_cut`.
        texts: The texts.
        encode: Counts the tokens of words.
    """
    known = _known_words(tokenizer)
    counts = np.empty(len(texts), dtype=np.int64)
    for start in range(0, len(texts), _BATCH):
        words = [words_of(text) for text in texts[start : start + _BATCH]]
        if len(known) > _MAX_WORDS:
            known.clear()
        new = [*set[str]().union(*words).difference(known)]
        known.update(zip(new, encode(new), strict=True))
        counts[start : start + _BATCH] = [sum(map(known.__getitem__, own)) for own in words]
    return counts


@lru_cache(maxsize=4)
def _known_words(tokenizer: Any) -> dict[str, int]:
    """The words that were counted so far."""
    return {}


@lru_cache(maxsize=16)
def can_be_cut(tokenizer: Any) -> bool:
    """Whether a text has as many tokens as its words together.

    Args:
        tokenizer: One of the library tokenizers.
    """
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or re.search(r"\s", token.content) for token in added):
        return False
    if getattr(backend.model, "dropout", None):
        return False
    normalizers, steps = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
    return all(step["type"] == "NFC" for step in normalizers) and _keeps_places(steps)


def _steps(part: Any) -> list[dict[str, Any]]:
    """What a tokenizer does in turn, as its file says it."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    own = state.get("normalizers") or state.get("pretokenizers") or [state]
    return [*own] if state["type"] == "Sequence" else [state]


def _keeps_places(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether pre-tokenizers divide at the places, and look at nothing beyond them."""
    divides = False
    for step in steps:
        match step:
            case {"type": "Digits"}:
                pass
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
                if pattern not in _PATTERNS or step["invert"]:
                    return False
                divides = True
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": by_itself}:
                divides = divides or by_itself
            case _:
                return False
    return divides
