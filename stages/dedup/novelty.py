"""Novelty: a row is kept only if it is not too similar to any row kept before it.

The filter of Self-Instruct (Wang et al. 2022, arXiv:2212.10560) and of Alpaca, for
a pool that is there already: instructions whose ROUGE-L F1 with an earlier kept one
is above 0.7 go. The generators apply the same rule to what they propose.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._novelty import DropAt, greedy_novelty
from stages._order import order_columns, ordering
from stages._rouge import Vocabulary, tokenize
from stages._text import field_reads, field_text
from stages._verdicts import dropped


def _check(options: SimpleNamespace) -> None:
    if not 0 < options.threshold <= 1:
        raise UserError("threshold must be above 0 and at most 1")


@stage(
    version=1,
    scope="set",
    reads=lambda options: {
        "rows": [*field_reads(options.field), *order_columns(options.order_by)],
        "against": field_reads(options.field),
    },
    check=_check,
)
def novelty(
    ctx: Context,
    rows: Records,
    against: Records | None = None,
    *,
    measure: Literal["rouge_l"] = "rouge_l",
    threshold: float = 0.7,
    drop_at: DropAt = "above",
    stem: bool = False,
    field: Literal["instruction", "response"] = "instruction",
    order_by: str = "id",
) -> pl.DataFrame:
    """Go through the rows in order and drop as `too_similar` what is not new.

    against: rows that count as kept from the start (seeds).
    measure: the F1 of ROUGE-L over lower-cased runs of a-z and 0-9, as float64 bit for
        bit the value of the `rouge_score` package. A text without such tokens (one in
        Chinese) has a score of 0 with every other and is kept: compare those with
        dedup.minhash.
    threshold, drop_at: a row goes if its score is above the threshold, or at it.
    stem: Porter-stem words of more than three letters first, as `rouge_score` can.
    order_by: id, origin or a column. A dropped row does not count against later ones.

    Evidence: `twin`, the id of the most similar row kept before, and `rouge_l`.
    """
    order = ordering(rows, order_by).to_numpy()
    texts = rows.select("id", field_text(field))[order]
    given = 0 if against is None else len(against)
    if against is not None:
        texts = pl.concat([against.select("id", field_text(field)), texts])
    ids = texts["id"].to_list()
    vocabulary = Vocabulary()
    verdicts = greedy_novelty(
        [vocabulary.encode(tokenize(text, stem)) for text in texts["text"]],
        given=given,
        threshold=threshold,
        drop_at=drop_at,
        progress=ctx.progress,
    )
    evidence = {
        int(order[i - given]): {"twin": ids[verdicts.twin[i]], "rouge_l": float(verdicts.score[i])}
        for i in np.flatnonzero(verdicts.twin >= 0)
    }
    return dropped(len(rows), "too_similar", evidence)
