"""Simulated annotators, one of which is drawn for each pair.

AlpacaFarm: A Simulation Framework for Methods that Learn from Human Feedback (Dubois et al. 2023,
arXiv:2305.14387; tatsu-lab/alpaca_farm). As in the paper: of 13 simulated annotators one judges
each pair; for training, not for evaluation, a quarter of the labels is flipped, which is how much
single people disagree with the majority. Ours: an annotator is any score of the rows, such as
those of `score.judge` with several models or prompts; a tie makes no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pipeline.types import Fraction, NonEmpty, option_group
from stages._selection.scores import Expression
from stages.generate.pairs.proposals import (
    Answer,
    Drawn,
    Proposal,
    by_prompt,
    paired,
    without_pair,
)


@option_group
class Simulated:
    """Two answers to each prompt, compared by an annotator that is drawn (AlpacaFarm).

    Drops a prompt as `one_answer`, `missing_score` or `tie`.

    Args:
        annotators: The score that each annotator gives: columns or SQL expressions.
        flip: The fraction of pairs whose sides are exchanged; 0.25 in the paper, for
            training alone.
    """

    name: Literal["simulated"] = "simulated"
    annotators: Annotated[tuple[Expression, ...], NonEmpty]
    flip: Fraction = 0.25


def simulated_pairs(
    answers: Sequence[Answer],
    scores: Mapping[str, Mapping[str, float | None]],
    method: Simulated,
    drawn: Drawn,
) -> list[Proposal]:
    """The proposals of `Simulated`.

    Args:
        answers: All answers.
        scores: For each annotator the score of each answer, by id.
        method: The options of the method.
        drawn: Decides on the answers, the annotator and the flips.
    """
    proposals = []
    for key, group in by_prompt(answers).items():
        if len(group) < 2:
            proposals.append(without_pair(group, "one_answer"))
            continue
        two = sorted(group, key=lambda answer: (drawn(answer.id), answer.id))[:2]
        number = int(drawn(f"annotator {key}") * len(method.annotators))
        annotator = method.annotators[number]
        one, other = (replace(answer, score=scores[annotator][answer.id]) for answer in two)
        if one.score is None or other.score is None:
            proposals.append(without_pair(two, "missing_score", annotator=annotator))
        elif one.score == other.score:
            proposals.append(without_pair(two, "tie", annotator=annotator, score=one.score))
        else:
            better, worse = (one, other) if one.score > other.score else (other, one)
            flipped = drawn(f"flip {key}") < method.flip
            sides = (worse, better) if flipped else (better, worse)
            proposals.append(paired(*sides, annotator=annotator, flipped=flipped))
    return proposals
