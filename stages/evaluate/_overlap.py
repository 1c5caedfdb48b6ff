"""Answers against gold answers by the words that they share, as SQuAD counts them.

Normalised as in SQuAD's script: lower case, no punctuation, no articles, single spaces. Of several
gold answers the best counts.

>>> exact_match("The Rhine.", ["rhine"]), round(token_f1("on the Rhine", ["Rhine"]), 4)
(1.0, 0.6667)
>>> token_recall("on the Rhine", ["Rhine"]), token_precision("on the Rhine", "It is on the Rhine.")
(1.0, 1.0)
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text as SQuAD compares it.

    Args:
        text: The text.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the answer is one of the gold answers, else 0.

    Args:
        answer: The answer.
        gold: The gold answers.
    """
    return float(normalized(answer) in {normalized(text) for text in gold})


def token_f1(answer: str, gold: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words; 0 where none is shared.

    Args:
        answer: The answer.
        gold: The gold answers.
    """
    return max((_f1(normalized(answer).split(), normalized(g).split()) for g in gold), default=0.0)


def token_recall(answer: str, gold: Sequence[str]) -> float:
    """The share of a gold answer's words that the answer holds (InstructQA's correctness).

    Args:
        answer: The answer.
        gold: The gold answers.
    """
    words = normalized(answer).split()
    return max((_share(normalized(g).split(), words) for g in gold), default=0.0)


def token_precision(answer: str, knowledge: str) -> float:
    """The share of the answer's words that the knowledge holds (K-Precision, faithfulness).

    Args:
        answer: The answer.
        knowledge: What the answer may say.
    """
    return _share(normalized(answer).split(), normalized(knowledge).split())


def _f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    shared = _shared(answer, gold)
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _share(words: Sequence[str], others: Sequence[str]) -> float:
    return _shared(words, others) / len(words) if words else 0.0


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return (Counter(a) & Counter(b)).total()
