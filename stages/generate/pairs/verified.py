"""Correct answers against incorrect ones to the same prompt.

AutoIF: Self-play with Execution Feedback (Dong et al. 2024, arXiv:2406.13542; QwenLM/AutoIF). As in
the paper: chosen are answers that pass more than half of the checkers, rejected are those that pass
none, two of each at most: `correct: pass_rate > 0.5, incorrect: pass_rate = 0, max_chosen: 2,
max_rejected: 2` (the authors' code takes exactly half too: `>=`).

Self-Explore (Hwang et al. 2024, arXiv:2404.10346; hbin0701/Self-Explore). As in the authors' code:
for each correct solution, shortest first, the incorrect one that is farthest from it, each once:
`match: farthest`. Ours: one least distance in the place of three that are tried in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.types import Count, Fraction, option_group
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
class Verified:
    """Correct against incorrect answers to one prompt.

    Drops a prompt as `unverified` (no answer has a verdict), `no_positive` or `no_negative`,
    and of `match: farthest` as `too_alike`.

    Args:
        correct: A column of booleans, or an SQL expression that gives them, such as
            `pass_rate > 0.5`.
        incorrect: The same for incorrect answers; null: those that are not correct. An answer
            without a verdict is neither.
        max_chosen: Correct answers of a prompt, at most, drawn by the seed.
        max_rejected: Incorrect ones.
        match: Each correct one with each incorrect one (`cross`), or with the one that is
            `farthest` from it in edit distance, shortest first, each once.
        min_distance: Edit distance of a pair, as a part of the longer answer's length, at
            least; for `farthest`.
    """

    name: Literal["verified"] = "verified"
    correct: Expression
    incorrect: Expression | None = None
    max_chosen: Count = 1
    max_rejected: Count = 1
    match: Literal["cross", "farthest"] = "cross"
    min_distance: Fraction = 0.3


def verified_pairs(answers: Sequence[Answer], method: Verified, drawn: Drawn) -> list[Proposal]:
    """The proposals of `Verified`.

    Args:
        answers: All answers; their score is 1 for a correct one, 0 for an incorrect one.
        method: The options of the method.
        drawn: Decides which of them are taken.
    """
    proposals: list[Proposal] = []
    for group in by_prompt(answers).values():
        order = sorted(group, key=lambda answer: (drawn(answer.id), answer.id))
        right = [answer for answer in order if answer.score == 1]
        wrong = [answer for answer in order if answer.score == 0]
        if not right and not wrong:
            proposals.append(without_pair(group, "unverified"))
        elif not right:
            proposals.append(without_pair(group, "no_positive"))
        elif not wrong:
            proposals.append(without_pair(group, "no_negative"))
        elif method.match == "farthest":
            proposals += _farthest(right, wrong, method)
        else:
            proposals += [
                paired(one, other)
                for one in right[: method.max_chosen]
                for other in wrong[: method.max_rejected]
            ]
    return proposals


def _farthest(right: list[Answer], wrong: list[Answer], method: Verified) -> list[Proposal]:
    from rapidfuzz.distance import Levenshtein

    proposals = []
    unused = list(wrong)
    shortest = sorted(right, key=lambda answer: (len(answer.text), answer.id))
    for answer in shortest[: method.max_chosen]:
        if not unused:
            break
        distances = [Levenshtein.normalized_distance(answer.text, other.text) for other in unused]
        distance = max(distances)
        if distance < method.min_distance:
            proposals.append(without_pair([answer, *unused], "too_alike", distance=distance))
            continue
        other = unused.pop(distances.index(distance))
        proposals.append(paired(answer, other, distance=distance))
    return proposals
