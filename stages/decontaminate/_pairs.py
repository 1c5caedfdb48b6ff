"""Pairs of a turn and an evaluation item that may be paraphrases, with all that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models.counting import is_counting
from stages._vectors.arrays import Matrix
from stages.decontaminate._judge import TaskType
from stages.decontaminate._nearest import EmbeddedItems, nearest
from stages.decontaminate._numbers import agreement, numbers_in

NUMBERS_MAY_DIFFER: Final = ("code", "number_substituted")
"""Task types whose paraphrases may have other numbers: examples of a program, for one."""

MIN_SIMILARITY: Final = 0.5
"""The cosine of the least similar paraphrases: below it no words are compared."""

MAX_COVERAGE: Final = 0.8
"""The coverage of nearly all paraphrases: words are compared only where it would be enough.
A long verbatim copy has more, and a margin that is far beyond any threshold."""

MAX_EVIDENCE: Final = 300
"""Characters of a span in the evidence."""


class Pairs(NamedTuple):
    """Spans of turns with the items' spans nearest to them.

    Attributes:
        items: The items.
        spans: Row, turn, text and part of the turns' spans.
        table: Positions of both spans (`span`, `item`), similarity, background, coverage and
            score (null where they cannot matter), and threshold.
        task_types: Of each benchmark.
    """

    items: EmbeddedItems
    spans: pl.DataFrame
    table: pl.DataFrame
    task_types: Mapping[str, TaskType]

    def close(self, min_number_overlap: float, n_neighbors: int) -> list[int]:
        """The pairs above their threshold that agree in their numbers, best score first: for
        each turn and benchmark at most `n_neighbors` texts."""
        table = self._ranked()
        # Vectors say nothing while requests are counted: at most every pair is judged.
        if not is_counting():
            table = table.filter(pl.col("score") >= pl.col("threshold"))
            agree = [self._agrees(i, min_number_overlap) for i in table["pair"]]
            table = table.filter(pl.Series(agree, dtype=pl.Boolean))
        texts = ["row", "turn", "benchmark"]
        table = table.unique([*texts, "id", "field"], keep="first", maintain_order=True)
        return table.filter(pl.int_range(pl.len()).over(texts) < n_neighbors)["pair"].to_list()

    def best(self) -> pl.DataFrame:
        """For each row the item that it is most likely a paraphrase of."""
        best = self._ranked().unique("row", keep="first", maintain_order=True)
        return best.select(
            "row",
            pl.col("similarity").alias("exam_similarity"),
            pl.col("score").alias("exam_score"),
            pl.col("id").alias("exam_item"),
        )

    def row(self, i: int) -> int:
        """The row of the i-th pair."""
        return int(self._span(i)["row"])

    def question(self, i: int) -> tuple[TaskType, str, str]:
        """The i-th pair as `judge_pairs` takes it: the entire turn and the entire text."""
        item = self._item(i)
        return self.task_types[item["benchmark"]], self._span(i)["text"], item["text"]

    def evidence(self, i: int) -> dict[str, Any]:
        """The evidence of a row that is dropped for the i-th pair."""
        item, span, pair = self._item(i), self._span(i), self.table.row(i, named=True)
        named = {name: item[name] for name in ("benchmark", "item", "id", "field")}
        measured = ("similarity", "background", "coverage", "score", "threshold")
        return {
            **named,
            "span": item["name"],
            "item_span": item["part"][:MAX_EVIDENCE],
            "turn_span": span["part"][:MAX_EVIDENCE],
            **{name: _rounded(pair[name]) for name in measured},
            "numbers": self._numbers(i),
            "turn": span["turn"],
        }

    def _ranked(self) -> pl.DataFrame:
        """The pairs with row, turn, benchmark, id and field, the highest score first."""
        items, spans = self.items.spans, self.spans
        return (
            self.table.with_row_index("pair")
            .with_columns(
                *(spans[name].gather(self.table["span"]) for name in ("row", "turn")),
                *(items[name].gather(self.table["item"]) for name in ("benchmark", "id", "field")),
            )
            .sort(
                pl.col("score"),
                pl.col("similarity") - pl.col("background"),
                "pair",
                descending=[True, True, False],
                nulls_last=True,
            )
        )

    def _agrees(self, i: int, min_number_overlap: float) -> bool:
        return (named := self._numbers(i)) is None or named >= min_number_overlap

    def _numbers(self, i: int) -> float | None:
        """The fraction of the item's numbers that the turn names; null where none is required."""
        item = self._item(i)
        task_type = self.task_types[item["benchmark"]]
        # What a problem asks at its end is the same for hundreds; its numbers stand before.
        required = numbers_in(item["text" if task_type == "math" else "part"])
        if not required or task_type in NUMBERS_MAY_DIFFER:
            return None
        return agreement(required, numbers_in(self._span(i)["part"]))

    def _item(self, i: int) -> dict[str, Any]:
        return self.items.spans.row(self.table["item"][i], named=True)

    def _span(self, i: int) -> dict[str, Any]:
        return self.spans.row(self.table["span"][i], named=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def compare(
    items: EmbeddedItems,
    spans: pl.DataFrame,
    vectors: Matrix,
    task_types: Mapping[str, TaskType],
    limits: NDArray[np.float64],
) -> Pairs:
    """Compare spans of turns with evaluation items.

    Args:
        items: The items.
        spans: Row, turn, text and part of the turns' spans.
        vectors: Their vectors, of length 1.
        task_types: Of each benchmark.
        limits: The threshold of each of the items' spans.
    """
    near = nearest(items, vectors)
    margin, limit = near.similarity - near.background, limits[near.item]
    enough = (margin + MAX_COVERAGE >= limit) & (near.similarity >= MIN_SIMILARITY)
    coverage = np.full(len(margin), np.nan)
    for number, (first, end) in enumerate(pairwise(items.groups)):
        possible = np.flatnonzero(enough & (near.item >= first) & (near.item < end))
        coverage[possible] = items.coverages[number](
            items.spans["part"].gather(near.item[possible]).to_list(),
            spans["part"].gather(near.turn[possible]).to_list(),
        )
    table = pl.DataFrame(
        {
            "span": near.turn,
            "item": near.item,
            "similarity": near.similarity,
            "background": near.background,
            "coverage": coverage,
            "score": margin + coverage,
            "threshold": limit,
        }
    )
    nullable = pl.col("coverage", "score").fill_nan(None)
    return Pairs(items, spans, table.with_columns(nullable), task_types)
