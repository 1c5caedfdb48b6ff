"""Near-duplicates: MinHash finds candidate pairs, the true Jaccard similarity decides.

Broder 1997; the banding after Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3. The only approximation is a pair that shares no band: at the
threshold itself that happens with a probability of at most
`stages.dedup._jaccard.minhash.MAX_MISS`, above it much more rarely, and the group may still
be connected by other pairs. `dedup.jaccard` is the same without the approximation.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Files, RecordParts, Records, stage
from pipeline.types import Count, PositiveFraction
from schemas.turns import View
from stages._text.tokens import Field
from stages.dedup._jaccard.minhash import band_buckets, bands
from stages.dedup._jaccard.near_duplicates import (
    Keep,
    SharedOptions,
    drop_near_duplicates,
    reads,
)


def _check(options: SimpleNamespace) -> None:
    if bands(options.num_perm, options.threshold) is None:
        raise OptionError(
            "num_perm",
            f"must be larger to find pairs of similarity {options.threshold}, "
            f"got {options.num_perm}",
            hint="raise num_perm or threshold",
        )


@stage(version=3, scope="set", reads=reads, check=_check)
def minhash(
    ctx: Context,
    rows: RecordParts,
    held: Records | Files | None = None,
    *,
    threshold: PositiveFraction = 0.8,
    ngram_size: Count = 5,
    num_perm: Count = 128,
    field: Field = "conversation",
    view: View = "calls",
    keep: Keep = "first",
    order_by: str = "id",
    seed: int = 0,
) -> pl.DataFrame:
    """Keep one row of each group of near-duplicates; drop the others as `near_duplicate`.

    Args:
        rows: As in `dedup.jaccard`.
        held: As in `dedup.jaccard`.
        threshold: As in `dedup.jaccard`: smallest Jaccard similarity of near-duplicates.
        ngram_size: As in `dedup.jaccard`: words per n-gram.
        num_perm: Length of the signatures; more find the same pairs with fewer checks.
        field: As in `dedup.jaccard`: the text compared.
        view: As in `dedup.jaccard`: what of a turn is compared.
        keep: As in `dedup.jaccard`: `first`, `longest` or `best:COLUMN`.
        order_by: As in `dedup.jaccard`: id, origin or a column.
        seed: Of the permutations.

    Returns:
        The verdicts, with the evidence of `dedup.jaccard`.

    Example:
        ```yaml
        unique:
          uses: dedup.minhash
          needs: pool
          with: {threshold: 0.8}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> messages = [[{"role": "user", "content": text}] for text in
        ...             ("Name a river in Asia", "Name a long river in Asia", "Sing")]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "messages": messages})
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> minhash(ctx, rows, threshold=0.4, ngram_size=2)["evidence"].to_list()
        [None, '{"duplicate_of":"a","jaccard":0.5}', None]
    """
    buckets = partial(band_buckets, num_perm=num_perm, seed=seed)
    options = SharedOptions(threshold, ngram_size, field, view, keep, order_by)
    return drop_near_duplicates(rows, held, options, buckets)
