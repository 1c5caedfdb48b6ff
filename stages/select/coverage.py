"""Rows whose tags cover the tags of the pool, those with many tags first.

InsTag's complexity-first diverse sampling (Lu et al. 2023, arXiv:2308.07074, algorithm 1):
queries are sorted by the number of their tags, and passes are made over them. A pass
begins with an empty set of tags and selects a query if and only if it has a tag that the
set lacks. Passes follow one another over the remaining queries until the budget is spent.

Tags are a column of lists of texts, such as a tagger makes; a column of texts is read as
one tag for each row.
"""

from __future__ import annotations

import heapq
from types import SimpleNamespace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.verdicts import evidence_of
from stages._selection.amounts import Amount, Budget, amount_of
from stages._selection.budget import (
    TOKEN_COLUMN,
    Unit,
    check_selection,
    cost_columns,
    fill,
    row_costs,
)
from stages._selection.held import held_rows

ADDS: Final = {
    "coverage_rank": pl.Int32(),
    "coverage_pass": pl.Int32(),
    "coverage_tags": pl.List(pl.String),
}


def _reads(options: SimpleNamespace) -> list[str]:
    return list(dict.fromkeys([options.tags, *cost_columns(options)]))


@stage(version=1, scope="set", reads=_reads, adds=ADDS, check=check_selection, later=("held",))
def coverage(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    budget: Budget,
    unit: Unit = "rows",
    tags: str = "tags",
    token_column: str = TOKEN_COLUMN,
) -> pl.DataFrame:
    """Keep rows that have new tags, those with many tags first.

    Adds, to the selected rows, `coverage_rank` (in the order of selection, from 1),
    `coverage_pass` (from 1) and `coverage_tags`, the tags that were new in that pass.
    Dropped: `missing_tags` (null), `no_tags` (an empty list never has a new tag) and
    `not_selected`, with the number of the row's tags and of the passes.

    Args:
        rows: The rows to choose from.
        held: Rows that were chosen before: those that are among the rows and have tags are
            kept first, as pass 0, and their tags are covered in the first pass.
        budget: How much to keep in all, in rows or tokens; never exceeded, and in rows met
            exactly where enough rows have tags. In tokens, a row that no longer fits is
            passed over.
        unit: What the budget counts, where it is a number. A budget of
            `{rows: 1000, tokens: 1000000}` has both units: whichever is met first.
        tags: The column of tags. A tag that a row has twice counts once; rows of equally
            many tags are seen in the order of their ids.
        token_column: The column of each row's number of tokens, where tokens are counted.

    Example:
        ```yaml
        best:
          uses: select.coverage
          needs: tagged
          with: {budget: 1000}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "tags": [["x"], ["x", "y"], ["z"]]})
        >>> coverage(ctx, rows, budget=2)["coverage_rank"].to_list()
        [None, 1, 2]
    """
    tag_sets = _tag_sets(rows[tags])
    names = tag_sets.explode(empty_as_null=False).drop_nulls().unique().sort()
    coded = tag_sets.cast(pl.List(pl.Enum(names))).list.eval(pl.element().to_physical())
    costs, is_held = row_costs(rows, budget, unit, token_column), held_rows(rows, held)
    selected = _cover(coded, costs, amount_of(budget), is_held)
    texts = names.to_list()
    new_tags = pl.Series(
        [[texts[code] for code in new] for new in selected["new"]], dtype=ADDS["coverage_tags"]
    )
    ranked = selected.select(
        "row",
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("coverage_rank"),
        pl.col("pass").alias("coverage_pass"),
        new_tags.alias("coverage_tags"),
    )
    passes = pl.lit(selected["pass"].max() or 0).alias("passes")
    facts = pl.DataFrame({"tags": tag_sets.list.len()}).with_columns(passes)
    facts = facts.with_row_index("row").join(ranked, on="row", how="left", maintain_order="left")
    dropped = pl.col("coverage_rank").is_null()
    reason = (
        pl.when(pl.col("tags").is_null())
        .then(pl.lit("missing_tags"))
        .when(pl.col("tags") == 0)
        .then(pl.lit("no_tags"))
        .otherwise(pl.lit("not_selected"))
    )
    evidence = evidence_of("tags", "passes")
    return facts.select(
        *ADDS,
        pl.when(dropped).then(reason).alias("drop_reason"),
        pl.when(dropped).then(evidence).alias("evidence"),
    )


