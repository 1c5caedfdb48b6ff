"""Novelty by ROUGE-L: the filter of Self-Instruct (Wang et al. 2022, arXiv:2212.10560)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import PositiveFraction, option_group
from schemas.turns import View
from stages._text.rouge import Vocabulary, tokenize
from stages._text.tokens import field_text, group_by_numbers
from stages.dedup.novelty.greedy_filter import greedy_novelty


@option_group
class RougeL:
    """The F1 of ROUGE-L over lower-cased runs of a-z and 0-9.

    As float64 bit for bit the value of the `rouge_score` package. A text without such
    tokens (one in Chinese) has a score of 0 with every other and is kept: compare those
    by cosine, or with dedup.jaccard.

    Args:
        threshold: A row is dropped if its score with a kept row is above this; the paper's
            value is 0.7.
        field: The text that is compared; prompt is the instruction with its input, which
            rows of one instruction over different inputs need.
        view: What of a response is compared: its content, the tool calls too, or all.
        stem: Porter-stem words of more than three letters first, as `rouge_score` can.
        compare_numbers: Texts that hold different numbers (in digits) are never too similar:
            word problems that differ in nothing else are different. The paper has no such
            rule.
    """

    name: Literal["rouge_l"] = "rouge_l"
    threshold: PositiveFraction = 0.7
    field: Literal["instruction", "prompt", "response"] = "instruction"
    view: View = "calls"
    stem: bool = False
    compare_numbers: bool = False


def drop_by_rouge_l(
    rows: pl.DataFrame,
    held: pl.DataFrame | None,
    order: NDArray[Any],
    method: RougeL,
    inclusive: bool,
    progress: Callable[[int, int], None],
) -> dict[int, dict[str, Any]]:
    """The evidence of each row to drop, by its position in the table.

    Args:
        rows: The rows to judge.
        held: Rows that count as kept.
        order: Positions of the rows in the order in which they are judged.
        method: The options.
        inclusive: Drop at the threshold, too.
        progress: Called with the rows done and their number.
    """
    texts = rows.select("id", field_text(method.field, method.view))[order]
    if held is not None:
        texts = pl.concat([held.select("id", field_text(method.field, method.view)), texts])
    n_held = len(texts) - len(rows)
    ids = texts["id"].to_list()
    vocabulary = Vocabulary()
    sequences = [vocabulary.encode(tokenize(text, method.stem)) for text in texts["text"]]
    by_numbers = method.compare_numbers
    groups = group_by_numbers(texts["text"]) if by_numbers else [np.arange(len(texts))]
    evidence: dict[int, dict[str, Any]] = {}
    for group in groups:
        verdicts = greedy_novelty(
            [sequences[i] for i in group],
            threshold=method.threshold,
            inclusive=inclusive,
            n_reference=int(np.searchsorted(group, n_held)),
            progress=None if by_numbers else progress,
        )
        for i in np.flatnonzero(verdicts.duplicate_of >= 0):
            kept, score = ids[group[verdicts.duplicate_of[i]]], float(verdicts.score[i])
            evidence[int(order[group[i] - n_held])] = {"duplicate_of": kept, "rouge_l": score}
    return evidence
