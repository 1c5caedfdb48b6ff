"""Weights of categories from what they do for each other (Beyond IID's EE-CPO).

Given the weights a that the categories have and the effects E, of which `E[i, j]` is how much
rows of category j help (above 0) or harm category i, the weights w are to raise a E w.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

LEARNING_RATE: Final = 1e-4
MAX_STEPS: Final = 2000
SMALLEST: Final = 1e-5
"""The weight at which the descent stops."""

MIN_ROWS: Final = 5
"""The rows that every category keeps."""


def linear_programme(start: Weights, gains: Weights, max_change: float) -> Weights:
    """The weights that sum to 1 and gain most, none changed by more than a part of itself.

    The best categories get all they may, in turn, until the sum is reached: what a linear
    programme over boxes with one sum gives. Equal gains share what is left in proportion.

    Args:
        start: The weights to change, with the sum 1; shape (categories,).
        gains: What a unit of each category gains.
        max_change: The largest change of a weight, as a part of it.

    >>> linear_programme(np.array([0.5, 0.25, 0.25]), np.array([0.0, 2.0, 1.0]), 0.2).round(6)
    array([0.4, 0.3, 0.3])
    """
    weights, room = start * (1 - max_change), start * 2 * max_change
    remaining = max_change
    for gain in np.unique(gains)[::-1]:
        equal = gains == gain
        added = min(remaining, float(room[equal].sum()))
        if added > 0:
            weights[equal] += room[equal] * (added / room[equal].sum())
        remaining -= added
    return weights


def descent(start: Weights, gains: Weights) -> Weights:
    """The weights after Adam's descent of -(gains w) / (sum w), as in the authors' code.

    Args:
        start: The weights to change, each above 0.
        gains: What a unit of each category gains.
    """
    weights = start.astype(np.float64)
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, MAX_STEPS + 1):
        total = weights.sum()
        gradient = (gains @ weights / total - gains) / total
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        scaled = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        weights = weights - LEARNING_RATE * mean / (1 - 0.9**step) / scaled
        if (weights < SMALLEST).any():
            break
    return weights


def moved_rows(rows: Weights, direction: Weights, fraction: float) -> Weights:
    """The rows of categories after a part of all rows is moved from those that are to shrink.

    Each shrinking category gives the same number, but keeps MIN_ROWS or what it has; each
    growing one gets the same number.

    Args:
        rows: The rows of each category.
        direction: Above 0 for categories to grow, below for those to shrink.
        fraction: The part of all rows that is moved.

    >>> moved_rows(np.array([60.0, 34.0, 6.0]), np.array([1.0, -1.0, -1.0]), 0.1).tolist()
    [66.0, 29.0, 5.0]
    """
    grows, shrinks = direction > 0, direction < 0
    if not grows.any() or not shrinks.any():
        return rows.copy()
    most = np.maximum(rows - MIN_ROWS, 0)
    losses = np.where(shrinks, np.minimum(fraction * rows.sum() / shrinks.sum(), most), 0.0)
    return np.where(grows, rows + losses.sum() / grows.sum(), rows - losses)
