"""Near-duplicates, exactly: every pair whose Jaccard similarity reaches the threshold.

A set-similarity join with prefix and length filters (AllPairs: Bayardo, Ma and
Srikant 2007; PPJoin: Xiao, Wang, Lin and Yu 2008; see `stages.dedup._jaccard.join`) in place of the
approximation by signatures. At a million short rows it is as fast as `dedup.minhash`,
which remains for pools where many rows share most of their rare words.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Files, Records, stage
from stages._text.tokens import Field
from stages.dedup._jaccard.join import prefixes
from stages.dedup._jaccard.near_duplicates import Near, near_check, near_duplicates, near_reads


@stage(version=1, scope="set", reads=near_reads, check=near_check)
def jaccard(
    ctx: Context,
    rows: Records,
    held: Records | Files | None = None,
    *,
    jaccard: float = 0.8,
    ngram: int = 5,
    field: Field = "conversation",
    keep: str = "first",
    order_by: str = "id",
) -> pl.DataFrame:
    """Keep one row of each group of near-duplicates; drop the others as `near_duplicate`.

    held: rows that are there already, or their `dedup.signatures`: they always win
        over `rows`.
    jaccard: the least similarity of near-duplicates, a share of the n-grams of both.
    ngram: words per n-gram. A shorter text is compared whole; an empty one is kept.
    field: the text compared: conversation (all turns), prompt (first user turn with
        its input), instruction (without it), response, or both (prompt and response).
    keep: which row of a group stays: the first in the order, the longest text, or
        best:COLUMN, the one with the highest value; ties go by the order.
    order_by: id, origin or a column.

    Evidence: `twin`, the id of the row kept, and `jaccard`, the similarity with it.
    A row may belong to the group through others only. If so, `jaccard` is below the
    threshold, and `through` and `through_jaccard` name a row that links it.
    """
    return near_duplicates(rows, held, Near(jaccard, ngram, field, keep, order_by), prefixes)
