"""A revised answer against the one that it was made from.

Selective Reflection-Tuning (Li et al. 2024, arXiv:2402.10110) and its kind give such rows; of
refined answers, pairs are more alike than independent samples are (SPaR: Cheng et al. 2024,
arXiv:2412.11605). The pairs are ours: those papers tune on the revised rows, or search for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.types import NonNegativeFloat, option_group
from stages._selection.scores import Expression
from stages.generate.pairs.proposals import Answer, Proposal, ids, paired, without_pair


@option_group
class Revised:
    """A row against its parent, wherever both have one prompt.

    Rows without parents are originals. A revised row is dropped as `no_original` (its
    parents are not here), `other_prompt`, `missing_score`, or `not_better`.

    Args:
        score: A column or an SQL expression by which the revision must be better; null to
            trust every revision.
        descending: Whether large scores are the best ones.
        min_margin: By how much it must be better, at least.
    """

    name: Literal["revised"] = "revised"
    score: Expression | None = None
    descending: bool = True
    min_margin: NonNegativeFloat = 0.0


def revised_pairs(
    answers: Sequence[Answer], originals: Sequence[Answer], method: Revised
) -> list[Proposal]:
    """The proposals of `Revised`.

    Args:
        answers: The revised rows, and originals where they are among them.
        originals: Further rows that they may be made from.
        method: The options of the method.
    """
    known = ids([*originals, *answers])
    return [_pair(answer, known, method) for answer in answers if answer.parents]


def _pair(answer: Answer, known: Mapping[str, Answer], method: Revised) -> Proposal:
    parents = [known[parent] for parent in answer.parents if parent in known]
    if not parents:
        return without_pair([answer], "no_original", parents=answer.parents)
    original = next((parent for parent in parents if parent.key == answer.key), None)
    if original is None:
        return without_pair([answer], "other_prompt", parents=answer.parents)
    if method.score is not None:
        if answer.score is None or original.score is None:
            return without_pair([answer, original], "missing_score")
        margin = answer.score - original.score
        if margin <= 0 or margin < method.min_margin:
            return without_pair([answer, original], "not_better", margin=margin)
    return paired(answer, original)
