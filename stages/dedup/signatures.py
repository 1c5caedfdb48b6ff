"""Signatures of rows for near-duplicates to come: what a later pool is compared with.

A signature is the set of hashes of a row's n-grams, from which the Jaccard similarity
with any other row is exact. With it on the edge `held` of `dedup.jaccard` or
`dedup.minhash`, the texts of the rows held are not needed again.
"""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._text.tokens import Field, field_reads
from stages.dedup._jaccard.near_duplicates import write_signatures


def _check(options: SimpleNamespace) -> None:
    if options.ngram < 1:
        raise UserError("ngram must be at least 1")


@stage(version=1, scope="set", reads=lambda options: field_reads(options.field), check=_check)
def signatures(
    ctx: Context,
    rows: Records,
    *,
    ngram: int = 5,
    field: Field = "conversation",
) -> None:
    """Write the set of n-gram hashes of every row.

    ngram, field: as in the stage that they are for; it refuses others.

    Files: `signatures.parquet` (id; shingles, sorted 64-bit hashes, none for an empty
    text) and `signatures.json` (format, field, ngram, rows).
    """
    write_signatures(ctx.files, rows, field, ngram)
