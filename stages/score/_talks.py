"""Rows as a judge sees them: a text before an answer, the answer, and which answers compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import polars as pl

from schemas.records import prompt_id


@dataclass(frozen=True)
class Talk:
    """A row as a judge sees it: the turns before an answer, as text, and the answer.

    row: its position; prompt: what answers to the same prompt share.
    """

    row: int
    conversation: str
    response: str
    prompt: str


def talks(rows: pl.DataFrame, every: bool = False) -> list[Talk]:
    """The last answer of each row with what was said before it, or every answer."""
    found = []
    for place, messages in enumerate(rows["messages"].to_list()):
        turns = [(m["role"], m["content"] or "") for m in messages or ()]
        answers = [i for i, (role, text) in enumerate(turns) if role == "assistant" and text]
        for i in answers if every else answers[-1:]:
            told = "".join(f"{role.capitalize()}:\n{text}\n\n" for role, text in turns[:i])
            found.append(Talk(place, told, turns[i][1], prompt_id(messages[: i + 1])))
    return found


def pairs_of(of: Sequence[Talk], most: int | None) -> list[tuple[Talk, Talk]]:
    """All pairs of answers to one prompt, or the first few."""
    by_prompt: dict[str, list[Talk]] = {}
    for talk in of:
        by_prompt.setdefault(talk.prompt, []).append(talk)
    return [pair for group in by_prompt.values() for pair in islice(combinations(group, 2), most)]


def answers_of(of: Sequence[Talk], against: pl.DataFrame) -> dict[str, Talk]:
    """By prompt the other model's answer, the first by id, where there is one of these prompts."""
    wanted = {talk.prompt for talk in of}
    others: dict[str, Talk] = {}
    for talk in talks(against):
        if talk.prompt in wanted:
            others.setdefault(talk.prompt, talk)
    return others
