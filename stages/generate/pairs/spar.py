"""A failing answer against its own refinement, which is searched for as a tree.

SPaR (Cheng et al. 2024, arXiv:2412.11605): several votes of a judge say whether an answer
follows the instruction; of one failing answer the model writes refinements, the best of which
are refined again, until one passes. Such pairs differ in what decides and not in style or
content. The numbers are the authors' code's: five votes at temperature 0.7, three refinements
of each of two answers, three levels deep, passing above one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.types import Count, option_group
from stages._llm.prompts import Prompts
from stages.generate.pairs.candidates import ask_texts, conversation, written
from stages.generate.pairs.proposals import (
    Answer,
    Drawn,
    Proposal,
    by_prompt,
    paired,
    without_pair,
)

PROMPTS: Final = Prompts(__file__)

VERDICT: Final = Decoding(max_tokens=4, temperature=0.7, choice=("yes", "no"))
"""How the judge votes. A vote that is neither does not count."""

PASSING: Final = 0.5
"""The share of votes for an answer that must be exceeded."""


@option_group
class SPaR:
    """A failing answer to each prompt against a refinement of it that passes (SPaR).

    Drops a prompt as `no_negative` (all answers pass), `undecided` (no answer fails, and one
    has as many votes for as against it, or none), or `no_refinement`.

    Args:
        votes: Votes of the judge on each answer.
        branches: Refinements of each answer.
        keep: Answers of each level that are refined further.
        depth: Levels of refinements, at most.
    """

    name: Literal["spar"] = "spar"
    votes: Count = 5
    branches: Count = 3
    keep: Count = 2
    depth: Count = 3


@dataclass
class Search:
    """The search for a refinement of one answer.

    Attributes:
        original: The failing answer.
        frontier: The answers that are refined next.
        journal: The keys of all completions of the search.
        refined: The refinement that passes.
        level: At which level it was written.
        error: Why the search failed.
    """

    original: Answer
    frontier: list[Answer]
    journal: list[str] = field(default_factory=list)
    refined: Answer | None = None
    level: int = 0
    error: str | None = None


def spar_pairs(
    engine: Engine,
    answers: Sequence[Answer],
    method: SPaR,
    decoding: Decoding,
    seed: int,
    drawn: Drawn,
) -> list[Proposal]:
    """The proposals of `SPaR`.

    Args:
        engine: The model, which refines and judges.
        answers: All answers.
        method: The options of the method.
        decoding: How the model refines.
        seed: Seed of the sampling.
        drawn: Decides which failing answer is refined.
    """
    proposals: list[Proposal] = []
    searches = []
    voted, journals, errors = _votes(engine, answers, method.votes, seed)
    journal_of = {answer.id: journal for answer, journal in zip(voted, journals, strict=True)}
    error_of = {answer.id: error for answer, error in zip(voted, errors, strict=True)}
    for group in by_prompt(voted).values():
        failing = [a for a in group if a.score is not None and a.score < PASSING]
        if error := next(filter(None, (error_of[answer.id] for answer in group)), None):
            proposal = Proposal(group[0], None, [answer.id for answer in group], error=error)
        elif failing:
            first = min(failing, key=lambda answer: (drawn(answer.id), answer.id))
            searches.append(Search(first, [first], list(journal_of[first.id])))
            continue
        else:
            passes = all((answer.score or 0) > PASSING for answer in group)
            proposal = without_pair(group, "no_negative" if passes else "undecided")
        proposal.journal = [key for answer in group for key in journal_of[answer.id]]
        proposals.append(proposal)
    for level in range(1, method.depth + 1):
        _refine([s for s in searches if not s.refined and not s.error], engine, method,
                decoding, seed, level)  # fmt: skip
    return proposals + [_proposal(search) for search in searches]


def _votes(
    engine: Engine, answers: Sequence[Answer], votes: int, seed: int
) -> tuple[list[Answer], list[list[str]], list[str | None]]:
    """The answers with the share of votes for them, and of each the journal and the error."""
    requests = []
    for answer in answers:
        shown = PROMPTS.render("verdict", conversation=conversation(answer), answer=answer.text)
        requests += [Request((("user", shown),), VERDICT, seed, vote) for vote in range(votes)]
    completions = ask(engine, requests, repair=False)
    voted, journals, errors = [], [], []
    for at, answer in enumerate(answers):
        own = completions[at * votes : (at + 1) * votes]
        said = [vote.value == "yes" for vote in own if vote.readable]
        failed = [vote.error for vote in own if vote.error is not None]
        voted.append(replace(answer, score=sum(said) / len(said) if said else None))
        journals.append([key for vote in own for key in vote.journal])
        errors.append(failed[0] if failed else None)
    return voted, journals, errors


def _refine(
    searches: Sequence[Search],
    engine: Engine,
    method: SPaR,
    decoding: Decoding,
    seed: int,
    level: int,
) -> None:
    """One level of all searches: refinements, votes on them, and which go on."""
    nodes = [
        (search, node, branch)
        for search in searches
        for node in search.frontier
        for branch in range(method.branches)
    ]
    prompts = [
        (("user", PROMPTS.render("refine", conversation=conversation(n), answer=n.text)),)
        for _, n, _ in nodes
    ]
    numbers = [branch for _, _, branch in nodes]
    texts = ask_texts(engine, prompts, decoding, seed, numbers)
    written_by: list[tuple[Search, Answer]] = []
    for (search, node, _), text in zip(nodes, texts, strict=True):
        search.journal += text.journal
        if text.error is not None:
            search.error = text.error
        elif text.value and text.completion.finish_reason != "length":
            written_by.append((search, written(node, text.value)))
    voted, journals, errors = _votes(engine, [a for _, a in written_by], method.votes, seed)
    for search in searches:
        search.frontier = []
    for (search, _), answer, journal, error in zip(
        written_by, voted, journals, errors, strict=True
    ):
        search.journal += journal
        search.error = search.error or error
        search.frontier.append(answer)
    for search in searches:
        search.frontier.sort(key=lambda answer: -(answer.score or 0.0))
        del search.frontier[method.keep :]
        best = search.frontier[0] if search.frontier else None
        if best is not None and (best.score or 0.0) > PASSING:
            search.refined, search.level = best, level


def _proposal(search: Search) -> Proposal:
    if search.error is not None:
        proposal = Proposal(search.original, None, (search.original.id,), error=search.error)
    elif search.refined is None:
        proposal = without_pair([search.original], "no_refinement")
    else:
        proposal = paired(search.refined, search.original, level=search.level)
    proposal.journal = search.journal
    return proposal
