"""What several models agree on: the answers to one prompt, compared with each other.

Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961). Answers are compared after
lower-casing, without punctuation and with single spaces; their likeness is ROUGE-L
over stemmed words. Nothing here knows tables: voices go in, a decision comes out.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from stages._text.rouge import rouge_l, tokenize

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


class Voice(NamedTuple):
    """One answer of somebody's. row: where it stands; a row that two gave is two voices."""

    row: int
    text: str
    own: bool


class Decision(NamedTuple):
    """row: of the answer that is kept, None for none. how: why it is; "own" was confirmed by
    another, "others" agree among themselves, "rouge_l" is the likest to the rest.

    scores: of each voice, where ROUGE-L decided: the sum with all other voices.
    lowest: the least ROUGE-L of two voices, where it was asked for.
    """

    row: int | None
    how: str | None = None
    scores: tuple[float, ...] = ()
    lowest: float | None = None


def consensus(voices: Sequence[Voice], keep_own: bool, min_rouge_l: float) -> Decision:
    """The answer that the voices support.

    1. The own answer, if another one equals it. 2. Else the one that at least two others
    give, if there is such a one (`keep_own`: the own answer all the same, as in the
    authors' code); where what they agree on is empty, the own one. 3. Else, unless two
    answers have a ROUGE-L of at most min_rouge_l, the one with the largest sum of
    ROUGE-L with all others; of equal ones the first in the order of the voices.
    A voice alone is no consensus.
    """
    texts = [normalized(voice.text) for voice in voices]
    own = next((i for i, voice in enumerate(voices) if voice.own), None)
    others = [i for i in range(len(voices)) if i != own]
    if len(voices) < 2:
        return Decision(None)
    if own is not None and any(texts[i] == texts[own] for i in others):
        return Decision(voices[own].row, "own")
    said = Counter(texts[i] for i in others)
    common, times = said.most_common(1)[0]
    if times > 1:
        agreeing = next(i for i in others if texts[i] == common)
        chosen = own if own is not None and (keep_own or not common) else agreeing
        return Decision(voices[chosen].row, "others")
    return _likest(voices, texts, min_rouge_l)


def _likest(voices: Sequence[Voice], texts: Sequence[str], min_rouge_l: float) -> Decision:
    tokens = [tokenize(text, stem=True) for text in texts]
    sums = [0.0] * len(voices)
    lowest = 1.0
    for i, j in combinations(range(len(voices)), 2):
        score = rouge_l(tokens[i], tokens[j])
        sums[i] += score
        sums[j] += score
        lowest = min(lowest, score)
    best = max(range(len(voices)), key=sums.__getitem__)
    kept = voices[best].row if lowest > min_rouge_l else None
    return Decision(kept, "rouge_l", tuple(sums), lowest)