def _tag_sets(column: pl.Series) -> pl.Series:
    """Each row's different tags, sorted: List(String), null where the row has no list."""
    if column.dtype == pl.String:
        tag = pl.col(column.name)
        lists = pl.when(tag.is_not_null()).then(pl.concat_list(tag))
        column = column.to_frame().select(lists).to_series()
    if column.dtype not in (pl.List(pl.String), pl.List(pl.Null), pl.Null):
        raise UserError(
            f"the column {column.name!r} must hold lists of tags, got {column.dtype}",
            hint="name a column of lists of texts, or of texts",
        )
    return column.cast(pl.List(pl.String)).list.drop_nulls().list.unique().list.sort()


def _cover(
    tags: pl.Series, costs: NDArray[np.int64], amount: Amount, is_held: NDArray[np.bool_]
) -> pl.DataFrame:
    """Select rows in passes.

    In: the tags of each row, their costs, a budget, the rows that come first.
    Out: the selected rows in order, the pass of each, and the tags that were new in it.

    The same as `by_hand` in tests/stages/select/test_coverage.py, the paper's algorithm
    as it stands, but a pass skips the rows that it does not select. The next row that a
    pass selects is the first remaining one that has an uncovered tag: the minimum, over
    the uncovered tags, of the first remaining row with that tag. A heap over tags holds
    these. Every pass covers all remaining tags, so the work is about the number of tags of
    the selected rows. Loops, because each choice depends on those before it.

    Args:
        tags: List(UInt32), codes of the different tags of each row.
        costs: What each row uses of the budget, shape (rows,).
        amount: What may be spent in all.
        is_held: Rows that are selected before all others, shape (rows,).

    Returns:
        Columns `row`, `pass` (from 1; 0 for held rows) and `new` (codes).

    Example:
        >>> tags = pl.Series([[0], [0, 1], [2]], dtype=pl.List(pl.UInt32))
        >>> _cover(tags, np.ones(3, int), Amount(9), np.zeros(3, bool)).rows()
        [(1, 1, [0, 1]), (2, 1, [2]), (0, 2, [0])]
    """
    sizes = tags.list.len().fill_null(0).to_numpy()
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order))
    tag_lists, costs_listed, rows = tags.to_list(), costs.tolist(), order.tolist()
    queues = _queues(tags, positions)
    of_held = order[(is_held & (sizes > 0))[order]]
    kept = of_held[fill(costs, of_held.tolist(), *amount)[of_held]]
    selected: list[tuple[int, int, list[int]]] = [(row, 0, []) for row in kept.tolist()]
    held_tags = {tag for row in kept.tolist() for tag in tag_lists[row]}
    remaining = bytearray((~is_held[order]).astype(np.uint8).tobytes())
    for tag in list(queues):
        _advance(queues, tag, remaining)
    number, budget = 0, amount.total - int(costs[kept].sum())
    rows_left = (len(costs) if amount.rows is None else amount.rows) - len(kept)
    while queues and rows_left:
        number += 1
        previous, covered = len(selected), held_tags if number == 1 else set[int]()
        heap = [(queue[-1], tag) for tag, queue in queues.items()]
        heapq.heapify(heap)
        while heap and rows_left:
            position, tag = heapq.heappop(heap)
            if tag in covered:
                continue
            row = rows[position]
            if remaining[position] and costs_listed[row] <= budget:
                new = [code for code in tag_lists[row] if code not in covered]
                covered.update(new)
                budget -= costs_listed[row]
                rows_left -= 1
                selected.append((row, number, new))
            remaining[position] = 0
            _advance(queues, tag, remaining)
            if tag not in covered and tag in queues:
                heapq.heappush(heap, (queues[tag][-1], tag))
        if len(selected) == previous and not (number == 1 and held_tags):
            break
        for tag in list(queues):
            _advance(queues, tag, remaining)
    return pl.DataFrame(
        selected, {"row": pl.UInt32, "pass": pl.Int32, "new": pl.List(pl.UInt32)}, orient="row"
    )


def _queues(tags: pl.Series, positions: NDArray[np.int64]) -> dict[int, list[int]]:
    """For each tag the positions of its rows, the first one last, where it is popped cheaply."""
    rows = pl.DataFrame({"tag": tags, "position": positions}).explode("tag").drop_nulls()
    ordered = rows.sort("tag", "position", descending=[False, True])
    lists = ordered.group_by("tag", maintain_order=True).agg("position")
    return dict(zip(lists["tag"].to_list(), lists["position"].to_list(), strict=True))


def _advance(queues: dict[int, list[int]], tag: int, remaining: bytearray) -> None:
    """Let the tag's queue end with its first remaining row; delete a queue without one."""
    queue = queues[tag]
    while queue and not remaining[queue[-1]]:
        queue.pop()
    if not queue:
        del queues[tag]
