"""A-LoL's advantage: how much better a row is than what the reference policy would answer.

A-LoL: Improving Language Models with Advantage-based Offline Policy Gradients (Baheti et al. 2023,
arXiv:2305.14718; abaheti95/LoL-RL).

As in the paper: a small value head over a frozen model learns the rewards of the reference
policy's own answers by their prompts; the advantage of a row is its reward less that value, and
rows with a negative one are dropped (`select.top` with `min_score: 0`).

As in the authors' code: rows are drawn in proportion to the positive part of the advantage, which
`learned_priority` holds.

Ours: the head is ridge regression over whatever vectors the prompts have. Left out: the clipped
ratio of policies in the loss.
"""

from __future__ import annotations

import polars as pl

from stages.score.learned.labels import Floats


def advantages(rewards: Floats, values: Floats) -> dict[str, pl.Series]:
    """The advantage of each row, and the share of the draws that it gets.

    Args:
        rewards: Shape (rows,), NaN where one is missing.
        values: What the reference policy would get, shape (rows,).

    Returns:
        `learned_advantage` and `learned_priority`, null where a number is missing; the
        priorities sum to 1 unless no advantage is positive.

    Example:
        >>> import numpy as np
        >>> columns = advantages(np.array([1.0, 4.0, 2.0]), np.array([2.0, 1.0, 1.0]))
        >>> [column.to_list() for column in columns.values()]
        [[-1.0, 3.0, 1.0], [0.0, 0.75, 0.25]]
    """
    advantage = pl.Series(rewards - values, dtype=pl.Float64).fill_nan(None)
    positive = advantage.clip(0)
    total = positive.sum()
    priority = positive / total if total else positive
    return {"learned_advantage": advantage, "learned_priority": priority}
