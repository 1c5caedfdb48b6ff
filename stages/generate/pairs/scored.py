"""The best answer to a prompt against a worse one, by a score.

The reward model's or judge's best and worst of several samples (Self-Rewarding: Yuan et al.
2024, arXiv:2401.10020); the best against a random other one (Zephyr: Tunstall et al. 2023,
arXiv:2310.16944); with `length_penalty` TPO (Wu et al. 2024, arXiv:2410.10630), whose judge
sees the answer alone while the pair keeps the thoughts: reasoning stands beside content
here. Okapi (Lai et al. 2023, arXiv:2307.16039) ranks after translation: score the
translations and join the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pipeline.types import Fraction, NonNegativeFloat, option_group
from schemas.turns import turn_text
from stages._selection.scores import Expression
from stages.generate.pairs.proposals import (
    Answer,
    Drawn,
    Proposal,
    best_first,
    by_prompt,
    paired,
    without_pair,
)


@option_group
class Scored:
    """The best answer to each prompt against a worse one.

    Drops a prompt as `one_answer`, `missing_score` (fewer than two answers have one), `tie`
    (all scores are equal) or `margin`.

    Args:
        score: A column or an SQL expression, such as `judge_score`.
        descending: Whether large scores are the best ones.
        rejected: The `worst` answer, a `random` one of those that are worse, or `all` of
            them, a pair each.
        min_margin: How far apart the scores of a pair must be, at least; equal ones never
            make a pair.
        length_penalty: TPO's rho, 0 to 0.5 in the paper: from the score, its length in
            characters times this is taken, both standardized over the answers to the prompt.
            The pair's scores are then these.
    """

    name: Literal["scored"] = "scored"
    score: Expression
    descending: bool = True
    rejected: Literal["worst", "random", "all"] = "worst"
    min_margin: NonNegativeFloat = 0.0
    length_penalty: Fraction = 0.0


def scored_pairs(answers: Sequence[Answer], method: Scored, drawn: Drawn) -> list[Proposal]:
    """The proposals of `Scored`.

    Args:
        answers: All answers with their scores, large ones the best.
        method: The options of the method.
        drawn: Decides on the random one.
    """
    proposals = []
    for group in by_prompt(answers).values():
        ranked = best_first(_penalized(group, method.length_penalty))
        best = ranked[0].score if ranked else None
        worse = [answer for answer in ranked if answer.score != best]
        allowed = [a for a in worse if (best or 0.0) - (a.score or 0.0) >= method.min_margin]
        if len(group) < 2:
            proposals.append(without_pair(group, "one_answer"))
        elif len(ranked) < 2:
            proposals.append(without_pair(group, "missing_score", scored=len(ranked)))
        elif not worse:
            proposals.append(without_pair(ranked, "tie", score=best))
        elif not allowed:
            margin = (best or 0.0) - (worse[-1].score or 0.0)
            proposals.append(without_pair(ranked, "margin", margin=margin))
        else:
            notes = {"answers": len(ranked)}
            for other in _rejected(allowed, method, drawn):
                proposals.append(paired(ranked[0], other, **notes))
    return proposals


def _rejected(allowed: list[Answer], method: Scored, drawn: Drawn) -> list[Answer]:
    if method.rejected == "random":
        return [min(allowed, key=lambda answer: (drawn(answer.id), answer.id))]
    return allowed if method.rejected == "all" else allowed[-1:]


def _penalized(answers: Sequence[Answer], penalty: float) -> Sequence[Answer]:
    """The answers with penalized scores; as they are without a penalty."""
    scored = [answer for answer in answers if answer.score is not None]
    if not penalty or len(scored) < 2:
        return answers
    values = _standardized([answer.score or 0.0 for answer in scored])
    lengths = _standardized([float(len(turn_text(a.turns[-1], "calls"))) for a in scored])
    return [
        replace(answer, score=float(value - penalty * length))
        for answer, value, length in zip(scored, values, lengths, strict=True)
    ]


def _standardized(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values)
    deviation = float(array.std())
    return (array - array.mean()) / deviation if deviation else np.zeros(len(array))
