"""Greedy deduplication by cosine as a loop over rows: slow, and plain enough to be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Verdict = tuple[bool, int, float]
"""Whether a row is kept, the nearest row kept before it, and the cosine with it."""


def loop(
    vectors: NDArray,
    threshold: float,
    inclusive: bool = False,
    n_reference: int = 0,
    costs: NDArray | None = None,
    budget: int | None = None,
) -> list[Verdict]:
    """Judge row after row in float64; the arguments are those of `greedy_dedup`."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt((wide**2).sum(axis=1))
    costs = np.ones(len(wide), int) if costs is None else costs
    remaining = costs.sum() if budget is None else budget
    verdicts: list[Verdict] = [(True, -1, np.nan)] * n_reference
    kept = list(range(n_reference))
    for row in range(n_reference, len(wide)):
        nearest, best = -1, np.nan
        for other in kept:
            if norms[row] and norms[other]:
                cosine = round(float(wide[row] @ wide[other] / (norms[row] * norms[other])), 12)
                if nearest < 0 or cosine > best:
                    nearest, best = other, cosine
        too_similar = best > threshold or (inclusive and best == threshold)
        keep = not too_similar and costs[row] <= remaining
        if keep:
            kept.append(row)
            remaining -= costs[row]
        verdicts.append((keep, nearest, best))
    return verdicts


def at_least(verdicts: list[Verdict], min_similarity: float) -> list[Verdict]:
    """The verdicts with the nearest row only where the cosine reaches a minimum."""
    return [v if v[2] >= min_similarity else (v[0], -1, np.nan) for v in verdicts]
