"""Novelty: a row is kept only if it is not too similar to any row kept before it.

The filter of Self-Instruct (Wang et al. 2022, arXiv:2212.10560) and of Alpaca, for
a pool that is there already: instructions whose ROUGE-L F1 with an earlier kept one
is above 0.7 go. The generators apply the same rule to what they propose. With
`measure: cosine` the same rule compares vectors, as in DEITA's filter (Liu et al.
2023, arXiv:2312.15685), where a cosine above 0.9 is too near.

Neither measure sees that a number makes another problem: of 196 problems of GSM8K,
each with a copy in other numbers, one of every pair goes. Where that matters,
`dedup.jaccard` keeps 95% of the copies.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._common.verdicts import dropped
from stages._text.rouge import Vocabulary, tokenize
from stages._text.tokens import field_reads, field_text, same_numbers
from stages._vectors.arrays import to_device
from stages._vectors.greedy_dedup import DropAt, greedy_dedup
from stages.dedup._novelty.greedy_filter import greedy_novelty
from stages.dedup._order import order_columns, ordering
from stages.dedup._twins import lined_up, twins

Field = Literal["instruction", "prompt", "response"]

THRESHOLDS: Final = {"rouge_l": 0.7, "cosine": 0.9}


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    cosine = options.measure == "cosine"
    compared = [options.vector] if cosine else field_reads(options.field)
    wanted = dict.fromkeys([*compared, *order_columns(options.order_by)])
    return {"rows": list(wanted), "against": compared}


def _check(options: SimpleNamespace) -> None:
    if options.threshold is not None and not 0 < options.threshold <= 1:
        raise UserError("threshold must be above 0 and at most 1")
    if options.measure == "cosine" and options.numbers:
        raise UserError("numbers: novelty by cosine does not look at them", hint="dedup.semantic")
    if options.measure == "cosine" and options.stem:
        raise UserError("stem: words are compared by rouge_l only", hint="leave stem out")
    refuse_idle(
        *(novelty, options),
        (options.measure == "rouge_l", "measure: rouge_l", "field"),
        (options.measure == "cosine", "measure: cosine", "vector"),
    )


@stage(version=2, scope="set", reads=_reads, check=_check)
def novelty(
    ctx: Context,
    rows: Records,
    against: Records | None = None,
    *,
    measure: Literal["rouge_l", "cosine"] = "rouge_l",
    threshold: float | None = None,
    drop_at: DropAt = "above",
    stem: bool = False,
    field: Field = "instruction",
    vector: str = "vector",
    numbers: bool = False,
    order_by: str = "id",
) -> pl.DataFrame:
    """Go through the rows in order and drop as `too_similar` what is not new.

    against: rows that count as kept from the start (seeds).
    measure: rouge_l, the F1 of ROUGE-L over lower-cased runs of a-z and 0-9, as float64
        bit for bit the value of the `rouge_score` package. A text without such tokens
        (one in Chinese) has a score of 0 with every other and is kept: compare those
        by cosine, or with dedup.jaccard. Or cosine, between the rows' vectors; a
        zero vector is near nothing, and a missing one is an error.
    threshold, drop_at: a row goes if its score is above the threshold, or at it. null:
        0.7 for rouge_l (Self-Instruct), 0.9 for cosine (DEITA).
    stem: Porter-stem words of more than three letters first, as `rouge_score` can.
    field: the text that rouge_l compares; prompt is the instruction with its input, which
        rows of one instruction over different inputs need.
    vector: the column of vectors that cosine compares, on both edges.
    numbers: texts that hold different numbers (in digits) are never too similar: word
        problems that differ in nothing else are different. The paper has no such rule.
    order_by: id, origin or a column; ` desc` behind it turns the order round. A dropped
        row does not count against later ones.

    Evidence: `twin`, the id of the most similar row kept before, and `rouge_l` or `cosine`.
    """
    order = ordering(rows, order_by).to_numpy()
    limit = THRESHOLDS[measure] if threshold is None else threshold
    if measure == "rouge_l":
        evidence = _by_words(ctx, rows, against, order, limit, drop_at, stem, field, numbers)
    else:
        ids, vectors = lined_up(rows, against, order, vector)
        given = len(ids) - len(rows)
        found = greedy_dedup(
            to_device(vectors),
            given=given,
            threshold=limit,
            drop_at=drop_at,
            reach=limit,
            progress=ctx.progress,
        )
        evidence = twins(found, ids, order)
    return dropped(len(rows), "too_similar", evidence)


def _by_words(
    ctx: Context,
    rows: pl.DataFrame,
    against: pl.DataFrame | None,
    order: NDArray[Any],
    threshold: float,
    drop_at: DropAt,
    stem: bool,
    field: Field,
    numbers: bool,
) -> dict[int, dict[str, Any]]:
    """The twin and the score of each row that goes, by its place in the table."""
    texts = rows.select("id", field_text(field))[order]
    if against is not None:
        texts = pl.concat([against.select("id", field_text(field)), texts])
    given = len(texts) - len(rows)
    ids = texts["id"].to_list()
    vocabulary = Vocabulary()
    sequences = [vocabulary.encode(tokenize(text, stem)) for text in texts["text"]]
    groups = same_numbers(texts["text"]) if numbers else [np.arange(len(texts))]
    evidence: dict[int, dict[str, Any]] = {}
    for group in groups:
        verdicts = greedy_novelty(
            [sequences[i] for i in group],
            given=int(np.searchsorted(group, given)),
            threshold=threshold,
            drop_at=drop_at,
            progress=None if numbers else ctx.progress,
        )
        for i in np.flatnonzero(verdicts.twin >= 0):
            twin, score = ids[group[verdicts.twin[i]]], float(verdicts.score[i])
            evidence[int(order[group[i] - given])] = {"twin": twin, "rouge_l": score}
    return evidence
