"""PASER: what pruning has cost decides each cluster's part, and conflicting rows are passed over.

PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery (He et al.
2025, arXiv:2502.12594; BokwaiHo/PASER).

As in the paper: a cluster gets the part of the budget that its degradation has of all clusters';
its rows come in the order of their efficiency score; a graph of concepts grows with the rows that
are taken, and a row that joins two known concepts that no taken row has joined is passed over.

As in the authors' code: parts are rounded down, and what a cluster cannot fill stays unspent; the
concepts of a row are the key phrases of all its texts by RAKE (Rose et al. 2010): runs of words
between stop words and punctuation.

Ours: clusters from 0 on, ties by id, phrases end with their line, and have at least two words:
with single ones rows conflict that have nothing to do with each other (of 300 rows of the bundled
Self-Instruct sample 64 are left, and 283 with `min_words: 2`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.types import Count, option_group
from stages._constraints.ifbench.ratios import STOP_WORDS
from stages._selection.amounts import Amount
from stages._selection.scores import Expression
from stages._selection.scores import scores as values_of
from stages.select.clusters.quotas import Members, Outcome, cluster_means

_PIECE: Final = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")


@option_group
class Paser:
    """PASER's budget by degradation, without rows that contradict those before them.

    Attributes:
        degradation: A column or SQL expression, 0 or more, whose mean over a cluster is its
            degradation, such as `degradation` of `score.loss`.
        min_words: Words of a key phrase, at least, that count as a concept.
    """

    name: Literal["paser"] = "paser"
    degradation: Expression = "degradation"
    min_words: Count = 2


def concepts(text: str, min_words: int) -> list[str]:
    """The key phrases of a text, each once: runs of words between stop words and punctuation.

    Args:
        text: The text.
        min_words: Words of a phrase, at least.

    Example:
        >>> concepts("Sort the linked list, then print the linked list in reverse order.", 2)
        ['linked list', 'reverse order']
    """
    phrases: dict[str, None] = {}
    run: list[str] = []
    for piece in [*_PIECE.findall(text.lower()), "."]:
        if piece[0].isalnum() and piece not in STOP_WORDS:
            run.append(piece)
            continue
        if len(run) >= min_words:
            phrases[" ".join(run)] = None
        run = []
    return list(phrases)


class ConceptGraph:
    """The concepts of the rows that were taken, and which of them stood in one row."""

    def __init__(self) -> None:
        self._joined: dict[str, set[str]] = {}

    def conflict(self, phrases: Sequence[str]) -> tuple[str, str] | None:
        """Two known concepts that no row has joined yet; None where there are none.

        Args:
            phrases: The concepts of a row.
        """
        known = [phrase for phrase in phrases if phrase in self._joined]
        for position, one in enumerate(known):
            for other in known[position + 1 :]:
                if other not in self._joined[one]:
                    return one, other
        return None

    def add(self, phrases: Sequence[str]) -> None:
        """Take the concepts of a row. One that stands alone is not known, as in the code.

        Args:
            phrases: The concepts.
        """
        for phrase in phrases if len(phrases) > 1 else ():
            self._joined.setdefault(phrase, set()).update(p for p in phrases if p != phrase)


def by_paser(
    rows: pl.DataFrame, members: Members, keys: NDArray[np.float64], amount: Amount, rule: Paser
) -> Outcome:
    """Spend the budget under `rule: paser`.

    Args:
        rows: The rows with their messages.
        members: The same as members of clusters.
        keys: What rows are ordered by; NaN for a row without a score, which is not taken.
        amount: The budget.
        rule: The rule.

    Raises:
        UserError: No cluster is degraded, or one by less than 0.
    """
    count = int(members.labels.max(initial=-1)) + 1
    quotas = _quotas(rows, members.labels, count, amount, rule)
    graph, left = ConceptGraph(), quotas.astype(np.int64)
    selected = np.zeros(len(rows), dtype=np.bool_)
    conflicts: list[list[str] | None] = [None] * len(rows)
    texts = rows["messages"].to_list()
    for i in np.lexsort((members.ranks, members.labels)).tolist():
        cluster, cost = members.labels[i], int(members.costs[i])
        if np.isnan(keys[i]) or cost > left[cluster]:
            continue
        said = "\n".join(turn["content"] or "" for turn in texts[i])
        phrases = concepts(said, rule.min_words)
        conflict = graph.conflict(phrases)
        if conflict is not None:
            conflicts[i] = list(conflict)
            continue
        graph.add(phrases)
        left[cluster] -= cost
        selected[i] = True
    facts = {"quota": quotas[members.labels], "conflict": conflicts}
    return Outcome(selected, facts, pl.DataFrame())


def _quotas(
    rows: pl.DataFrame, labels: NDArray[np.int32], count: int, amount: Amount, rule: Paser
) -> NDArray[np.int64]:
    """Each cluster's part of the budget, rounded down."""
    means = cluster_means(labels, values_of(rows, rule.degradation), count)
    if count and (np.isnan(means).any() or means.min() < 0 or not means.any()):
        raise UserError(
            "rule.degradation must be 0 or more on average in every cluster, and above 0 in one",
            why=f"{rule.degradation!r} is the part of the budget that a cluster gets",
        )
    total = means.sum()
    parts: NDArray[np.int64] = np.floor(amount.total * means / total).astype(np.int64)
    return parts
