"""Demonstrations against a model's own answers, and later answers against earlier ones.

DITTO: Show, Don't Tell: Aligning Language Models with Demonstrated Feedback (Shaikh et al. 2024,
arXiv:2406.00888; SALT-NLP/demonstrated-feedback). As in the paper: few demonstrations; a
demonstration is better than any sample, and a later model's sample than an earlier one's. As in
the authors' code: of the pairs, 70% set a demonstration against a sample of the current round,
20% against one of an earlier round, 10% a later sample against an earlier one. Ours: shares of
kinds that do not occur go to the others. Training between the rounds, which the authors do every
ten steps, is the recipe's: `train.preference`, `generate.respond`, and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pipeline.types import Count, option_group
from stages.generate.pairs.proposals import (
    Answer,
    Drawn,
    Proposal,
    by_prompt,
    paired,
    without_pair,
)

SHARES: Final = {"current": 0.7, "earlier": 0.2, "rounds": 0.1}


@option_group
class Ditto:
    """Demonstrations (`rows`) against samples (`others`) of several rounds of training.

    A demonstration whose prompt has no sample is dropped as `no_sample`. Where a kind of pair
    has too few for its share, fewer of all kinds are drawn; the share of a kind that does not
    occur, as in the first round, goes to the others.

    Args:
        round: The column with the number of each sample's round.
        num_pairs: Pairs to draw, at most; null for as many as the shares allow.
    """

    name: Literal["ditto"] = "ditto"
    round: str = "round"
    num_pairs: Count | None = None


def ditto_pairs(
    demonstrations: Sequence[Answer],
    samples: Sequence[Answer],
    method: Ditto,
    drawn: Drawn,
) -> list[Proposal]:
    """The proposals of `Ditto`.

    Args:
        demonstrations: The demonstrations.
        samples: The samples; their score is the number of their round.
        method: The options of the method.
        drawn: Decides which pairs are taken.
    """
    groups = by_prompt(samples)
    kinds: dict[str, list[tuple[Answer, Answer]]] = {name: [] for name in SHARES}
    proposals = []
    last = max((sample.score or 0.0 for sample in samples), default=0.0)
    for demonstration in demonstrations:
        of_prompt = groups.get(demonstration.key, [])
        if not of_prompt:
            proposals.append(without_pair([demonstration], "no_sample"))
        for sample in of_prompt:
            kind = "current" if sample.score == last else "earlier"
            kinds[kind].append((demonstration, sample))
    for group in groups.values():
        kinds["rounds"] += [
            (one, other)
            for one in group
            for other in group
            if (one.score or 0) > (other.score or 0)
        ]
    for kind, number in _numbers(kinds, method.num_pairs).items():
        order = sorted(kinds[kind], key=lambda pair: drawn(f"{pair[0].id} {pair[1].id}"))
        proposals += [_pair(kind, *pair) for pair in order[:number]]
    return proposals


def _numbers(kinds: dict[str, list[Any]], num_pairs: int | None) -> dict[str, int]:
    """How many pairs of each kind are taken."""
    present = {kind: share for kind, share in SHARES.items() if kinds[kind]}
    whole = sum(present.values())
    most = min((len(kinds[kind]) * whole / share for kind, share in present.items()), default=0)
    total = most if num_pairs is None else min(most, num_pairs)
    return {kind: round(total * share / whole) for kind, share in present.items()}


def _pair(kind: str, chosen: Answer, rejected: Answer) -> Proposal:
    proposal = paired(chosen, rejected, kind=kind, rounds=[chosen.score, rejected.score])
    proposal.margin = None
    return proposal
