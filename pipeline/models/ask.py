"""Requests in more than one step: retried with a larger limit, or repaired once.

A stage calls `Engine.generate` for a single step, and `ask` when a truncated answer
deserves a larger limit, or when the answer must have a form. Engines that can restrict
the sampling to a form know it from the request (`Decoding.choice`, `json_schema`). The
answer is parsed and checked here, whichever engine gave it, so a replay does not need to
know that engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.models.base import Completion, Engine, Request
from pipeline.models.structured_output import Parser, Unreadable, parser_for


@dataclass
class ParsedCompletion:
    """The result of a request and its retries.

    Args:
        request: The last request that was sent with the original prompt.
        completion: The last completion.
        journal: The keys of all completions that led to it, in order.
        value: What was parsed from it; None where there is an error.
        error: Why there is no value.
    """

    request: Request
    completion: Completion
    journal: list[str]
    value: Any = None
    error: str | None = None


def ask(
    engine: Engine,
    requests: Sequence[Request],
    *,
    parse: Parser | None = None,
    retry_max_tokens: Sequence[int] = (),
    repair: bool = True,
) -> list[ParsedCompletion]:
    """Send requests and parse the answers.

    Args:
        engine: The language model.
        requests: The requests.
        parse: From text to value, raising `Unreadable`. By default what each request's own
            decoding says: one of its choices, JSON of its schema, or the text as it is.
        retry_max_tokens: Increasing limits in tokens: an answer that was truncated is
            requested again with the next limit. One that is truncated at the last limit
            is parsed as it is.
        repair: Whether an unreadable answer is shown to the model once, with the reason,
            for a better one.

    Returns:
        One result for each request, in order.

    Raises:
        UserError: See `Engine.generate`.
    """
    answers = _send(engine, requests)
    for limit in retry_max_tokens:
        _retry_truncated(engine, answers, limit)
    for answer in answers:
        _parse(answer, parse)
    if repair:
        _repair(engine, [a for a in answers if a.error and _is_complete(a)], parse)
    return answers


def _send(engine: Engine, requests: Sequence[Request]) -> list[ParsedCompletion]:
    if not requests:
        return []
    completions = engine.generate(requests)
    return [
        ParsedCompletion(request, completion, [completion.key])
        for request, completion in zip(requests, completions, strict=True)
    ]


def _retry_truncated(engine: Engine, answers: Sequence[ParsedCompletion], limit: int) -> None:
    """Request truncated answers again with a larger limit."""
    truncated = [
        answer
        for answer in answers
        if answer.completion.finish_reason == "length"
        and answer.request.decoding.max_tokens < limit
    ]
    retries = [
        replace(a.request, decoding=replace(a.request.decoding, max_tokens=limit))
        for a in truncated
    ]
    for answer, new in zip(truncated, _send(engine, retries), strict=True):
        if new.completion.error is None:
            answer.request, answer.completion = new.request, new.completion
            answer.journal += new.journal


def _parse(answer: ParsedCompletion, parse: Parser | None) -> None:
    completion = answer.completion
    answer.value, answer.error = None, completion.error
    if answer.error is not None:
        return
    try:
        answer.value = (parse or parser_for(answer.request.decoding))(completion.text)
    except Unreadable as error:
        cut = f" (cut at {completion.completion_tokens} tokens)" * (not _is_complete(answer))
        answer.error = f"unreadable: {error}{cut}"


def _is_complete(answer: ParsedCompletion) -> bool:
    """Whether there is a complete answer, which can be repaired."""
    return answer.completion.finish_reason == "stop"


def _repair(engine: Engine, unreadable: Sequence[ParsedCompletion], parse: Parser | None) -> None:
    """Show the model its answers with what is wrong with them, once."""
    repairs = [replace(answer.request, prompt=_repair_prompt(answer)) for answer in unreadable]
    for answer, new in zip(unreadable, _send(engine, repairs), strict=True):
        answer.journal += new.journal
        if new.completion.error is None:
            answer.completion = new.completion
            _parse(answer, parse)


def _repair_prompt(answer: ParsedCompletion) -> str | tuple[tuple[str, str], ...]:
    # This text enters the keys of requests: a change would send all repairs again.
    why = (answer.error or "").removeprefix("unreadable: ")
    plea = f"That cannot be used: {why}. Answer again, with nothing else."
    prompt, text = answer.request.prompt, answer.completion.text
    if isinstance(prompt, str):
        return f"{prompt}{text}\n\n{plea}\n\n"
    reply = (("assistant", text),) if text.strip() else ()
    return (*prompt, *reply, ("user", plea))
