"""Novelty: a row is kept only if it is not too similar to any row kept before it.

The filter of Self-Instruct (Wang et al. 2022, arXiv:2212.10560) and of Alpaca, for
a pool that exists already: instructions whose ROUGE-L F1 with an earlier kept one
is above 0.7 are dropped. The generators apply the same rule to what they propose. With
`method: cosine` the same rule compares vectors, as in DEITA's filter (Liu et al.
2023, arXiv:2312.15685), where a cosine above 0.9 is too similar.

By default neither method sees that a number makes another problem: of 196 problems of
GSM8K, each with a copy in other numbers, one of every pair is dropped. Where that matters,
`dedup.jaccard` keeps 95% of the copies.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._common.verdicts import dropped
from stages._text.tokens import field_reads
from stages.dedup._order import order_columns, ordering
from stages.dedup.novelty.cosine import Cosine, drop_by_cosine
from stages.dedup.novelty.rouge_l import RougeL, drop_by_rouge_l

Method = Annotated[RougeL | Cosine, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    match options.method:
        case Cosine(vector=vector):
            compared = [vector]
        case RougeL(field=field, view=view):
            compared = field_reads(field, view)
    columns = dict.fromkeys([*compared, *order_columns(options.order_by)])
    return {"rows": list(columns), "held": compared}


@stage(version=3, scope="set", reads=_reads)
def novelty(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    method: Method = RougeL(),
    inclusive: bool = False,
    order_by: str = "id",
) -> pl.DataFrame:
    """Go through the rows in order and drop as `too_similar` those that are not new.

    A dropped row does not count against later ones.

    Args:
        rows: The rows to judge.
        held: Rows that count as kept from the start (seeds).
        method: `rouge_l` (Self-Instruct) compares words, `cosine` (DEITA) vectors.
        inclusive: Drop at the method's threshold, too, not only above it.
        order_by: id, origin or a column; ` desc` after it reverses the order.

    Returns:
        The verdicts. Evidence: `duplicate_of`, the id of the most similar row kept before,
        and `rouge_l` or `cosine`.

    Example:
        ```yaml
        novel:
          uses: dedup.novelty
          needs: {rows: pool, held: seeds}
          with: {method: {name: rouge_l, threshold: 0.7, field: prompt}}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> messages = [[{"role": "user", "content": text}] for text in
        ...             ("Name three rivers of Asia", "Name four rivers of Asia", "Sing")]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "messages": messages})
        >>> rows = rows.with_columns(input_start=pl.lit(None, pl.Int32))
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> novelty(ctx, rows, method=RougeL(threshold=0.7))["evidence"].to_list()
        [None, '{"duplicate_of": "a", "rouge_l": 0.8000000000000002}', None]
    """
    order = ordering(rows, order_by).to_numpy()
    match method:
        case RougeL():
            evidence = drop_by_rouge_l(rows, held, order, method, inclusive, ctx.progress)
        case Cosine():
            evidence = drop_by_cosine(rows, held, order, method, inclusive, ctx.progress)
    return dropped(len(rows), "too_similar", evidence)
