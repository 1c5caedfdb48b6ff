"""Novelty by ROUGE-L as a loop over texts: slow, and plain enough to be believed."""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from stages._text.rouge import f1


def loop(
    sequences: list[list[int]], n_reference: int, threshold: float, inclusive: bool = False
) -> list[tuple[int, float]]:
    """(duplicate_of, score) of each text, one after the other; (-1, 0.0) where it is kept."""
    kept = list(range(n_reference))
    verdicts = [(-1, 0.0)] * n_reference
    for row in range(n_reference, len(sequences)):
        best, duplicate_of = 0.0, -1
        for other in kept:
            a, b = sequences[row], sequences[other]
            score = float(f1(LCSseq.similarity(a, b), len(a), len(b)))
            if score > best:
                best, duplicate_of = score, other
        if best > threshold or (inclusive and best == threshold):
            verdicts.append((duplicate_of, best))
        else:
            verdicts.append((-1, 0.0))
            kept.append(row)
    return verdicts
