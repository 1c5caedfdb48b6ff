"""Rows as a judge sees them: the text before an answer, and the answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import polars as pl

from schemas.records import prompt_id
from schemas.turns import View, turn_text


@dataclass(frozen=True)
class Exchange:
    """An answer with all that precedes it in its conversation.

    Attributes:
        row: The position of the row.
        conversation: The turns before the answer, as text.
        response: The answer.
        prompt: An id that answers to the same prompt share.
        request: The last turn of the user before the answer.
        instruction: The same where nothing but a system prompt stands before it; else the turns
            before the answer, without the system prompt, as text.
    """

    row: int
    conversation: str
    response: str
    prompt: str
    request: str
    instruction: str


def exchanges(
    rows: pl.DataFrame, view: View = "calls", *, all_answers: bool = False
) -> list[Exchange]:
    """The last exchange of each row that has an answer, or one for each of its answers.

    Args:
        rows: Records; a turn is shown in the view, and with `all` the tools' definitions first.
        view: What of a turn is shown.
        all_answers: One for each request that was answered, its last answer: calls of tools on
            the way to it are no answers of their own.

    >>> turns = [("user", "Why?"), ("assistant", "Because.")]
    >>> messages = [{"role": role, "content": content} for role, content in turns]
    >>> (one,) = exchanges(pl.DataFrame({"messages": [messages]}))
    >>> one.row, one.conversation, one.response
    (0, 'User:\\nWhy?\\n\\n', 'Because.')
    >>> one.request == one.instruction == "Why?"
    True
    """
    result = []
    tools = rows["tools"].to_list() if "tools" in rows.columns else [None] * len(rows)
    for row, messages in enumerate(rows["messages"].to_list()):
        turns = [(m["role"], turn_text(m, view)) for m in messages or ()]
        answers = [i for i, (role, text) in enumerate(turns) if role == "assistant" and text]
        for i in _last_of_each_request(turns, {*answers}) if all_answers else answers[-1:]:
            defined = [("tools", str(tools[row]))] if view == "all" and tools[row] else []
            shown = [*defined, *turns[:i]]
            prompt = prompt_id(messages[: i + 1], tools[row])
            asked = _request(turns[:i]), _instruction(shown)
            result.append(Exchange(row, _as_text(shown), turns[i][1], prompt, *asked))
    return result


def _last_of_each_request(turns: Sequence[tuple[str, str]], answers: Collection[int]) -> list[int]:
    """The last answer behind each user's turn that has one before the next."""
    last: dict[int, int] = {}
    request = None
    for i, (role, _) in enumerate(turns):
        if role == "user":
            request = i
        elif request is not None and i in answers:
            last[request] = i
    return list(last.values())


def _as_text(turns: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{role.capitalize()}:\n{text}\n\n" for role, text in turns)


def _request(turns: Sequence[tuple[str, str]]) -> str:
    return next((text for role, text in reversed(turns) if role == "user"), "")


def _instruction(shown: Sequence[tuple[str, str]]) -> str:
    turns = [(role, text) for role, text in shown if role != "system"]
    return turns[0][1] if [role for role, _ in turns] == ["user"] else _as_text(turns).strip()


def pairs_of_a_prompt(
    candidates: Sequence[Exchange], max_pairs: int | None
) -> list[tuple[Exchange, Exchange]]:
    """All pairs of answers to one prompt, at most the first `max_pairs` of each prompt."""
    by_prompt: dict[str, list[Exchange]] = {}
    for exchange in candidates:
        by_prompt.setdefault(exchange.prompt, []).append(exchange)
    groups = by_prompt.values()
    return [pair for group in groups for pair in islice(combinations(group, 2), max_pairs)]


def answers_by_prompt(
    prompts: Sequence[Exchange], reference_answers: pl.DataFrame, view: View = "calls"
) -> dict[str, Exchange]:
    """The reference answer to each prompt that has one; of several the first by id.

    Args:
        prompts: The exchanges whose prompts count.
        reference_answers: Records.
        view: What of a turn is shown.
    """
    needed = {exchange.prompt for exchange in prompts}
    answers: dict[str, Exchange] = {}
    for exchange in exchanges(reference_answers, view):
        if exchange.prompt in needed:
            answers.setdefault(exchange.prompt, exchange)
    return answers
