"""Near-duplicates, exactly: every pair whose Jaccard similarity reaches the threshold.

A set-similarity join with prefix and length filters (AllPairs: Bayardo, Ma and
Srikant 2007; PPJoin: Xiao, Wang, Lin and Yu 2008; see `stages._text.join`) in place of
the approximation by signatures. At a million short rows it is as fast as `dedup.minhash`,
which remains for pools where many rows share most of their rare words.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Files, RecordParts, Records, stage
from pipeline.types import Count, PositiveFraction
from schemas.turns import View
from stages._text.join import prefixes
from stages._text.tokens import Field
from stages.dedup._jaccard.near_duplicates import (
    Keep,
    SharedOptions,
    drop_near_duplicates,
    reads,
)


@stage(version=2, scope="set", reads=reads)
def jaccard(
    ctx: Context,
    rows: RecordParts,
    held: Records | Files | None = None,
    *,
    threshold: PositiveFraction = 0.8,
    ngram_size: Count = 5,
    field: Field = "conversation",
    view: View = "calls",
    keep: Keep = "first",
    order_by: str = "id",
) -> pl.DataFrame:
    """Keep one row of each group of near-duplicates; drop the others as `near_duplicate`.

    Args:
        rows: The rows to deduplicate.
        held: Rows that exist already, or their `dedup.signatures`; they are kept before
            all of `rows`.
        threshold: Smallest Jaccard similarity of near-duplicates: common n-grams divided
            by the n-grams of both.
        ngram_size: Words per n-gram. A shorter text is compared as one n-gram; an empty one
            is kept.
        field: The text compared: conversation (all turns), prompt (first user turn with
            its input), instruction (without it), response, or both (prompt and response).
        view: What of a turn is compared: its content, the tool calls too, or all (its
            reasoning, and with a conversation the definitions of its tools).
        keep: The row of a group that is kept: `first` in the order, `longest` text, or
            `best:COLUMN`, the highest value of a column; ties are broken by the order.
        order_by: id, origin or a column; ` desc` after it reverses the order.

    Returns:
        The verdicts. Evidence: `duplicate_of`, the id of the row kept, and `jaccard`, the
        similarity with it. A row may belong to the group through others only. If so,
        `jaccard` is below the threshold, and `through` and `through_jaccard` name a row
        that links it.

    Example:
        ```yaml
        unique:
          uses: dedup.jaccard
          needs: pool
          with: {threshold: 0.8, keep: longest}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> messages = [[{"role": "user", "content": text}] for text in
        ...             ("Name a river in Asia", "Name a long river in Asia", "Sing")]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "messages": messages})
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> jaccard(ctx, rows, threshold=0.4, ngram_size=2)["evidence"].to_list()
        [None, '{"duplicate_of":"a","jaccard":0.5}', None]
    """
    options = SharedOptions(threshold, ngram_size, field, view, keep, order_by)
    return drop_near_duplicates(rows, held, options, prefixes)
