"""The columns that selectors add: what a later stage may use of them, and need not find.

A selector can be exchanged for another by changing its stage alone: export and reports,
which show such a column but decide nothing by it, do without it where it is missing. Any
other column that they name must be there, so that a slip of the pen is still an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pipeline.stage import OptionalColumn

SELECTOR_COLUMNS: Final = frozenset({
    "chosen_by", "cluster", "cluster_rank", "cluster_round", "cluster_scorer",
    "consensus", "consensus_score", "response_rank", "response_votes",
    "coverage_pass", "coverage_rank", "coverage_tags",
    "gain", "gain_rank",
    "held_density", "target_id", "target_rank", "target_score",
    "random_rank", "split", "stratum", "stratum_rank",
    "top_group", "top_rank", "top_score",
})  # fmt: skip
"""What the stages `select.*` add."""


def shown_columns(names: Iterable[str]) -> list[str]:
    """Columns as a stage declares them in `reads` that shows them and decides nothing by them.

    Args:
        names: The columns.

    Example:
        >>> [type(name).__name__ for name in shown_columns(["ifd", "cluster"])]
        ['str', 'OptionalColumn']
    """
    return [OptionalColumn(name) if name in SELECTOR_COLUMNS else name for name in names]
