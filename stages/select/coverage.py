"""Rows whose tags cover the tags of the pool, those of many tags first.

InsTag's complexity-first diverse sampling (Lu et al. 2023, arXiv:2308.07074,
algorithm 1): queries are sorted by the number of their tags, and passes are made
over them. A pass begins with an empty set of tags and takes a query if and only
if it brings a tag that the set has not. Passes follow one another over what is
left until the budget is spent.

Tags are a column of lists of texts, such as a tagger makes; a column of texts is
read as one tag for each row.
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
from stages._common.unused_options import refuse_idle
from stages._selection.budget import Unit, check_budget, cost_columns, costs

ADDS: Final = {
    "coverage_rank": pl.Int32(),
    "coverage_pass": pl.Int32(),
    "coverage_tags": pl.List(pl.String),
}


def _reads(options: SimpleNamespace) -> list[str]:
    return list(dict.fromkeys([options.tags, *cost_columns(options.unit, options.tokens)]))


def _check(options: SimpleNamespace) -> None:
    check_budget(options)
    refuse_idle(coverage, options, (options.unit == "tokens", "unit: tokens", "tokens"))


@stage(version=1, scope="set", reads=_reads, adds=ADDS, check=_check)
def coverage(
    ctx: Context,
    rows: Records,
    *,
    budget: int,
    unit: Unit = "rows",
    tags: str = "tags",
    tokens: str = "tokens",
) -> pl.DataFrame:
    """Keep rows that bring new tags, those of many tags first.

    budget: how much to keep in all, in rows or tokens; never exceeded, and in rows
        met exactly where enough rows have tags. In tokens, a row that no longer
        fits is passed over.
    tags: the column of tags. A tag named twice in a row counts once; rows of
        equally many tags are seen in the order of their ids.
    tokens: the column that counts a row's tokens, where `unit` is tokens.

    Adds, to the chosen rows, `coverage_rank` (in the order of choice, from 1),
    `coverage_pass` (from 1) and `coverage_tags`, the tags that were new in that pass.
    Dropped: `missing_tags` (null), `no_tags` (an empty list never brings a tag) and
    `not_selected`, with the number of the row's tags and of the passes made.
    """
    listed = _tag_sets(rows[tags])
    names = listed.explode(empty_as_null=False).drop_nulls().unique().sort()
    coded = listed.cast(pl.List(pl.Enum(names))).list.eval(pl.element().to_physical())
    found = _cover(coded, costs(rows, unit, tokens), budget)
    named = names.to_list()
    texts = pl.Series(
        [[named[c] for c in new] for new in found["new"]], dtype=ADDS["coverage_tags"]
    )
    chosen = found.select(
        "row",
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("coverage_rank"),
        pl.col("pass").alias("coverage_pass"),
        texts.alias("coverage_tags"),
    )
    passes = pl.lit(found["pass"].max() or 0).alias("passes")
    facts = pl.DataFrame({"tags": listed.list.len()}).with_columns(passes)
    facts = facts.with_row_index("row").join(chosen, on="row", how="left", maintain_order="left")
    dropped = pl.col("coverage_rank").is_null()
    reason = (
        pl.when(pl.col("tags").is_null())
        .then(pl.lit("missing_tags"))
        .when(pl.col("tags") == 0)
        .then(pl.lit("no_tags"))
        .otherwise(pl.lit("not_selected"))
    )
    told = pl.struct("tags", "passes").struct.json_encode()
    return facts.select(
        *ADDS,
        pl.when(dropped).then(reason).alias("drop_reason"),
        pl.when(dropped).then(told).alias("evidence"),
    )


def _tag_sets(column: pl.Series) -> pl.Series:
    """Each row's different tags, sorted: List(String), null where the row has no list."""
    if column.dtype == pl.String:
        tag = pl.col(column.name)
        lists = pl.when(tag.is_not_null()).then(pl.concat_list(tag))
        column = column.to_frame().select(lists).to_series()
    if column.dtype not in (pl.List(pl.String), pl.List(pl.Null), pl.Null):
        raise UserError(
            f"the column {column.name!r} holds {column.dtype}, not lists of tags",
            hint="name a column of lists of texts, or of texts",
        )
    return column.cast(pl.List(pl.String)).list.drop_nulls().list.unique().list.sort()


def _cover(tags: pl.Series, prices: NDArray[np.int64], budget: int) -> pl.DataFrame:
    """The chosen rows in their order: `row`, `pass`, `new` (codes of the tags that were new).

    tags: List(UInt32), codes of the different tags of each row.

    The next row that a pass takes is the first one left that has a tag not yet
    covered: the least, over the tags not yet covered, of the first row left with
    that tag. So a pass need not look at the rows that it skips, and as every pass
    covers all tags that are left, the whole costs about as much as the chosen rows
    have tags. Loops, since each choice depends on those before it.
    """
    sizes = tags.list.len().fill_null(0).to_numpy()
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    sets, costs_, rows = tags.to_list(), prices.tolist(), order.tolist()
    queues = _queues(tags, places)
    there = bytearray(b"\\x01" * len(rows))
    found: list[tuple[int, int, list[int]]] = []
    turn = 0
    while queues:
        turn += 1
        before, covered = len(found), set[int]()
        heap = [(queue[-1], tag) for tag, queue in queues.items()]
        heapq.heapify(heap)
        while heap:
            place, tag = heapq.heappop(heap)
            if tag in covered:
                continue
            row = rows[place]
            if there[place] and costs_[row] <= budget:
                new = [code for code in sets[row] if code not in covered]
                covered.update(new)
                budget -= costs_[row]
                found.append((row, turn, new))
            there[place] = 0
            _advance(queues, tag, there)
            if tag not in covered and tag in queues:
                heapq.heappush(heap, (queues[tag][-1], tag))
        if len(found) == before:
            break
        for tag in list(queues):
            _advance(queues, tag, there)
    return pl.DataFrame(
        found, {"row": pl.UInt32, "pass": pl.Int32, "new": pl.List(pl.UInt32)}, orient="row"
    )


def _queues(tags: pl.Series, places: NDArray[np.int64]) -> dict[int, list[int]]:
    """For each tag the places of its rows, the first one last, where it is popped cheaply."""
    rows = pl.DataFrame({"tag": tags, "place": places}).explode("tag").drop_nulls()
    ordered = rows.sort("tag", "place", descending=[False, True])
    lists = ordered.group_by("tag", maintain_order=True).agg("place")
    return dict(zip(lists["tag"].to_list(), lists["place"].to_list(), strict=True))


def _advance(queues: dict[int, list[int]], tag: int, there: bytearray) -> None:
    """Let the tag's queue end with its first row that is left; drop it when there is none."""
    queue = queues[tag]
    while queue and not there[queue[-1]]:
        queue.pop()
    if not queue:
        del queues[tag]
