"""A failing answer against its own refinement, which is searched for as a tree.

SPaR: Self-Play with Tree-Search Refinement to Improve Instruction-Following in Large Language
Models (Cheng et al. 2024, arXiv:2412.11605; thu-coai/SPaR). As in the paper: several votes of a
judge say whether an answer follows the instruction; of one failing answer the model writes
refinements, the best of which are refined again, until one passes. Such pairs differ in what
decides and not in style or content. As in the authors' code: five votes at temperature 0.7,
three refinements of each of two answers, three levels deep, passing above one half. Ours: the
wording, and which failing answer is refined is drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Request
from pipeline.types import Count, option_group
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate.pairs.candidates import Writer, conversation
from stages.generate.pairs.proposals import (
    Answer,
    Drawn,
    Proposal,
    by_prompt,
    paired,
    without_pair,
)

PROMPTS: Final = Prompts(__file__)

MAX_TOKENS: Final = 4
"""Of a vote."""

TEMPERATURE: Final = 0.7
"""Of the votes."""

PASSING: Final = 0.5
"""The share of votes for an answer that must be exceeded."""


@option_group
class SPaR:
    """A failing answer to each prompt against a refinement of it that passes (SPaR).

    A vote that is neither yes nor no does not count. Drops a prompt as `no_negative` (all
    answers pass), `undecided` (no answer fails, and one has as many votes for as against it),
    `unreadable` (no answer fails, and of one no vote can be read; or no refinement),
    `refinement_cut`, or `no_refinement`.

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


class Vote(NamedTuple):
    """What the votes say of an answer.

    Attributes:
        answer: The answer, its score being the share of votes for it; None without any.
        journal: The keys of the votes.
        error: Why one was not given.
        rejection: Why none of them can be read.
    """

    answer: Answer
    journal: list[str]
    error: str | None
    rejection: Rejection | None


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
        unread: Why the first refinement that is none cannot be read.
    """

    original: Answer
    frontier: list[Answer]
    journal: list[str] = field(default_factory=list)
    refined: Answer | None = None
    level: int = 0
    error: str | None = None
    unread: Rejection | None = None


def spar_pairs(
    writer: Writer, answers: Sequence[Answer], method: SPaR, drawn: Drawn
) -> list[Proposal]:
    """The proposals of `SPaR`.

    Args:
        writer: The model, which refines and judges.
        answers: All answers.
        method: The options of the method.
        drawn: Decides which failing answer is refined.
    """
    proposals: list[Proposal] = []
    searches = []
    votes = _votes(writer, answers, method.votes)
    of = {vote.answer.id: vote for vote in votes}
    for group in by_prompt([vote.answer for vote in votes]).values():
        failing = [a for a in group if a.score is not None and a.score < PASSING]
        if failing and not any(of[answer.id].error for answer in group):
            first = min(failing, key=lambda answer: (drawn(answer.id), answer.id))
            searches.append(Search(first, [first], list(of[first.id].journal)))
        else:
            proposals.append(_without_search([of[answer.id] for answer in group]))
    for level in range(1, method.depth + 1):
        open_ = [search for search in searches if not search.refined and not search.error]
        _refine(open_, writer, method, level)
    return proposals + [_proposal(search) for search in searches]


def _without_search(votes: Sequence[Vote]) -> Proposal:
    """The proposal of a prompt of which no answer is refined."""
    group = [vote.answer for vote in votes]
    error = next((vote.error for vote in votes if vote.error), None)
    unread = next((vote.rejection for vote in votes if vote.rejection), None)
    if error is not None:
        proposal = Proposal(group[0], None, [answer.id for answer in group], error=error)
    elif unread is not None:
        proposal = without_pair(group, unread[0], **unread[1])
    else:
        passes = all((answer.score or 0) > PASSING for answer in group)
        proposal = without_pair(group, "no_negative" if passes else "undecided")
    proposal.journal = [key for vote in votes for key in vote.journal]
    return proposal


def _votes(writer: Writer, answers: Sequence[Answer], number: int) -> list[Vote]:
    """What so many votes say of each answer."""
    decoding = Decoding(writer.judge_max_tokens, TEMPERATURE, choice=("yes", "no"))
    requests = []
    for answer in answers:
        shown = PROMPTS.render("verdict", conversation=conversation(answer), answer=answer.text)
        prompt = (("user", shown),)
        requests += [Request(prompt, decoding, writer.seed, vote) for vote in range(number)]
    completions = ask(writer.engine, requests, repair=False)
    votes = []
    for at, answer in enumerate(answers):
        own = completions[at * number : (at + 1) * number]
        said = [vote.value == "yes" for vote in own if vote.readable]
        votes.append(
            Vote(
                replace(answer, score=sum(said) / len(said) if said else None),
                [key for vote in own for key in vote.journal],
                next((vote.error for vote in own if vote.error is not None), None),
                None if said else next((vote.rejection for vote in own if vote.rejection), None),
            )
        )
    return votes


def _refine(searches: Sequence[Search], writer: Writer, method: SPaR, level: int) -> None:
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
    texts = writer.texts(prompts, numbers)
    written_by: list[tuple[Search, Answer]] = []
    for (search, node, _), text in zip(nodes, texts, strict=True):
        search.journal += text.journal
        search.error = search.error or text.error
        search.unread = search.unread or text.rejection
        if text.readable:
            written_by.append((search, writer.written(node, text)))
    votes = _votes(writer, [answer for _, answer in written_by], method.votes)
    for search in searches:
        search.frontier = []
    for (search, _), vote in zip(written_by, votes, strict=True):
        search.journal += vote.journal
        search.error = search.error or vote.error
        search.unread = search.unread or vote.rejection
        if vote.answer.score is not None:
            search.frontier.append(vote.answer)
    for search in searches:
        search.frontier.sort(key=lambda answer: -(answer.score or 0.0))
        del search.frontier[method.keep :]
        best = search.frontier[0] if search.frontier else None
        if best is not None and (best.score or 0.0) > PASSING:
            search.refined, search.level = best, level


def _proposal(search: Search) -> Proposal:
    if search.error is not None:
        proposal = Proposal(search.original, None, (search.original.id,), error=search.error)
    elif search.refined is None and search.unread and not search.frontier:
        reason, evidence = search.unread
        reason = "refinement_cut" if reason == "cut" else reason
        proposal = without_pair([search.original], reason, **evidence)
    elif search.refined is None:
        proposal = without_pair([search.original], "no_refinement")
    else:
        proposal = paired(search.refined, search.original, level=search.level)
    proposal.journal = search.journal
    return proposal
