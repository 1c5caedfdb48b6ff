"""Signatures of rows for later deduplication: new pools are compared with them.

A signature is the set of hashes of a row's n-grams, from which the Jaccard similarity
with any other row is exact. With it on the edge `held` of `dedup.jaccard` or
`dedup.minhash`, the texts of the rows held are not needed again.
"""

from __future__ import annotations

from pipeline.context import Context
from pipeline.stage import RecordParts, stage
from pipeline.types import Count
from schemas.turns import View
from stages._text.tokens import Field, field_reads
from stages.dedup._jaccard.near_duplicates import write_signatures


@stage(version=2, scope="set", reads=lambda options: field_reads(options.field, options.view))
def signatures(
    ctx: Context,
    rows: RecordParts,
    *,
    ngram_size: Count = 5,
    field: Field = "conversation",
    view: View = "calls",
) -> None:
    """Write the set of n-gram hashes of every row.

    Files: `signatures.parquet` (id; shingles, sorted 64-bit hashes, none for an empty
    text) and `signatures.json` (format, field, view, ngram, rows).

    Args:
        rows: The rows to hash.
        ngram_size: Words per n-gram, as in the stage that reads the signatures.
        field: The text, as in the stage that reads the signatures.
        view: What of a turn is hashed, as in the stage that reads the signatures.

    Example:
        ```yaml
        hashed:
          uses: dedup.signatures
          needs: released
          with: {ngram_size: 5}
        ```

        >>> import tempfile, polars as pl
        >>> from pathlib import Path
        >>> rows = pl.DataFrame({"id": ["a"], "messages": [[{"role": "user", "content": "Sing"}]]})
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> signatures(ctx, rows, ngram_size=2)
        >>> sorted(path.name for path in ctx.files.iterdir())
        ['signatures.json', 'signatures.parquet']
    """
    write_signatures(ctx.files, rows, field, view, ngram_size)
