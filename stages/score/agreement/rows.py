"""Votes that are rows: the answers to one prompt that are in the table.

Samples of `generate.respond` vote without being asked for anew: self-consistency (Wang et al.
2022, arXiv:2203.11171). A record that was given several times is one row with as many origins, and
as many votes.

DS weight: Importance Weighting Can Help Large Language Models Self-Improve (Jiang et al. 2024,
arXiv:2408.09849; rubickkcibur/IWSI).

As in the authors' code: of 15 samples of a question those count whose answer is the majority's
(`agreement_is_majority`), and in the mode by entropy a question is dropped where its normalised
entropy (`agreement_entropy`) exceeds a threshold.

Ours: of equally frequent answers the first in alphabetical order wins, in the code the one that
was seen first; answers keep their decimals, which `int(float())` in the code takes off. The weight
itself is a likelihood, and not of this stage.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import polars as pl

from pipeline.types import option_group
from schemas.records import prompt_id, response
from stages.score.agreement.comparisons import Comparison, Vote
from stages.score.agreement.measures import Measured, counted


@option_group
class Rows:
    """The other rows with the same prompt as votes (self-consistency, LMSI, DS weight).

    `agreement` is that of the other rows with this one; majority, share and entropy are those of
    all rows of the prompt.

    Args:
        name: "rows".
    """

    name: Literal["rows"] = "rows"


def measure_rows(rows: pl.DataFrame, comparison: Comparison) -> list[tuple[Measured, int]]:
    """What the rows of each prompt say of each of them, and how many votes there are.

    Args:
        rows: Records.
        comparison: How answers are compared.
    """
    texts = rows.select(response()).to_series().to_list()
    weights = rows["origins"].list.len().fill_null(0).clip(1).to_list()
    groups: dict[str, list[int]] = {}
    for row, (messages, tools) in enumerate(rows.select("messages", "tools").iter_rows()):
        groups.setdefault(prompt_id(messages or [], tools), []).append(row)
    results: list[tuple[Measured, int]] = [(Measured(), 0)] * len(rows)
    for members in groups.values():
        read = {row: comparison.read(Vote(texts[row])) for row in members if texts[row]}
        votes: Counter[str] = Counter()
        for row, answer in read.items():
            if answer is not None:
                votes[answer] += weights[row]
        group, asked = counted(comparison, votes), sum(weights[row] for row in members)
        # Equal answers are compared once: rows of a prompt are many, their answers mostly few.
        measured = {a: _of_row(comparison, group, votes, a) for a in {None, *read.values()}}
        for row in members:
            results[row] = (measured[read.get(row)], asked)
    return results


def _of_row(
    comparison: Comparison, group: Measured, votes: Counter[str], answer: str | None
) -> Measured:
    """The group's numbers with those of a row that gives an answer, which is no vote for itself."""
    if answer is None or group.majority is None:
        return group
    degrees = {other: comparison.agreement(other, answer) for other in votes}
    others = [
        (degree, votes[other] - (other == answer))
        for other, degree in sorted(degrees.items())
        if degree is not None
    ]
    number = sum(weight for _, weight in others)
    of_majority = comparison.agreement(group.majority, answer)
    return group._replace(
        agreement=sum(d * weight for d, weight in others) / number if number else None,
        is_majority=None if of_majority is None else of_majority >= comparison.threshold,
    )
