"""The first wrong step of a solution against a continuation that leads to the answer.

Self-Explore: Enhancing Mathematical Reasoning in Language Models with Fine-grained Rewards (Hwang
et al. 2024, arXiv:2404.10346; hbin0701/Self-Explore). As in the paper: from every beginning of a
wrong solution the model goes on several times; the first pit is the first step after which it
never reaches the right answer. The prompt of the pair is the question with the steps before the
pit, rejected is that one step, and chosen the shortest continuation from there that is right. As
in the authors' code: four continuations at temperature 0.7, of 20 steps at most, and of the wrong
solutions the one that is farthest from a right one. Ours: a step is a line, and the wording of
the request to go on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from pipeline.models.ask import ParsedCompletion
from pipeline.types import Count, option_group
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._selection.scores import Expression
from stages.generate.pairs.candidates import Writer, conversation, written
from stages.generate.pairs.proposals import (
    Answer,
    Proposal,
    by_prompt,
    paired,
    without_pair,
)

PROMPTS: Final = Prompts(__file__)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression, got {text!r} ({error})") from None
    return text


@option_group
class FirstPit:
    """The first wrong step against a right continuation (Self-Explore).

    Drops a prompt as `unverified`, `no_positive`, `no_negative`, `no_final_answer` (the right
    solution has none) or `no_pit` (the model reaches the answer from every step).

    Args:
        correct: A column of booleans, or an SQL expression that gives them.
        continuations: Continuations from every step.
        max_steps: Steps of the wrong solution, at most.
        final_answer: A regular expression whose last match is a solution's final answer.
    """

    name: Literal["first_pit"] = "first_pit"
    correct: Expression
    continuations: Count = 4
    max_steps: Count = 20
    final_answer: Annotated[str, AfterValidator(_pattern)] = r"-?\d+(?:[.,]\d+)*"


@dataclass
class Search:
    """The search for the pit of one wrong solution.

    Attributes:
        right: A right solution.
        wrong: The wrong one.
        steps: The steps of the wrong one.
        reached: For each step the continuations after it that are right.
        unread: For each step why its continuations cannot be read, where none can.
        journal: The keys of all completions.
        error: Why the search failed.
    """

    right: Answer
    wrong: Answer
    steps: list[str]
    reached: list[list[ParsedCompletion]] = field(default_factory=list)
    unread: list[Rejection | None] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    error: str | None = None


def first_pit_pairs(writer: Writer, answers: Sequence[Answer], method: FirstPit) -> list[Proposal]:
    """The proposals of `FirstPit`.

    Args:
        writer: The model that goes on.
        answers: All answers; their score is 1 for a correct one, 0 for an incorrect one.
        method: The options of the method.
    """
    proposals: list[Proposal] = []
    searches = []
    for group in by_prompt(answers).values():
        right = sorted((a for a in group if a.score == 1), key=lambda a: (len(a.text), a.id))
        wrong = [answer for answer in group if answer.score == 0]
        if not right or not wrong:
            reason = "no_negative" if right else "no_positive" if wrong else "unverified"
            proposals.append(without_pair(group, reason))
        elif _final(right[0].text, method) is None:
            proposals.append(without_pair(right[:1], "no_final_answer"))
        else:
            other = _farthest(right[0], wrong)
            lines = [line for line in other.text.split("\n") if line.strip()]
            searches.append(Search(right[0], other, lines[: method.max_steps]))
    _explore(searches, writer, method)
    return proposals + [_proposal(search, writer) for search in searches]


def _farthest(answer: Answer, others: Sequence[Answer]) -> Answer:
    from rapidfuzz.distance import Levenshtein

    return max(others, key=lambda o: Levenshtein.normalized_distance(answer.text, o.text))


def _final(text: str, method: FirstPit) -> str | None:
    matches = [match[0] for match in re.finditer(method.final_answer, text)]
    return matches[-1] if matches else None


def _explore(searches: Sequence[Search], writer: Writer, method: FirstPit) -> None:
    """Go on from every step of every wrong solution, and note what reaches the answer.

    A continuation that ended on its length did not; one that cannot be read says nothing.
    """
    nodes = [
        (search, step, number)
        for search in searches
        for step in range(1, len(search.steps) + 1)
        for number in range(method.continuations)
    ]
    prompts = []
    for search, step, _ in nodes:
        shown = "\n".join(search.steps[:step])
        asked = conversation(search.wrong)
        prompts.append((("user", PROMPTS.render("continue", conversation=asked, steps=shown)),))
    texts = writer.texts(prompts, [number for _, _, number in nodes])
    for search in searches:
        search.reached = [[] for _ in search.steps]
        search.unread = [None for _ in search.steps]
    read = {(id(s), step) for (s, step, _), t in zip(nodes, texts, strict=True) if _says(t)}
    for (search, step, _), text in zip(nodes, texts, strict=True):
        search.journal += text.journal
        search.error = search.error or text.error
        if (id(search), step) not in read:
            search.unread[step - 1] = search.unread[step - 1] or text.rejection
        elif text.readable and _final(text.value, method) == _final(search.right.text, method):
            search.reached[step - 1].append(text)


def _says(text: ParsedCompletion) -> bool:
    return text.readable or (text.rejection is not None and text.rejection[0] == "cut")


def _proposal(search: Search, writer: Writer) -> Proposal:
    pit = next((at for at, texts in enumerate(search.reached) if not texts), None)
    both = [search.right, search.wrong]
    if search.error is not None:
        proposal = Proposal(search.wrong, None, [a.id for a in both], error=search.error)
    elif pit is None:
        proposal = without_pair(both, "no_pit", steps=len(search.steps))
    elif unread := search.unread[pit]:
        proposal = without_pair(both, unread[0], **unread[1])
    else:
        before = search.steps[:pit]
        asked = search.wrong.prompt[-1]
        content = "\n\n".join([asked["content"], *(["\n".join(before)] if before else [])])
        prompt = [*search.wrong.prompt[:-1], {**asked, "content": content}]
        chosen = written(search.right, search.right.text)
        if pit:
            shortest = min(search.reached[pit - 1], key=lambda text: len(text.value))
            chosen = writer.written(search.right, shortest)
        chosen = replace(chosen, prompt=prompt)
        rejected = replace(written(search.wrong, search.steps[pit]), prompt=prompt)
        proposal = paired(chosen, rejected, step=pit + 1)
    proposal.journal = search.journal
    return proposal
