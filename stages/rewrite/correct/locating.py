"""How well a model finds faulty steps, where they are known: held against the best constant.

Which step most solutions fail in is known before anything is read: on BIG-Bench Mistake always the
same step is right in a quarter to a half of the rows. A model that finds fewer has located
nothing, which the report and a warning say.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

_log = logging.getLogger(__name__)

_MANY: Final = 5
"""Known steps from which on a model that finds too few is a finding."""


def best_constant(known: Sequence[int | None]) -> tuple[int | None, float]:
    """The step that most solutions fail in, and how many of them do; ties by the earlier one.

    Args:
        known: The position of each first faulty step, None for none.

    Example:
        >>> best_constant([1, 3, 1, None])
        (1, 0.5)
    """
    counts = Counter(known)
    step = min(counts, key=lambda one: (-counts[one], one is None, one or 0))
    return step, counts[step] / len(known)


def locating_facts(pairs: Iterable[tuple[int | None, int | None]]) -> dict[str, Any] | None:
    """How many faulty steps were found; None where none is known.

    Args:
        pairs: The known position of each, and the one that the model names; None for none.

    Example:
        >>> locating_facts([(1, 1), (1, 0), (2, 2)])["accuracy"]
        0.667
    """
    rows = list(pairs)
    if not rows:
        return None
    step, accuracy = best_constant([known for known, _ in rows])
    right = sum(known == located for known, located in rows)
    beats = right / len(rows) > accuracy
    if not beats and len(rows) >= _MANY:
        _log.warning(
            "the model names the faulty step in %d of %d solutions; always step %s would be right "
            "in %d: what it says of steps is worth nothing",
            *(right, len(rows), "none" if step is None else step + 1, round(accuracy * len(rows))),
        )
    return {
        "known": len(rows),
        "right": right,
        "accuracy": round(right / len(rows), 3),
        "best_constant": {"step": step, "accuracy": round(accuracy, 3)},
        "beats_constant": beats,
    }
