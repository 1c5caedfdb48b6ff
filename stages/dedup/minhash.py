"""Near-duplicates: MinHash finds candidate pairs, the true Jaccard similarity decides.

Broder 1997; the banding after Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3. The only approximation is a pair that shares no band: at the
threshold itself that happens with a probability of at most `stages.dedup._jaccard.minhash.MISS`,
above it much more rarely, and the component may still hold together through other
pairs. `dedup.jaccard` does the same without any.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Files, Records, stage
from stages._text.tokens import Field
from stages.dedup._jaccard.minhash import banded, bands
from stages.dedup._jaccard.near_duplicates import Near, near_check, near_duplicates, near_reads


def _check(options: SimpleNamespace) -> None:
    near_check(options)
    if bands(options.permutations, options.jaccard) is None:
        raise UserError(
            f"{options.permutations} permutations are too few to find pairs of "
            f"similarity {options.jaccard}",
            hint="raise permutations, or jaccard",
        )


@stage(version=2, scope="set", reads=near_reads, check=_check)
def minhash(
    ctx: Context,
    rows: Records,
    held: Records | Files | None = None,
    *,
    jaccard: float = 0.8,
    ngram: int = 5,
    permutations: int = 128,
    field: Field = "conversation",
    keep: str = "first",
    order_by: str = "id",
    seed: int = 0,
) -> pl.DataFrame:
    """Keep one row of each group of near-duplicates; drop the others as `near_duplicate`.

    held: rows that are there already, or their `dedup.signatures`: they always win
        over `rows`.
    jaccard: the least similarity of near-duplicates, a share of the n-grams of both.
    ngram: words per n-gram. A shorter text is compared whole; an empty one is kept.
    permutations: length of the signatures; more find the same pairs with fewer checks.
    field: the text compared: conversation (all turns), prompt (first user turn with
        its input), instruction (without it), response, or both (prompt and response).
    keep: which row of a group stays: the first in the order, the longest text, or
        best:COLUMN, the one with the highest value; ties go by the order.
    order_by: id, origin or a column.

    Evidence: `twin`, the id of the row kept, and `jaccard`, the similarity with it.
    A row may belong to the group through others only. If so, `jaccard` is below the
    threshold, and `through` and `through_jaccard` name a row that links it.
    """
    buckets = partial(banded, permutations=permutations, seed=seed)
    return near_duplicates(rows, held, Near(jaccard, ngram, field, keep, order_by), buckets)
