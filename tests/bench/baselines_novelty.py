"""The strong baseline of ROUGE-L novelty: blocked rapidfuzz with a cut-off.

What one page reaches today. 2 LCS / (m + n) is rapidfuzz's normalised Indel similarity,
so `cdist` drops at once what is below the threshold; hits are evaluated again in
rouge_score's arithmetic, 2pr / (p + r) in float64, because that decides at the threshold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import cdist

from stages._text.tokens import field_text

BLOCK = 2048


def rapidfuzz(folder: Path, file: str, threshold: float) -> Callable[[], dict[str, np.ndarray]]:
    """Greedy in the order of the rows; `kept` as a mask."""
    texts = pl.read_parquet(folder / file).select(field_text("instruction"))["text"].to_list()
    return lambda: {"kept": greedy(texts, threshold)}


def greedy(texts: list[str], threshold: float) -> np.ndarray:
    """Which texts are kept: those no more than `threshold` similar to one kept before."""
    known: dict[str, str] = {}
    # Each word becomes one character: LCS over characters is LCS over words, and fastest.
    words = [re.findall("[a-z0-9]+", text.lower()) for text in texts]
    coded = ["".join(known.setdefault(w, chr(0x100 + len(known))) for w in row) for row in words]
    kept = np.ones(len(texts), dtype=bool)
    for start in range(0, len(coded), BLOCK):
        block = coded[start : start + BLOCK]
        near: list[tuple[int, int]] = []
        for before in range(0, start + 1, BLOCK):
            scores = cdist(
                block, coded[before : before + BLOCK], scorer=Indel.normalized_similarity,
                score_cutoff=threshold - 1e-6, dtype=np.float32, workers=2,
            )  # fmt: skip
            near += [(start + a, before + b) for a, b in np.argwhere(scores > 0).tolist()]
        for later, earlier in sorted(near):
            if earlier < later and kept[earlier] and kept[later]:
                kept[later] = rouge_l(coded[later], coded[earlier]) <= threshold
    return kept


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L's F1 as the rouge_score package computes it."""
    common = LCSseq.similarity(a, b)
    if not common:
        return 0.0
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)
